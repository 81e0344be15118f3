"""The job and result files that a training process reads and writes. What a job may ask: `training.stage_specs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from data_catalog.records import Record, Spec
from training.classify_specs import ClassifySpec
from training.method_specs import MethodSpec
from training.sampled_specs import GroupSpec, GrpoSpec, PpoSpec, RlooSpec, SampledSpec
from training.stage_specs import (
    DpoSpec,
    KtoSpec,
    OrpoSpec,
    PackedSpec,
    PretrainSpec,
    RewardSpec,
    SftSpec,
    SimpoSpec,
    StageSpec,
)

__all__ = [
    "ClassifySpec",
    "CompleteJob",
    "CompleteResult",
    "DpoSpec",
    "GroupSpec",
    "GrpoSpec",
    "InspectCheck",
    "InspectJob",
    "InspectResult",
    "Job",
    "JobFailure",
    "KtoSpec",
    "Ledger",
    "MeasureJob",
    "MeasureResult",
    "MethodMeasure",
    "MetricPoint",
    "OrpoSpec",
    "PackedSpec",
    "PpoSpec",
    "PretrainSpec",
    "RewardSpec",
    "RlooSpec",
    "SampledSpec",
    "SeenRow",
    "SftSpec",
    "SimpoSpec",
    "StageSpec",
    "TrainJob",
    "TrainResult",
    "TrainSpec",
]

TrainSpec = Annotated[
    PretrainSpec
    | SftSpec
    | DpoSpec
    | KtoSpec
    | OrpoSpec
    | SimpoSpec
    | RewardSpec
    | PpoSpec
    | GrpoSpec
    | RlooSpec
    | ClassifySpec,
    Field(discriminator="stage"),
]


class TrainJob(Spec):
    """The file that a training process reads."""

    kind: Literal["train"] = "train"
    spec: TrainSpec
    model: Path
    """Directory of the model that the stage starts from."""
    dataset: Path
    """Parquet of items: columns `id`, `payload` (JSON text)."""
    replay: Path | None = None
    """JSONL of general rows, `{"messages": [...]}` or `{"text": ...}`, mixed in by token share."""
    replay_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training tokens that replay rows have."""
    reward_model: Path | None = None
    """`ppo`, and `grpo` and `rloo` with `reward: model`: directory of the reward model that judges the answers."""
    output: Path
    """Where the trained (merged, full-precision) model directory is written, whole or not at all."""
    work: Path
    """Checkpoints, adapter, metrics.jsonl; kept until the step is done."""


class CompleteJob(Spec):
    """Answer requests with local weights: JSONL of `Request` in, JSONL of `Completion` out (appended, flushed)."""

    kind: Literal["complete"] = "complete"
    model: Path
    requests: Path
    output: Path
    batch_tokens: int = Field(default=16_384, ge=64)
    """Prompt and new tokens of one padded batch at most."""


class MeasureJob(Spec):
    """The file that a process reads which compares methods on a model."""

    kind: Literal["measure"] = "measure"
    model: Path
    methods: tuple[MethodSpec, ...]
    tokens: int = Field(default=128, ge=1)
    """Length of the one row that is timed; less where the model knows fewer positions."""
    repeats: int = Field(default=9, ge=1)
    """How often the base and each method are timed, in turn; medians are taken."""


class InspectJob(Spec):
    """The file that a process reads which looks at a stage's batches."""

    kind: Literal["inspect"] = "inspect"
    spec: TrainSpec
    model: Path
    """Directory of the model that the stage starts from."""
    base: Path
    """Directory of the model whose chat template all others must have."""
    dataset: Path
    """Parquet of items, or JSONL of payloads."""
    replay: Path | None = None
    replay_share: float = Field(default=0.0, ge=0, lt=1)
    rows: int = Field(default=4, ge=0)
    """Rows that are shown."""


Job = Annotated[TrainJob | CompleteJob | MeasureJob | InspectJob, Field(discriminator="kind")]


