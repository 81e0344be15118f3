"""ROUGE-L: the longest common subsequence, checked against the textbook's table."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.scorers.rouge_l import RougeL, lcs_length
from tests.evaluation.scored import scored


@pytest.mark.parametrize(
    ("text", "answers", "value"),
    [
        # Lin (2004), section 3.1: 3 and 2 of 4 words in order
        ("police kill the gunman", ["police killed the gunman"], 3 / 4),
        ("the gunman kill police", ["police killed the gunman"], 2 / 4),
        ("泵在左侧", ["泵位于左侧"], 2 * 3 / (4 + 5)),
        ("nothing", ["police killed", "nothing at all"], 2 * 1 / (1 + 3)),
        ("", ["police"], 0),
        ("lathe", ["police"], 0),
    ],
)
def test_rouge_l(text: str, answers: list[str], value: float) -> None:
    assert scored(RougeL(), text, *answers) == pytest.approx(value)


def test_beta_weighs_recall() -> None:
    """Precision 1, recall 1/2: a large beta goes towards recall."""
    assert scored(RougeL(beta=1.0), "one two", "one two three four") == pytest.approx(2 / 3)
    assert scored(RougeL(beta=8.0), "one two", "one two three four") == pytest.approx(0.5, abs=0.01)


def table_lcs(first: Sequence[str], second: Sequence[str]) -> int:
    """The dynamic programme over the whole table."""
    row = [0] * (len(second) + 1)
    for word in first:
        above = row[:]
        for place, other in enumerate(second):
            row[place + 1] = above[place] + 1 if word == other else max(row[place], above[place + 1])
    return row[-1]


@given(st.lists(st.sampled_from("abcd"), max_size=80), st.lists(st.sampled_from("abcde"), max_size=80))
def test_the_bits_count_what_the_table_counts(first: list[str], second: list[str]) -> None:
    assert lcs_length(first, second) == table_lcs(first, second)
