"""Exact match: normalised, whole, in English and Chinese."""

from __future__ import annotations

import pytest

from evaluation.scorers.exact_match import ExactMatch
from tests.evaluation.scored import scored


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
    assert scored(ExactMatch(), text, *answers) == value