class Ledger(Record):
    """What became of the rows before training: `rows == kept + dropped`, truncated ones are among the kept."""

    rows: int
    kept: int
    truncated: int
    dropped: int
    reasons: dict[str, int] = Field(default_factory=dict)
    replay_rows: int = 0
    tokens: int = 0
    target_tokens: int = 0
    """Tokens that carry loss, per epoch."""


EQUAL_GROUPS = "equal_groups"
"""Logged by `grpo` and `rloo`: the share of the groups of answers that all earned the same."""


class MetricPoint(Record):
    """One logged training step."""

    step: int
    epoch: float
    loss: float
    learning_rate: float | None = None
    values: dict[str, float] = Field(default_factory=dict)
    """Whatever else the trainer logs: rewards/margins, rewards/accuracies, grad_norm ..."""


class TrainResult(Record):
    """The file that a training process writes last; its existence means that `output` is complete."""

    stage: str
    method: str
    steps: int
    seconds: float
    """Wall time of the trainer's loop."""
    import_seconds: float
    trainable_parameters: int
    total_parameters: int
    ledger: Ledger
    metrics: tuple[MetricPoint, ...]
    resumed_from_step: int = 0
    peak_memory_bytes: int = 0
    predicted_memory_bytes: int = 0
    """What was told before the weights were read."""
    predicted_seconds: float = 0.0
    """What one step before the first told of `seconds`; 0 where the answers are yet to be sampled."""
    guards: dict[str, str] = Field(default_factory=dict)
    """Guard name to what it saw, such as `dpo_step0_loss: 0.6931`."""
    versions: dict[str, str] = Field(default_factory=dict)

    def logged(self, name: str) -> tuple[float, ...]:
        """Return what was logged by a name beside the loss, in order of steps; empty where it never was."""
        return tuple(point.values[name] for point in self.metrics if name in point.values)

    @property
    def equal_groups(self) -> float:
        """Share of the groups of answers that taught nothing, because all earned the same; 0 without groups."""
        shares = self.logged(EQUAL_GROUPS)
        return sum(shares) / len(shares) if shares else 0.0


class CompleteResult(Record):
    """The file that a completing process writes last."""

    answered: int
    seconds: float
    import_seconds: float


class MethodMeasure(Record):
    """One method on one model."""

    method: MethodSpec
    trainable: int = 0
    total: int = 0
    """Parameters of the model with what the method adds."""
    stored_bytes: int = 0
    """What one trained result takes on the disk beside the base; for `full` the whole model."""
    delay: float | None = None
    """How much longer one forward takes than the base's, unmerged: 0.1 is a tenth. None for `full`."""
    refused: str = ""
    """Why the method does not fit this model; the figures are then empty."""


class MeasureResult(Record):
    """The file that a measuring process writes last."""

    methods: tuple[MethodMeasure, ...]
    parameters: int
    """Of the model itself."""
    tokens: int
    repeats: int
    device: str


class SeenRow(Record):
    """One sequence of a batch, without its padding; the four tuples are of one length."""

    row: str
    part: str = ""
    """`chosen`, `rejected`, `mismatched`, `prompt` or `word 1` where it is only a part of the row."""
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """What each token stands for."""
    roles: tuple[str, ...]
    """In whose turn it stands; empty in a text."""
    loss: tuple[bool, ...]


class InspectCheck(Record):
    """One thing that training relies on."""

    name: str
    passed: bool
    seen: str
    fix: str = ""
    """What to do where it is not so."""


class InspectResult(Record):
    """The file that an inspecting process writes last. Counts are of the first epoch."""

    rows: tuple[SeenRow, ...]
    checks: tuple[InspectCheck, ...]
    ledger: Ledger
    cells: int
    """Positions that the model computes, padding included."""
    tokens: int
    target_tokens: int


class JobFailure(Record):
    """What a process writes instead of a result when it ends on a known error."""

    error: str
    """The error class of `data_catalog.errors`."""
    message: str
    valid: str = ""
    next_step: str = ""
