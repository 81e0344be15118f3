"""What every scorer is: its name and parameters as a section of the configuration, and how it scores one answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from data_catalog.records import Likelihood, Message, Outcome, Record, Spec
from data_catalog.text import normalise_answer
from evaluation.samples import Sample


class Judged(NamedTuple):
    """What a judge was told and said about one answer."""

    replies: tuple[Mapping[str, str] | None, ...]
    """One per question; None: no reply came, or none that could be read."""
    opponent: str = ""
    """The answer that it was held against, where there is one."""


class Prompt(Record):
    """What a scorer asks that words its prompts itself."""

    messages: tuple[Message, ...]
    max_tokens: int
    """0: how likely the last of them is."""


class Answer(NamedTuple):
    """What a model answered, as far as a scorer may look at it."""

    text: str
    finish_reason: str = "stop"
    """`stop` is a whole answer; `length` met the token limit."""
    likelihoods: tuple[Likelihood, ...] = ()
    """Of the scorer's `continuations`, in their order; the text is then empty."""
    judged: Judged | None = None
    """What a judge said of the text, where the scorer asks one."""


class SampleScoreParts(NamedTuple):
    """The outcome and the score in [0, 1]; the score is None exactly when the outcome is UNSCORED."""

    outcome: Outcome
    score: float | None


class Scorer(Spec):
    """What all scorers share: one is a section of the configuration with a `name`, and scores one answer at a time."""

    name: str

    @abstractmethod
    def score(self, sample: Sample, answer: Answer) -> float | None:
        """Return a score in [0, 1], or None where this answer can't be scored, which is not a zero."""

    def refusal(self, sample: Sample) -> str:
        """Return why a sample can't be scored by this scorer, whatever is answered; empty where it can."""
        return ""

    def prepare(self) -> None:
        """Find out now, before any model is asked, whether the scorer can work here.

        Raises:
            MissingDependency: an optional package is not installed.
            ConfigError: a parameter is wrong in a way that its type can't show.
        """

    def continuations(self, sample: Sample) -> tuple[str, ...]:
        """Return the texts whose likelihood is asked instead of an answer; empty: the model answers freely."""
        return ()

    def prompts(self, sample: Sample) -> tuple[Prompt, ...]:
        """Return what is asked about a sample, where the scorer words it itself; empty: the suite does."""
        return ()

    def described(self, samples: Sequence[Sample]) -> str:
        """Return what the plan says of the scorer."""
        return self.name

    def shown(self, sample: Sample, answer: Answer) -> str:
        """Return what reports show as the model's answer."""
        return answer.text

    def basis(self, sample: Sample) -> Any:
        """Return what of a sample's further fields decides its score, for the suite's digest."""
        return None


class LikelihoodScorer(Scorer):
    """A scorer that asks no answer of the model but how likely it finds given texts (local weights only)."""

    plain_text: ClassVar[bool] = False
    """Whether a row may be `{"text"}`, a text outside any chat."""

    def score(self, sample: Sample, answer: Answer) -> float | None:
        """Return a score in [0, 1], or None where a likelihood is missing."""
        if not answer.likelihoods:
            return None
        return self.weigh(sample, answer.likelihoods)

    @abstractmethod
    def weigh(self, sample: Sample, found: Sequence[Likelihood]) -> float:
        """Return the score that the likelihoods of `continuations` give, in [0, 1]."""


def share_of_best(values: Mapping[str, float], right: Collection[str]) -> float:
    """Return the chance that a right one is chosen when a tie of the highest values is broken by lot."""
    best = likeliest(values)
    return sum(key in right for key in best) / len(best)


def likeliest(values: Mapping[str, float]) -> list[str]:
    """Return the keys that have the highest value."""
    highest = max(values.values())
    return [key for key, value in values.items() if value == highest]


class ReferenceScorer(Scorer):
    """A scorer that compares with the sample's `answers`."""

    def refusal(self, sample: Sample) -> str:
        """Refuse a sample without answers, or with one that no word is in: it would match any other such answer."""
        if not sample.answers:
            return f"scorer `{self.name}` needs `answers`"
        empty = [answer for answer in sample.answers if not normalise_answer(answer)]
        return f"an answer needs at least one word, got {empty[0]!r:.80}" if empty else ""
