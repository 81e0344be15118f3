"""Token F1: how many words the answer shares with the nearest expected one."""

from __future__ import annotations

from typing import Literal

from data_catalog import text
from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, ReferenceScorer


class TokenF1(ReferenceScorer):
    """The words shared with the nearest expected answer, as F1; every Chinese character is a word.

    Source: Rajpurkar et al., SQuAD (arXiv 1606.05250), section 6.1.
    """

    name: Literal["token_f1"] = "token_f1"

    def score(self, sample: Sample, answer: Answer) -> float:
        """Return the highest F1 of the text with any expected answer, in [0, 1]."""
        return max(text.token_f1(answer.text, expected) for expected in sample.answers)
