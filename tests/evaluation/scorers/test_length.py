"""Length: between two numbers of words, Chinese characters counted one by one."""

from __future__ import annotations

import pytest

from evaluation.scorers.length import Length
from tests.evaluation.scored import scored


@pytest.mark.parametrize(
    ("text", "value"), [("one", 0), ("one two", 1), ("一二三", 1), ("one two three four", 0), ("一二三四", 0), ("", 0)]
)
def test_length(text: str, value: float) -> None:
    assert scored(Length(min_words=2, max_words=3), text) == value


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="above"):
        Length(min_words=9, max_words=3)
