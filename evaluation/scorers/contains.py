"""Contains: an expected answer stands somewhere in the text, as whole words in a row."""

from __future__ import annotations

from typing import Literal

from data_catalog.text import contains_words, words
from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, ReferenceScorer


class Contains(ReferenceScorer):
    """An expected answer stands somewhere in the text, as whole words in a row: `4` is not found in `40`."""

    name: Literal["contains"] = "contains"

    def score(self, sample: Sample, answer: Answer) -> float:
        """Return 1 when an expected answer is found in the text, else 0."""
        given = words(answer.text)
        return float(any(contains_words(given, words(expected)) for expected in sample.answers))
