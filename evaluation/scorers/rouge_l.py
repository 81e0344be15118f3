"""ROUGE-L: the longest common subsequence of words with the nearest expected answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from data_catalog.text import words
from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, ReferenceScorer


class RougeL(ReferenceScorer):
    """The longest common subsequence of words with the nearest expected answer, as F; Chinese by character.

    F = (1 + b²) P R / (R + b² P), P and R the subsequence's share of the answer and of the expected one. Words are
    not stemmed.

    Source: Lin, ROUGE: A Package for Automatic Evaluation of Summaries (ACL workshop 2004), section 3.
    """

    name: Literal["rouge_l"] = "rouge_l"
    beta: float = Field(default=1.0, gt=0)
    """How much more recall counts than precision."""

    def score(self, sample: Sample, answer: Answer) -> float:
        """Return the highest F of the text with any expected answer, in [0, 1]."""
        given = words(answer.text)
        return max(self._f(given, words(expected)) for expected in sample.answers)

    def _f(self, given: Sequence[str], expected: Sequence[str]) -> float:
        common = lcs_length(given, expected)
        if not common:
            return 0.0
        precision, recall = common / len(given), common / len(expected)
        weight = self.beta**2
        return (1 + weight) * precision * recall / (recall + weight * precision)


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, in O(len(second)) operations on len(first)-bit integers.

    Source: Hyyrö, Bit-Parallel LCS-length Computation Revisited (AWOCA 2004), the algorithm of section 3: V starts as
    all ones; for each word U = V & match, V = (V + U) | (V - U); the zeros of V are the length.
    """
    places: dict[str, int] = defaultdict(int)
    for position, word in enumerate(first):
        places[word] |= 1 << position
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & full
    return len(first) - row.bit_count()
