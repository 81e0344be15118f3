"""Perplexity: how well the model foretells a text, or the expected answer to a question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from data_catalog.records import Likelihood
from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, LikelihoodScorer


class Perplexity(LikelihoodScorer):
    """How well the model foretells a row's `text`, or the first of its `answers` behind the question.

    The score is exp(log P / length), in (0, 1]: the reciprocal of the perplexity, that is, the geometric mean of the
    probabilities of its tokens (or bytes). Higher is better, as for every score.

    Source: Jelinek et al., Perplexity: a measure of the difficulty of speech recognition tasks, Journal of the
    Acoustical Society of America 62 (1977).
    """

    name: Literal["perplexity"] = "perplexity"
    per: Literal["token", "byte"] = "token"
    """The unit of length; models with different tokenizers can only be compared by `byte` (of UTF-8)."""
    plain_text: ClassVar[bool] = True

    def refusal(self, sample: Sample) -> str:
        """Refuse a question without an answer to foretell."""
        if sample.plain:
            return ""
        if not sample.answers or not sample.answers[0].strip():
            return f"scorer `{self.name}` needs `text`, or a question with `answers`"
        return ""

    def continuations(self, sample: Sample) -> tuple[str, ...]:
        """Return the text that the model has to foretell."""
        return (sample.messages[-1].content if sample.plain else sample.answers[0],)

    def weigh(self, sample: Sample, found: Sequence[Likelihood]) -> float:
        """Return the reciprocal of the perplexity."""
        return min(1.0, math.exp(found[0].logprob / self._length(sample, found[0])))

    def shown(self, sample: Sample, answer: Answer) -> str:
        """Return the perplexity in words."""
        length = self._length(sample, answer.likelihoods[0])
        perplexity = math.exp(min(-answer.likelihoods[0].logprob / length, 700.0))
        return f"perplexity {perplexity:.4g} per {self.per} ({length:,} {self.per}s)"

    def _length(self, sample: Sample, found: Likelihood) -> int:
        return len(self.continuations(sample)[0].encode()) if self.per == "byte" else max(1, found.tokens)
