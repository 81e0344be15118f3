"""Answers judged over HTTP by a scripted judge: asked once, read, scored; biases and people's labels are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.errors import ConfigError
from data_catalog.records import Completion
from evaluation.specs import SuiteSpec
from evaluation.suites import Suite, load_suite, requests
from flows import model_steps
from flows.config_file import load_config
from flows.context import RunContext
from flows.judging import introduce_judges
from flows.model_steps import StudentModel
from flows.progress import SilentReporter
from flows.teacher import LazyTeacher
from tests.flows.projects import write_project
from tests.scripted_server import Body, ScriptedServer, ScriptedTeacher


class Notes(SilentReporter):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@contextmanager
def project(folder: Path, server: ScriptedServer, *, own_judge: bool = False) -> Iterator[tuple[RunContext, Notes]]:
    """A project whose teacher is the server, and another model of that server its own judge."""
    path = write_project(folder, server.base_url)
    text = path.read_text(encoding="utf-8")
    judge = f'judges:\n  other: {{model: another, base_url: "{server.base_url}"}}\n' if own_judge else ""
    path.write_text(text + judge, encoding="utf-8")
    config, notes = load_config(path), Notes()
    with LazyTeacher(config.teacher, home=config.home, reporter=notes) as teacher:
        judges = {name: LazyTeacher(spec, home=config.home, reporter=notes) for name, spec in config.judges.items()}
        yield RunContext(config, Catalogue(config.home), teacher, notes, judges=judges), notes


def suite_of(folder: Path, scorer: dict[str, Any]) -> Suite:
    path = folder / "tone.jsonl"
    rows = [{"id": str(n), "question": f"Part {n}?", "answers": [f"part {n}"]} for n in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return load_suite("tone", SuiteSpec.model_validate({"path": path, "scorer": scorer}))


def answer(ctx: RunContext, suite: Suite, fingerprint: str, *texts: str) -> None:
    """Let a model have answered the suite already."""
    asked = requests(suite, fingerprint)
    given = [
        Completion(request_key=request.key, text=text, finish_reason="stop")
        for request, text in zip(asked, texts, strict=True)
    ]
    ctx.catalogue.add_completions(asked, given)


def test_a_pairwise_judge_holds_a_model_against_its_base(tmp_path: Path) -> None:
    with ScriptedServer(ScriptedTeacher().answer) as server, project(tmp_path, server) as (ctx, notes):
        suite = suite_of(tmp_path, {"name": "pairwise"})
        base, trained = model_steps.base_model(ctx), StudentModel("learn", tmp_path, "model-a")
        answer(ctx, suite, base.fingerprint, "no", "part 1", "no", "no")
        answer(ctx, suite, "model-a", "part 0", "no", "nor this", "no")
        scores = model_steps.evaluate(ctx, [suite], base)["tone"]
        assert [entry.score for entry in scores] == [0.5] * 4
        assert not server.prompts, "nobody is asked about equal answers"

        scores = model_steps.evaluate(ctx, [suite], trained)["tone"]
        assert [entry.score for entry in scores] == [1.0, 0.0, 0.5, 0.5]
        assert [entry.completion for entry in scores] == ["part 0", "no", "nor this", "no"]
        assert len(server.prompts) == 6, "three pairs in both orders"
        (told,) = notes.notes
        assert "judged 4 pairs: 1 won, 1 lost, 2 tied, 0 tied because" in told
        assert "50% of 4 replies prefer what is shown first" in told

        model_steps.evaluate(ctx, [suite], trained)
        assert len(server.prompts) == 6, "what was judged is kept"


def prefers_the_first(body: Body) -> str:
    return json.dumps({"reason": "It comes first.", "better": "first"})


def test_a_judge_that_prefers_the_first_place_decides_nothing(tmp_path: Path) -> None:
    with ScriptedServer(prefers_the_first) as server, project(tmp_path, server) as (ctx, notes):
        suite = suite_of(tmp_path, {"name": "pairwise", "against": "reference"})
        answer(ctx, suite, "model-a", "a", "b", "c", "d")
        scores = model_steps.evaluate(ctx, [suite], StudentModel("learn", tmp_path, "model-a"))["tone"]
        assert [entry.score for entry in scores] == [0.5] * 4
        assert "4 tied because the two orders disagree" in notes.notes[-1]
        assert "100% of 8 replies prefer what is shown first" in notes.notes[-1]


def test_a_reply_that_cannot_be_read_leaves_its_answer_unscored(tmp_path: Path) -> None:
    def judge(body: Body) -> str:
        return "I like it" if "Part 2?" in body["messages"][-1]["content"] else ScriptedTeacher().answer(body)

    with ScriptedServer(judge) as server, project(tmp_path, server) as (ctx, notes):
        suite = suite_of(tmp_path, {"name": "rubric", "scale": 3})
        answer(ctx, suite, "model-a", "part 0", "no", "part 2", "part 3")
        scores = model_steps.evaluate(ctx, [suite], StudentModel("learn", tmp_path, "model-a"))["tone"]
        assert [entry.score for entry in scores] == [1.0, 0.0, None, 1.0]
        assert "judged 4 answers, 1 unscored; length: points and words correlate by +1.00" in notes.notes[-1]


def test_people_and_the_teacher_as_judge_are_told_of(tmp_path: Path) -> None:
    human = tmp_path / "human.jsonl"
    rows = [("part 1", 5), ("no", 5), ("nor this", 1)]
    human.write_text(
        "\n".join(
            json.dumps({"question": "Part 1?", "answer": said, "points": points, "reference": "part 1"})
            for said, points in rows
        )
    )
    with ScriptedServer(ScriptedTeacher().answer) as server, project(tmp_path, server, own_judge=True) as (ctx, notes):
        introduce_judges(ctx, [suite_of(tmp_path, {"name": "rubric", "human": str(human)})])
        own, agreed = notes.notes
        assert "the judge is the teacher" in own
        assert "agrees with people on 2 of 3 labelled answers" in agreed
        notes.notes.clear()
        introduce_judges(ctx, [suite_of(tmp_path, {"name": "rubric", "judge": "other"})])
        assert notes.notes == []
        assert {body["model"] for body in server.received} == {"scripted"}

        suite = suite_of(tmp_path, {"name": "rubric", "judge": "other"})
        answer(ctx, suite, "model-a", "part 0", "no", "no", "no")
        model_steps.evaluate(ctx, [suite], StudentModel("learn", tmp_path, "model-a"))
        assert {body["model"] for body in server.received} == {"scripted", "another"}


def test_a_judge_that_is_not_there_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write_project(tmp_path, "http://127.0.0.1:1/v1")
    text = path.read_text(encoding="utf-8")
    scorer = "scorer: {name: rubric, judge: nobody, template: mine.jinja, human: labels.jsonl}"
    path.write_text(
        text.replace("{path: gold.jsonl, max_tokens: 16}", f"{{path: gold.jsonl, {scorer}}}")
        + 'judges:\n  teacher: {model: x, base_url: "http://127.0.0.1:1/v1"}\n',
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    for told in (
        "no judge named 'nobody'; there are: teacher",
        "no template at",
        "no file at",
        "`teacher` is the teacher itself",
    ):
        assert told in str(caught.value)
