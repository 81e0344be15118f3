"""Exact match: the whole answer, normalised, is one of the expected ones."""

from __future__ import annotations

from typing import Literal

from data_catalog.text import normalise_answer
from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, ReferenceScorer


class ExactMatch(ReferenceScorer):
    """The whole answer, without case, punctuation, articles and full-width forms, is one of the expected ones.

    Source: Rajpurkar et al., SQuAD (arXiv 1606.05250), section 6.1.
    """

    name: Literal["exact_match"] = "exact_match"

    def score(self, sample: Sample, answer: Answer) -> float:
        """Return 1 when the normalised text equals a normalised expected answer, else 0."""
        given = normalise_answer(answer.text)
        return float(any(given == normalise_answer(expected) for expected in sample.answers))
