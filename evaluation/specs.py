"""What a user may ask of evaluation: suites and the gates that are built on them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from data_catalog.records import Spec


class SuiteSpec(Spec):
    """Evaluation samples and the scorer that scores what a model answered.

    A JSONL row is `{"id"?, "question" | "messages", "answers"?: [...], "document"?, "kind"?}`.
    """

    path: Path
    """The JSONL file."""
    label: str = ""
    """What the report calls the suite; its name where left out."""
    scorer: Literal["exact_match", "contains", "abstention"] = "exact_match"
    """How an answer is scored: equal to an expected one, holding one, or declining to answer."""
    system: str | None = None
    """System message put before each question."""
    max_tokens: int = Field(default=64, ge=1)
    """Longest answer in tokens."""
    abstention_phrases: tuple[str, ...] = ()
    """Scorer `abstention`: what counts as abstaining, beside the built-in English and Chinese phrases."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many rows; null takes all."""


class Against(StrEnum):
    """What a candidate is compared with. LIMIT compares its score with a fixed number."""

    BASE = "base"
    PREVIOUS = "previous"
    PRODUCTION = "production"
    LIMIT = "limit"


class Requirement(StrEnum):
    """BETTER: the lower confidence bound of the paired difference is above `margin`.

    NOT_WORSE: it is above `-margin`. AT_LEAST: the score's lower confidence bound (Wilson) is at least `limit`.
    """

    BETTER = "better"
    NOT_WORSE = "not_worse"
    AT_LEAST = "at_least"


class GateRule(Spec):
    """One comparison of a gate. All rules of a gate must pass."""

    suite: str
    """Name of one of `suites`."""
    require: Requirement
    against: Against = Against.BASE
    margin: float = Field(default=0.0, ge=0, le=1)
    """In score units: 0.02 is two points of a hundred."""
    limit: float | None = Field(default=None, ge=0, le=1)
    """The score that `require: at_least` asks for."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """One-sided."""
    resamples: int = Field(default=10_000, ge=1000)
    """Bootstrap resamples of the paired difference."""

    @model_validator(mode="after")
    def _limit_where_needed(self) -> Self:
        if self.require is Requirement.AT_LEAST and (self.limit is None or self.against is not Against.LIMIT):
            raise ValueError("`require: at_least` needs `against: limit` and a `limit` between 0 and 1")
        if self.require is not Requirement.AT_LEAST and self.against is Against.LIMIT:
            raise ValueError("`against: limit` goes with `require: at_least`")
        return self
