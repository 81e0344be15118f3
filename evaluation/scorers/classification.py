"""Classification by verbaliser: which label's words the model finds likeliest as its answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from data_catalog.errors import ConfigError
from data_catalog.records import Likelihood
from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, LikelihoodScorer, likeliest, share_of_best


class Classification(LikelihoodScorer):
    """The label whose words (its verbaliser) the model finds likeliest as its answer is a right one.

    A row's `answers` are its labels. A label's probability is the mean of its words' P(word | prompt), each with the
    answer's end behind it, so that neither more words nor a word that begins another one count for more.

    Source: Schick and Schütze, Exploiting Cloze Questions for Few Shot Text Classification (EACL 2021), section 3.1;
    several words per label: Hu et al., Knowledgeable Prompt-tuning (ACL 2022), section 3.4, the average verbalizer.
    """

    name: Literal["classification"] = "classification"
    labels: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Label to the words that stand for it in an answer, such as `{fault: [fault, defect], wear: [wear]}`."""

    def prepare(self) -> None:
        """Refuse labels that can't be told apart.

        Raises:
            ConfigError: fewer than two labels, a label without words, or a word of two labels.
        """
        words = [word for listed in self.labels.values() for word in listed]
        if len(self.labels) < 2 or not all(self.labels.values()) or not all(word.strip() for word in words):
            raise ConfigError(
                f"scorer `classification` has the `labels` {self.labels!r:.200}",
                valid="two labels or more, each with one word or more: `{fault: [fault, defect], wear: [wear]}`",
                next_step="correct `labels` of the suite's scorer",
            )
        if repeated := sorted({word for word in words if words.count(word) > 1}):
            raise ConfigError(
                f"scorer `classification`: {', '.join(map(repr, repeated))} stands for more than one label, or twice",
                valid="each word once",
                next_step="correct `labels` of the suite's scorer",
            )

    def refusal(self, sample: Sample) -> str:
        """Refuse a sample without a label that is known."""
        if not sample.answers:
            return f"scorer `{self.name}` needs `answers`: the row's label"
        strangers = [answer for answer in sample.answers if answer not in self.labels]
        return f"{strangers[0]!r:.80} is none of the labels {', '.join(self.labels)}" if strangers else ""

    def continuations(self, sample: Sample) -> tuple[str, ...]:
        """Return the words of all labels."""
        return tuple(word for words in self.labels.values() for word in words)

    def weigh(self, sample: Sample, found: Sequence[Likelihood]) -> float:
        """Return 1 when the likeliest label is right, 0 when it is not."""
        return share_of_best(self._values(found), sample.answers)

    def shown(self, sample: Sample, answer: Answer) -> str:
        """Return the label that the model chooses."""
        return " = ".join(likeliest(self._values(answer.likelihoods)))

    def _values(self, found: Sequence[Likelihood]) -> Mapping[str, float]:
        """Return label to the logarithm of its mean probability."""
        return label_values(self.labels, [one.logprob + one.end_logprob for one in found])


def label_values(labels: Mapping[str, Sequence[str]], logs: Sequence[float]) -> dict[str, float]:
    """Return label to log(mean(exp(x))) over its words, the average verbaliser; `logs` stand label by label."""
    of_word = iter(logs)
    return {label: _log_mean([next(of_word) for _ in words]) for label, words in labels.items()}


def _log_mean(logs: Sequence[float]) -> float:
    """Return log(mean(exp(x))), safe for probabilities that no float holds."""
    highest = max(logs)
    return highest + math.log(math.fsum(math.exp(value - highest) for value in logs) / len(logs))
