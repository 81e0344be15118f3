"""What every scorer is: its name and parameters as a section of the configuration, and how it scores one answer."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

from data_catalog.records import Outcome, Spec
from data_catalog.text import normalise_answer
from evaluation.samples import Sample


class Answer(NamedTuple):
    """What a model answered, as far as a scorer may look at it."""

    text: str
    finish_reason: str = "stop"
    """`stop` is a whole answer; `length` met the token limit."""


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

    def basis(self, sample: Sample) -> Any:
        """Return what of a sample's further fields decides its score, for the suite's digest."""
        return None


class ReferenceScorer(Scorer):
    """A scorer that compares with the sample's `answers`."""

    def refusal(self, sample: Sample) -> str:
        """Refuse a sample without answers, or with one that no word is in: it would match any other such answer."""
        if not sample.answers:
            return f"scorer `{self.name}` needs `answers`"
        empty = [answer for answer in sample.answers if not normalise_answer(answer)]
        return f"an answer needs at least one word, got {empty[0]!r:.80}" if empty else ""
