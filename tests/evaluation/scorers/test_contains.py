"""Contains: whole words in a row, in English and Chinese."""

from __future__ import annotations

import pytest

from evaluation.scorers.contains import Contains
from tests.evaluation.scored import scored


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
    assert scored(Contains(), text, *answers) == value
