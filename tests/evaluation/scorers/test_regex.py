"""Regex: one expression for all samples, or the answers of each; every parameter with its effect."""

from __future__ import annotations

import pytest

from evaluation.scorers.regex import Regex
from tests.evaluation.scored import sample, scored


@pytest.mark.parametrize(
    ("scorer", "text", "answers", "value"),
    [
        (Regex(), "Part XR-200 fits.", [r"XR-\d+"], 1),
        (Regex(), "部件编号：ＸＲ-２００。", [r"XR-\d+"], 1),
        (Regex(), "part xr-200", [r"XR-\d+"], 1),
        (Regex(ignore_case=False), "part xr-200", [r"XR-\d+"], 0),
        (Regex(whole=True), "Part XR-200", [r"XR-\d+"], 0),
        (Regex(whole=True), " XR-200\n", [r"XR-\d+"], 1),
        (Regex(), "no number", [r"\d", "numb"], 1),
        (Regex(pattern="^yes"), "Yes, it does.", [], 1),
        (Regex(pattern="^yes"), "No.", ["No"], 0),
    ],
)
def test_regex(scorer: Regex, text: str, answers: list[str], value: float) -> None:
    assert scored(scorer, text, *answers) == value


def test_what_is_no_expression_is_refused_with_its_reason() -> None:
    with pytest.raises(ValueError, match="no regular expression"):
        Regex(pattern="(")
    assert "is no regular expression" in Regex().refusal(sample("fine", "("))
    assert "needs `answers`" in Regex().refusal(sample())
    assert Regex(pattern="x").refusal(sample()) == ""
