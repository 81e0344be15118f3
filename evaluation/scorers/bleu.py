"""BLEU of one answer, by sacrebleu."""

from __future__ import annotations

from typing import Literal

from data_catalog.text import is_cjk
from evaluation.samples import Sample
from evaluation.scorers.overlap import folded, sacrebleu
from evaluation.scorers.parts import Answer, ReferenceScorer


class Bleu(ReferenceScorer):
    """Sentence BLEU with the expected answers as references; needs the extra `eval`.

    Exponential smoothing and effective order, sacrebleu's defaults for sentences. Made for texts of a sentence or more.

    Source: Papineni et al., BLEU (ACL 2002); Post, A Call for Clarity in Reporting BLEU Scores (WMT 2018).
    """

    name: Literal["bleu"] = "bleu"
    tokenizer: Literal["auto", "13a", "intl", "zh", "char"] = "auto"
    """How texts are cut into tokens: sacrebleu's names; `auto` is `zh` where an expected answer holds Chinese or
    Japanese characters, `13a` elsewhere."""
    lowercase: bool = False
    """Whether capital and small letters are the same."""

    def prepare(self) -> None:
        """Find out whether sacrebleu is installed."""
        sacrebleu()

    def score(self, sample: Sample, answer: Answer) -> float:
        """Return sentence BLEU, in [0, 1]."""
        chosen = self.tokenizer
        if chosen == "auto":
            chosen = "zh" if any(map(is_cjk, "".join(sample.answers))) else "13a"
        metric = sacrebleu().BLEU(tokenize=chosen, lowercase=self.lowercase, effective_order=True)
        references = [folded(expected) for expected in sample.answers]
        return min(1.0, float(metric.sentence_score(folded(answer.text), references).score) / 100)
