"""Scorers: right, wrong, missing and truncated answers, in English and Chinese."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from data_catalog.records import Completion, Message, Outcome
from evaluation.samples import Sample
from evaluation.scorers import NEEDS_ANSWERS, SCORERS, score
from evaluation.scoring import score_suite, summarise
from evaluation.specs import SuiteSpec
from evaluation.suites import load_suite, requests


def sample(*answers: str) -> Sample:
    return Sample(id="s", messages=(Message(role="user", content="?"),), answers=answers)


def spec(scorer: str, phrases: tuple[str, ...] = ()) -> SuiteSpec:
    return SuiteSpec.model_validate({"path": "x.jsonl", "scorer": scorer, "abstention_phrases": phrases})


def test_every_scorer_of_the_configuration_is_in_the_table() -> None:
    assert set(get_args(SuiteSpec.model_fields["scorer"].annotation)) == set(SCORERS)
    assert set(SCORERS) >= NEEDS_ANSWERS


@pytest.mark.parametrize(
    ("text", "answers", "value"),
    [
        ("12 bar", ["12 bar"], 1),
        (" The  12 Bar. ", ["12 bar"], 1),
        ("１２ bar", ["12 bar"], 1),
        ("左侧。", ["左侧"], 1),
        ("Oslo", ["Bergen", "oslo"], 1),
        ("1.2 bar", ["12 bar"], 0),
        ("It is 12 bar", ["12 bar"], 0),
        ("", ["12 bar"], 0),
    ],
)
def test_exact_match(text: str, answers: list[str], value: float) -> None:
    assert score(sample(*answers), text, spec("exact_match")).score == value


@pytest.mark.parametrize(
    ("text", "answers", "value"),
    [
        ("It takes 12 bar, no more.", ["12 bar"], 1),
        ("它在泵的左侧。", ["左侧"], 1),
        ("It takes 120 bar.", ["12"], 0),
        ("bar 12", ["12 bar"], 0),
        ("", ["12"], 0),
    ],
)
def test_contains(text: str, answers: list[str], value: float) -> None:
    assert score(sample(*answers), text, spec("contains")).score == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("I do not know.", 1),
        ("I don\u2019t know", 1),
        ("The text does not say who built it.", 1),
        ("This is not stated.", 1),
        ("不知道。", 1),
        ("文中未提及。", 1),
        ("no idea whatsoever", 1),
        ("Oslo", 0),
        ("I know.", 0),
        ("I do not know, but it is Oslo.", 0),
        ("不知道，但是应该是左侧。", 0),
        ("", 0),
    ],
)
def test_abstention(text: str, value: float) -> None:
    assert score(sample(), text, spec("abstention", ("no idea",))).score == value


@pytest.mark.parametrize("scorer", sorted(SCORERS))
def test_a_missing_completion_is_neither_right_nor_wrong(scorer: str) -> None:
    parts = score(sample("x"), None, spec(scorer))
    assert (parts.outcome, parts.score) == (Outcome.UNSCORED, None)


def test_a_suite_is_scored_in_order_with_missing_and_truncated_completions(tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_text("\n".join(json.dumps({"question": f"Number {n}?", "answers": [str(n)]}) for n in range(4)))
    suite = load_suite("gold", SuiteSpec(path=path))
    right, wrong, missing, cut = (request.key for request in requests(suite, "model-1"))
    completions = {
        right: Completion(request_key=right, text="0", finish_reason="stop"),
        wrong: Completion(request_key=wrong, text="7", finish_reason="stop"),
        cut: Completion(request_key=cut, text="3", finish_reason="length"),
    }
    scores = score_suite(suite, "model-1", completions)
    assert [entry.outcome for entry in scores] == [Outcome.PASSED, Outcome.FAILED, Outcome.UNSCORED, Outcome.PASSED]
    assert [entry.sample_id for entry in scores] == [entry.id for entry in suite.samples]
    total = summarise(scores)
    assert (total.n, total.scored, total.unscored) == (4, 3, 1)
    assert total.score == pytest.approx(2 / 3)
    assert total.interval is not None
    assert missing not in completions
    nothing = summarise(score_suite(suite, "another model", completions))
    assert (nothing.scored, nothing.score, nothing.interval) == (0, None, None)
