"""What holds for every scorer, and how a suite's completions become scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import evaluation.scorers
from data_catalog.records import Completion, Outcome
from evaluation.scorers import ExactMatch, Scorer, ScorerSpec, score
from evaluation.scorers.parts import ReferenceScorer
from evaluation.scorers.stop import Stop
from evaluation.scorers.token_f1 import TokenF1
from evaluation.scoring import score_suite, score_templates, summarise
from evaluation.specs import SuiteSpec
from evaluation.suites import Suite, load_suite, requests_by_sample
from tests.evaluation.scored import sample

SCORERS: tuple[type[Scorer], ...] = get_args(get_args(ScorerSpec)[0])


def named(scorer: type[Scorer]) -> str:
    return str(scorer.model_fields["name"].default)


def test_every_scorer_has_a_file_of_its_name_and_is_in_the_union() -> None:
    helpers = {"__init__", "parts", "overlap", "quantities", "judged"}
    files = {path.stem for path in Path(evaluation.scorers.__file__ or "").parent.glob("*.py")} - helpers
    assert {scorer.__module__.rpartition(".")[2] for scorer in SCORERS} == files
    assert {named(scorer) for scorer in SCORERS} == files


@pytest.mark.parametrize("scorer", SCORERS, ids=named)
def test_a_name_alone_chooses_a_scorer(scorer: type[Scorer]) -> None:
    short = SuiteSpec.model_validate({"path": "x.jsonl", "scorer": named(scorer)})
    spelt_out = SuiteSpec.model_validate({"path": "x.jsonl", "scorer": {"name": named(scorer)}})
    assert short == spelt_out
    assert isinstance(short.scorer, scorer)


@pytest.mark.parametrize("wrong", ["f1", {"name": "numeric", "tolerence": 0.1}, {"tolerance": 0.1}])
def test_a_misspelt_scorer_or_parameter_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="scorer"):
        SuiteSpec.model_validate({"path": "x.jsonl", "scorer": wrong})


@pytest.mark.parametrize("scorer", SCORERS, ids=named)
def test_a_missing_completion_is_neither_right_nor_wrong(scorer: type[Scorer]) -> None:
    assert score(sample("x"), None, scorer.model_validate({})) == (Outcome.UNSCORED, None)


@pytest.mark.parametrize("scorer", [kind for kind in SCORERS if issubclass(kind, ReferenceScorer)], ids=named)
def test_a_scorer_of_references_refuses_samples_without_words(scorer: type[Scorer]) -> None:
    ready = scorer.model_validate({})
    assert ready.refusal(sample()) == f"scorer `{ready.name}` needs `answers`"
    assert "at least one word" in ready.refusal(sample("x", "?!"))
    assert ready.refusal(sample("x")) == ""


def numbers(folder: Path, **fields: Any) -> Suite:
    """Four questions, answered by 0 to 3."""
    path = folder / "suite.jsonl"
    path.write_text("\n".join(json.dumps({"question": f"Number {n}?", "answers": [str(n)]}) for n in range(4)))
    return load_suite("gold", SuiteSpec.model_validate({"path": path, **fields}))


def answered(suite: Suite, *texts: tuple[str | None, ...], finish: str = "stop") -> dict[str, Completion]:
    """The completions of a model that answered each sample with these texts, one per template; None: never."""
    groups = requests_by_sample(suite, "model-1")
    return {
        request.key: Completion(request_key=request.key, text=text, finish_reason=finish)
        for group, given in zip(groups, texts, strict=True)
        for request, text in zip(group, given, strict=True)
        if text is not None
    }


def test_a_suite_is_scored_in_order_with_missing_and_truncated_completions(tmp_path: Path) -> None:
    suite = numbers(tmp_path)
    completions = answered(suite, ("0",), ("7",), (None,), ("3",), finish="length")
    scores = score_suite(suite, "model-1", completions)
    assert [entry.outcome for entry in scores] == [Outcome.PASSED, Outcome.FAILED, Outcome.UNSCORED, Outcome.PASSED]
    assert [entry.sample_id for entry in scores] == [entry.id for entry in suite.samples]
    total = summarise(scores)
    assert (total.n, total.scored, total.unscored) == (4, 3, 1)
    assert total.score == pytest.approx(2 / 3)
    assert total.interval is not None
    nothing = summarise(score_suite(suite, "another model", completions))
    assert (nothing.scored, nothing.score, nothing.interval) == (0, None, None)


def test_the_suites_scorer_decides(tmp_path: Path) -> None:
    texts = [("0 0",), ("1",), ("2",), ("3",)]
    for scorer, value in ((ExactMatch(), 3 / 4), (TokenF1(), (2 / 3 + 3) / 4), (Stop(), 0.0)):
        suite = numbers(tmp_path, scorer=scorer.model_dump())
        total = summarise(score_suite(suite, "model-1", answered(suite, *texts, finish="length")))
        assert total.score == pytest.approx(value)


def test_several_templates_are_averaged_and_their_spread_is_known(tmp_path: Path) -> None:
    suite = numbers(tmp_path, templates=["{question}", "Say it: {question}"])
    completions = answered(suite, ("0", "0"), ("1", "no"), ("no", "no"), ("3", None))
    scores = score_suite(suite, "model-1", completions)
    assert [entry.score for entry in scores] == [1, 0.5, 0, None]
    assert [entry.outcome for entry in scores][1:] == [Outcome.FAILED, Outcome.FAILED, Outcome.UNSCORED]
    assert scores[1].completion == "1"
    first, second = score_templates(suite, "model-1", completions)
    assert (first.scored, second.scored) == (4, 3)
    assert first.score == pytest.approx(3 / 4)
    assert second.score == pytest.approx(1 / 3)


@pytest.mark.parametrize("scorer", SCORERS, ids=named)
def test_a_scorers_section_is_closed_and_frozen(scorer: type[BaseModel]) -> None:
    assert (scorer.model_config.get("extra"), scorer.model_config.get("frozen")) == ("forbid", True)
