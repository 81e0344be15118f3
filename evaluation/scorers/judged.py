"""What the two judges share: who judges, by which words, and what a judge said of one answer.

A scorer asks nobody: it says what is to be asked (`JudgeQuestion`), and scores what came back (`parts.Judged`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, Scorer

TEACHER = "teacher"

REASON: Mapping[str, Any] = {"type": "string", "maxLength": 300}


class JudgeQuestion(NamedTuple):
    """One question to a judge: the kind of its prompt template, what the template is given, the form of the reply."""

    kind: str
    variables: Mapping[str, str]
    schema: Mapping[str, Any]


class JudgeScorer(Scorer):
    """A scorer that lets another model judge."""

    judge: str = TEACHER
    """Who judges: `teacher`, or the name of one of `judges`. Better not the teacher: a judge favours its own words."""
    criteria: str = Field(default="The answer is right, complete, and no longer than it needs to be.", min_length=1)
    """What a good answer is, in a few sentences; a row's own `criteria` go before."""
    language: Literal["en", "zh"] = "en"
    """Language of the product's own template."""
    template: str = ""
    """A `*.jinja` file of your own, relative to the configuration; empty takes the product's."""
    max_tokens: int = Field(default=256, ge=16)
    """Longest reply of the judge in tokens."""
    human: Path | None = None
    """JSONL of what people said of answers; how far the judge agrees with them is told in the report."""

    def refusal(self, sample: Sample) -> str:
        """Refuse criteria that are no text."""
        given = sample.meta.get("criteria", self.criteria)
        return "" if isinstance(given, str) and given.strip() else f"`criteria` must be a text, got {given!r:.80}"

    def basis(self, sample: Sample) -> Any:
        """Return the row's own criteria."""
        return sample.meta.get("criteria")

    def score(self, sample: Sample, answer: Answer) -> float | None:
        """Return what the judge's replies come to; None where one is missing."""
        if answer.judged is None:
            return None
        said = [reply for reply in answer.judged.replies if reply is not None]
        return self.weigh(answer, said) if len(said) == len(answer.judged.replies) else None

    @abstractmethod
    def questions(self, sample: Sample, answer: str, opponent: str) -> tuple[JudgeQuestion, ...]:
        """Return what the judge is asked about an answer; nothing where there is nothing to judge."""

    @abstractmethod
    def weigh(self, answer: Answer, replies: Sequence[Mapping[str, str]]) -> float:
        """Return the score in [0, 1] that the replies to all questions give."""

    def criteria_of(self, sample: Sample) -> str:
        """Return the criteria that this sample is judged by."""
        return str(sample.meta.get("criteria", self.criteria))
