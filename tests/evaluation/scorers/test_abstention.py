"""Abstention: declining in English and Chinese, and what only looks like it."""

from __future__ import annotations

import pytest

from evaluation.scorers.abstention import Abstention
from tests.evaluation.scored import scored


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("I do not know.", 1),
        ("I don\u2019t know", 1),
        ("The text does not say who built it.", 1),
        ("This is not stated.", 1),
        ("I'm sorry, but I can't help with that.", 1),
        ("I am unable to answer this.", 1),
        ("Its builder is unknown.", 1),
        ("Unknown", 1),
        ("不知道。", 1),
        ("文中未提及。", 1),
        ("抱歉，我无法提供这些信息。", 1),
        ("no idea whatsoever", 1),
        ("Oslo", 0),
        ("I know.", 0),
        ("The Unknown Artist painted it.", 0),
        ("Its builder is unknown, but it was Marn.", 0),
        ("I do not know, but it is Oslo.", 0),
        ("不知道，但是应该是左侧。", 0),
        ("", 0),
    ],
)
def test_abstention(text: str, value: float) -> None:
    assert scored(Abstention(phrases=("no idea",)), text) == value


def test_a_phrase_of_ones_own_is_needed_for_another_wording() -> None:
    assert scored(Abstention(), "no idea whatsoever") == 0
