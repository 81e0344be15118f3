"""The scripted teacher plays all five prompts, for the product's templates and the sandbox's, over real HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from data_catalog.records import Completion, Item, Request, RequestFailure
from generators.engine import answer_all
from generators.filters import CurateReport, Curator
from generators.prompts import VARIABLES, load_template
from generators.recipes import build_requests, parse
from generators.specs import CurateSpec, RecipeSpec, TeacherSpec
from generators.teacher import OpenAITeacher
from tests.generators.helpers import count_words, cut, handbook
from tests.scripted_server import ScriptedServer, ScriptedTeacher

SANDBOX = Path(__file__).parents[2] / "examples" / "sandbox" / "templates"
SANDBOX_TEMPLATES = {kind: tuple(str(path) for path in sorted((SANDBOX / kind).glob("*.jinja"))) for kind in VARIABLES}


class Memory:
    """A store in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Completion] = {}

    def answered(self, keys: Sequence[str]) -> Mapping[str, Completion]:
        return {key: self.kept[key] for key in keys if key in self.kept}

    def add_completions(self, requests: Sequence[Request], completions: Sequence[Completion]) -> None:
        self.kept.update((completion.request_key, completion) for completion in completions)

    def request_failures(self, keys: Sequence[str]) -> Sequence[RequestFailure]:
        return ()

    def add_request_failures(self, requests: Sequence[Request], failures: Sequence[RequestFailure]) -> None:
        assert not failures, "this teacher answers everything"


def generate(
    server: ScriptedServer, store: Memory, language: str, paths: Mapping[str, tuple[str, ...]]
) -> CurateReport:
    document = handbook()
    chunks = cut(document)
    teacher = OpenAITeacher(TeacherSpec(model=server.model), server.base_url, server.model, "scripted-1")

    def ask(requests: Sequence[Request]) -> Mapping[str, Completion]:
        return answer_all(requests, teacher, store, batch_size=8).completions

    items: list[Item] = []
    for recipe in ("grounded_qa", "paraphrase", "unanswerable"):
        requests = build_requests(
            RecipeSpec.model_validate({"recipe": recipe, "language": language, "templates": paths.get(recipe, ())}),
            [document],
            chunks,
            teacher_fingerprint=teacher.fingerprint,
            count_tokens=count_words,
            context_tokens=500,
        )
        completions = ask(requests)
        for request in requests:
            item = parse(request, completions[request.key])
            assert isinstance(item, Item), item
            items.append(item)
    checks = {
        name: {"template": paths[kind][0]} for name, kind in (("judge", "judge"), ("round_trip", "answer")) if paths
    }
    spec = CurateSpec.model_validate({"language": language, **checks})
    return Curator(chunks, [document], spec, ask, [], teacher_fingerprint=teacher.fingerprint).curate(items)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_plays_the_products_prompts_through_the_whole_funnel(language: str) -> None:
    store = Memory()
    with ScriptedServer(ScriptedTeacher().answer) as server:
        report = generate(server, store, language, {})
        sent = len(server.received)
        assert report.unscored_ids == frozenset()
        # Two templates ask the same of each of six sentences: one of each pair is a duplicate, nothing else fails.
        assert {v.check for v in report.verdicts if v.item_id in report.rejected_ids and v.reason} == {"duplicate@1"}
        assert len(report.accepted_ids) == 6 + 6 + 1
        assert generate(server, store, language, {}) == report
        assert len(server.received) == sent == len(server.answered)


def test_it_plays_the_sandboxs_prompts(tmp_path: Path) -> None:
    templates = [load_template(path, kind, "en") for kind, paths in SANDBOX_TEMPLATES.items() for path in paths]
    with ScriptedServer(ScriptedTeacher(templates).answer) as server:
        report = generate(server, Memory(), "en", SANDBOX_TEMPLATES)
    assert len(report.accepted_ids) >= 6 + 6 + 1
    assert report.unscored_ids == frozenset()
