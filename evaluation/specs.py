"""What a user may ask of evaluation: suites and the gates that are built on them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from data_catalog.records import Spec
from evaluation.scorers import ExactMatch, ScorerSpec
from evaluation.scorers.lm_eval import LmEval
from evaluation.shipped import shipped_path

QUESTION = "{question}"
"""Where a prompt template has the question."""
MAX_TOKENS = 64
"""Of an answer, where a suite says nothing else."""


class SuiteSpec(Spec):
    """Evaluation samples and the scorer that scores what a model answered.

    A JSONL row is `{"id"?, "question" | "messages", "answers"?: [...], "document"?, "kind"?}`.
    """

    path: Path
    """The JSONL file (or JSON, Parquet, or a directory of `datasets` with one split), or `shipped:red_team`: requests
    that should be declined, and harmless ones that look like them; for `scorer: refusal`. Of `scorer: lm_eval` the
    directory with the task's YAML and data."""
    label: str = ""
    """What the report calls the suite; its name where left out."""
    scorer: ScorerSpec = ExactMatch()
    """How an answer is scored; `scorer: contains` is short for `scorer: {name: contains}`."""
    system: str | None = None
    """System message put before each question."""
    templates: tuple[str, ...] = ()
    """Wordings of the prompt, each with `{question}` in it. Every sample is asked in each and its scores are averaged;
    reports show the answer to the first. Empty asks the question as it is."""
    shots: int = Field(default=0, ge=0, le=64)
    """Examples put before each question as earlier turns (few-shot)."""
    shots_from: Path | None = None
    """File that the examples are drawn from, in the form of a suite; questions of the suite itself are left out."""
    shots_seed: int = 0
    """Which examples are drawn; all samples get the same ones."""
    max_tokens: int = Field(default=MAX_TOKENS, ge=1)
    """Longest answer in tokens."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many rows; null takes all."""
    budget: int | None = Field(default=None, ge=2)
    """Rows up to which a gate that is INCONCLUSIVE on `limit` samples may ask more. The samples are then drawn by lot,
    the same ones each time, and the gate's error is spread over its looks."""
    development_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the rows up to `limit` that is set aside, by lot, for `tutelage sweep` to choose settings on. No gate
    asks them, so what was chosen on them doesn't flatter the gate; like the others they never enter training data.
    Default because where nothing is chosen the gate can use them all."""

    @field_validator("path")
    @classmethod
    def _is_shipped_where_it_says_so(cls, path: Path) -> Path:
        shipped_path(path)
        return path

    @model_validator(mode="after")
    def _prompt_is_whole(self) -> Self:
        for template in self.templates:
            if QUESTION not in template:
                raise ValueError(f"a template needs `{QUESTION}`, got {template!r:.80}")
        if len(set(self.templates)) != len(self.templates):
            raise ValueError("the same template stands twice under `templates`")
        if (self.shots > 0) != (self.shots_from is not None):
            raise ValueError("`shots` and `shots_from` go together")
        if isinstance(self.scorer, LmEval) and (self.prompted or self.max_tokens != MAX_TOKENS):
            raise ValueError(
                "`system`, `templates`, `shots`, `shots_from` and `max_tokens` are not for `scorer: lm_eval`: the YAML "
                "of the task says what is asked; the scorer has `shots` of its own"
            )
        if self.budget is not None and (self.limit is None or self.limit >= self.budget):
            raise ValueError(f"`budget` needs a smaller `limit`, at which the gate looks first, got {self.limit}")
        return self

    @property
    def prompted(self) -> bool:
        """Whether anything is put round a question."""
        return bool(self.system is not None or self.templates or self.shots)


class Against(StrEnum):
    """What a candidate is compared with. LIMIT compares its score with a fixed number."""

    BASE = "base"
    PREVIOUS = "previous"
    PRODUCTION = "production"
    LIMIT = "limit"


class Requirement(StrEnum):
    """BETTER: the lower confidence bound of the paired difference is above `margin`.

    NOT_WORSE: it is above `-margin`. AT_LEAST: the score's lower confidence bound (Wilson) is at least `limit`. BRIEF:
    the share of answers of at most `max_words` words is, by the same bound, at least `limit`.
    """

    BETTER = "better"
    NOT_WORSE = "not_worse"
    AT_LEAST = "at_least"
    BRIEF = "brief"

    @property
    def of_limit(self) -> bool:
        """Whether it holds the candidate against a fixed number, with no other model in sight."""
        return self in (Requirement.AT_LEAST, Requirement.BRIEF)


class Correction(StrEnum):
    """How the rules of one gate are judged together.

    HOLM: all that the gate says, both what is shown to hold and what is shown not to, is right together at the rules'
    confidence. NONE: each rule is judged as if it were alone.
    """

    HOLM = "holm"
    NONE = "none"


class Spending(StrEnum):
    """How a gate that may look several times spreads the error that it is allowed over its looks.

    OBRIEN_FLEMING: little at first, most at the last look, which decides almost as it would alone. POCOCK: nearly as
    much at each, which settles clear cases earlier.
    """

    OBRIEN_FLEMING = "obrien_fleming"
    POCOCK = "pocock"


class GateRule(Spec):
    """One comparison of a gate. All rules of a gate must pass."""

    suite: str
    """Name of one of `suites`."""
    slice: dict[str, str | int | bool] = Field(default_factory=dict)
    """Only the samples whose row says so, such as `{kind: number}` or `{document: pump.md}`; empty takes all."""
    require: Requirement
    against: Against = Against.BASE
    margin: float = Field(default=0.0, ge=0, le=1)
    """In score units: 0.02 is two points of a hundred."""
    limit: float | None = Field(default=None, ge=0, le=1)
    """The score that `require: at_least` asks for, or the share of answers that `brief` wants to be short enough."""
    max_words: int | None = Field(default=None, ge=1)
    """`require: brief`: the longest answer allowed, in words; a Chinese character counts as one."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """One-sided."""
    resamples: int = Field(default=10_000, ge=1000)
    """Bootstrap resamples of the paired difference."""

    @model_validator(mode="after")
    def _limit_where_needed(self) -> Self:
        if self.require.of_limit and (self.limit is None or self.against is not Against.LIMIT):
            raise ValueError(f"`require: {self.require}` needs `against: limit` and a `limit` between 0 and 1")
        if not self.require.of_limit and self.against is Against.LIMIT:
            raise ValueError("`against: limit` goes with `require: at_least` or `brief`")
        if (self.max_words is not None) != (self.require is Requirement.BRIEF):
            raise ValueError("`max_words` and `require: brief` go together")
        return self

    @property
    def threshold(self) -> float:
        """What the paired difference, or the score, must exceed."""
        if self.limit is not None and self.require.of_limit:
            return self.limit
        return self.margin if self.require is Requirement.BETTER else -self.margin

    @property
    def subject(self) -> str:
        """What the rule looks at, in a word or two: the suite, and the slice of it."""
        chosen = ", ".join(f"{key}={value}" for key, value in self.slice.items())
        return f"{self.suite} ({chosen})" if chosen else self.suite
