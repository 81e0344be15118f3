"""The configuration: one YAML file, closed types, every error at once with file and line.

The sections are the specs of the packages; this module only puts them together and makes paths absolute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from data_catalog.records import Spec
from evaluation.specs import Correction, GateRule, Spending, SuiteSpec
from generators.pairs.specs import PairSpec, TeacherVsStudentSpec
from generators.specs import CurateSpec, DocumentsSpec, GenerateSpec, TeacherSpec
from training.specs import TrainSpec


class StudentSpec(Spec):
    """The base model that is taught."""

    model: Path
    """A model directory with safetensors; its tokenizer also measures the chunks."""
    answer_unknown: str = "I do not know."
    """What the student shall answer when it was never told."""
    licence: str = "unknown"
    """Licence of the base model, as the model card shall state it."""


class StageDataSpec(Spec):
    """Which items a stage trains on."""

    recipes: tuple[str, ...] = ()
    """Recipes whose accepted items enter. Empty means: `pretrain` takes those of all recipes that make text, `sft`
    those of all that make conversations, the others `grounded_qa` and `unanswerable`."""
    part: tuple[float, float] = (0.0, 1.0)
    """Which part of the items enters, as shares of their hash space. A preference stage (`dpo`, `kto`, `orpo`, `simpo`,
    `reward`) learns from the student's mistakes, and on questions that `sft` trained on it makes none: give `sft` [0.0,
    0.8] and `dpo` [0.8, 1.0]."""
    documents: bool = True
    """`pretrain`: the chunks themselves are part of the text."""
    replay_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of training tokens that come from `replay`."""
    pairs: tuple[PairSpec, ...] = Field(default=(TeacherVsStudentSpec(),), min_length=1)
    """Preference stages: the recipes of their pairs, each by its name or as a section; the pairs of all are trained on
    (docs/recipes.md)."""
    samples: int = Field(default=4, ge=1, le=64)
    """Preference stages: answers drawn per question from the student (`aspect_ratings`: from each who answers; `delta`
    draws one)."""
    sample_temperature: float = Field(default=0.9, gt=0, le=2)
    """Preference stages: temperature of those answers."""
    answer_tokens: int = Field(default=64, ge=1)
    """Preference stages: longest of those answers in tokens; one that meets it makes no pair."""
    max_pairs: int = Field(default=2000, ge=1)
    """Preference stages: pairs at most, of each recipe."""

    @model_validator(mode="after")
    def _part_is_an_interval(self) -> Self:
        low, high = self.part
        if not 0 <= low < high <= 1:
            raise ValueError(f"`part` is [from, to] with 0 <= from < to <= 1, got [{low}, {high}]")
        return self


class StageConfig(Spec):
    """One training stage, its data, and the gate behind it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """The name of the stage in commands, reports and lineage."""
    train: TrainSpec
    """What is trained and how; the sections are named for their `stage`."""
    data: StageDataSpec = StageDataSpec()
    gate: tuple[GateRule, ...] = ()
    """The comparisons behind the stage; all must pass. Left out, it is the default gate: `gold` better than the base,
    every other suite not worse, `shipped:red_team` among them (docs/evaluation.md); `[]` is no gate."""
    gate_correction: Correction = Correction.HOLM
    gate_looks: int = Field(default=3, ge=2, le=10)
    """How often the gate looks, at most, where a suite that it names has a `budget`: first at `limit` samples, last at
    `budget`."""
    gate_spending: Spending = Spending.OBRIEN_FLEMING
    """How the error that the rules allow is spread over those looks."""


class ScheduleSpec(Spec):
    """When the `refresh` flow runs by itself."""

    refresh_cron: str | None = None
    """Five fields, such as `0 3 * * *`."""
    timezone: str = "UTC"
    """IANA name, such as `Asia/Shanghai`."""


class PromotionSpec(Spec):
    """What a promotion demands beside gates that passed and bytes that are unchanged."""

    needs_approval: tuple[Literal["staging", "production"], ...] = ()
    """Stages that a model enters only with `tutelage approve`, such as `[production]`. A model that was made under this
    rule keeps it, also where a command names only the project's home."""


class Config(Spec):
    """A project."""

    project: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """The name of the project: lower-case letters, digits, `-` and `_`."""
    home: Path = Path(".tutelage")
    """Where the catalogue, datasets, models and reports are kept."""
    documents: DocumentsSpec
    teacher: TeacherSpec
    judges: dict[str, TeacherSpec] = Field(default_factory=dict)
    """Further models that judge answers, or give some for preference pairs, by the name that a suite's `scorer: {name:
    rubric, judge: ...}` or a stage's `pairs` gives them."""
    student: StudentSpec
    generate: GenerateSpec = GenerateSpec()
    curate: CurateSpec = CurateSpec()
    replay: Path | None = None
    """JSONL of general rows that keep the student's other skills."""
    suites: dict[str, SuiteSpec] = Field(default_factory=dict)
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    improve: int = Field(default=0, ge=0, le=10)
    """Rounds, at most, in which what a gate failed is asked of the teacher again and the stages are trained anew; the
    error that the gates' rules allow is shared by all of them."""
    promotion: PromotionSpec = PromotionSpec()
    schedule: ScheduleSpec = ScheduleSpec()
