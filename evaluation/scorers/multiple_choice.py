"""Multiple choice: which of the given choices the model finds likeliest as its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal

from data_catalog.records import Likelihood
from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, LikelihoodScorer, likeliest, share_of_best


class Normalise(StrEnum):
    """What a choice's log-probability is divided by, so that a long choice is not unlikely for its length alone.

    BYTES: its length in UTF-8, which does not depend on the tokenizer. TOKENS: its number of tokens. NONE: nothing.
    """

    BYTES = "bytes"
    TOKENS = "tokens"
    NONE = "none"


class MultipleChoice(LikelihoodScorer):
    """The choice that the model finds likeliest as its answer is a right one; nothing is generated.

    A row has `choices` beside `answers`, which are those of the choices that are right. Chosen is the highest
    log P(choice | prompt) / length. In a tie the score is the chance to draw a right one.

    Source: Brown et al., arXiv 2005.14165, section 2.4 (by tokens); Gao, Multiple Choice Normalization in LM Evaluation
    (EleutherAI, 2021), for bytes: `acc_bytes` of lm-evaluation-harness.
    """

    name: Literal["multiple_choice"] = "multiple_choice"
    choices: tuple[str, ...] = ()
    """The choices of every row that has no `choices` of its own, such as `[A, B, C, D]`."""
    normalise: Normalise = Normalise.BYTES
    """What the log-probabilities are divided by: `bytes`, `tokens` or `none`."""
    whole: bool = False
    """The answer's end counts as part of the choice, so that `1` is not likelier than `10` by being its beginning."""

    def refusal(self, sample: Sample) -> str:
        """Refuse a sample without choices or right ones among them."""
        given = sample.meta.get("choices", list(self.choices))
        if not isinstance(given, list) or not all(isinstance(choice, str) and choice.strip() for choice in given):
            return f"`choices` must be a list of texts that are not empty, got {given!r:.80}"
        if len(set(given)) != len(given) or len(given) < 2:
            return f"scorer `{self.name}` needs two different `choices` or more, got {given!r:.80}"
        if not sample.answers:
            return f"scorer `{self.name}` needs `answers`: those of the choices that are right"
        strangers = [answer for answer in sample.answers if answer not in given]
        return f"the answer {strangers[0]!r:.80} is none of the choices {given!r:.200}" if strangers else ""

    def basis(self, sample: Sample) -> Any:
        """Return the choices."""
        return self.continuations(sample)

    def continuations(self, sample: Sample) -> tuple[str, ...]:
        """Return the sample's choices."""
        return tuple(sample.meta.get("choices", self.choices))

    def weigh(self, sample: Sample, found: Sequence[Likelihood]) -> float:
        """Return 1 when the likeliest choice is right, 0 when it is not."""
        return share_of_best(self._values(sample, found), sample.answers)

    def shown(self, sample: Sample, answer: Answer) -> str:
        """Return the choice that the model makes."""
        return " = ".join(likeliest(self._values(sample, answer.likelihoods)))

    def _values(self, sample: Sample, found: Sequence[Likelihood]) -> Mapping[str, float]:
        return {
            choice: (one.logprob + one.end_logprob * self.whole) / self._length(choice, one)
            for choice, one in zip(self.continuations(sample), found, strict=True)
        }

    def _length(self, choice: str, found: Likelihood) -> float:
        if self.normalise is Normalise.BYTES:
            return len(choice.encode())
        return max(1, found.tokens + self.whole) if self.normalise is Normalise.TOKENS else 1.0
