"""Token F1: shared words, character by character in Chinese."""

from __future__ import annotations

import pytest

from evaluation.scorers.token_f1 import TokenF1
from tests.evaluation.scored import scored


@pytest.mark.parametrize(
    ("text", "answers", "value"),
    [
        ("the twin crane", ["twin crane"], 1),
        ("a red twin crane", ["twin crane"], 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("泵的左侧", ["左侧"], 2 * (2 / 4) * 1 / (2 / 4 + 1)),
        ("ＡＢＣ１２", ["abc12"], 1),
        ("crane", ["lathe", "twin crane"], 2 / 3),
        ("lathe", ["twin crane"], 0),
        ("", ["twin crane"], 0),
    ],
)
def test_token_f1(text: str, answers: list[str], value: float) -> None:
    assert scored(TokenF1(), text, *answers) == pytest.approx(value)
