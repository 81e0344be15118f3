"""chrF of one answer, by sacrebleu."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from evaluation.samples import Sample
from evaluation.scorers.overlap import folded, sacrebleu
from evaluation.scorers.parts import Answer, ReferenceScorer


class Chrf(ReferenceScorer):
    """F-score over character n-grams with the expected answers as references; needs the extra `eval`.

    Works for Chinese and English without a tokenizer.

    Source: Popović, chrF (WMT 2015) and chrF++ (WMT 2017).
    """

    name: Literal["chrf"] = "chrf"
    word_order: int = Field(default=0, ge=0, le=2)
    """Word n-grams counted too, up to this length; 2 is chrF++."""
    lowercase: bool = False
    """Whether capital and small letters are the same."""

    def prepare(self) -> None:
        """Find out whether sacrebleu is installed."""
        sacrebleu()

    def score(self, sample: Sample, answer: Answer) -> float:
        """Return chrF, in [0, 1]."""
        metric = sacrebleu().CHRF(word_order=self.word_order, lowercase=self.lowercase)
        references = [folded(expected) for expected in sample.answers]
        return min(1.0, float(metric.sentence_score(folded(answer.text), references).score) / 100)
