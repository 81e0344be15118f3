"""What a user may ask of training, and the job and result files that a training process reads and writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from data_catalog.records import Record, Spec
from training.compatibility import refusal
from training.method_specs import LoraSpec, MethodSpec


class StageSpec(Spec):
    """What all training stages share. Sources of the defaults stand in docs/configuration.md."""

    method: MethodSpec = LoraSpec()
    """Which weights are trained; `method: lora` is short for `method: {name: lora}`."""
    learning_rate: float = Field(default=1e-4, gt=0, lt=1)
    """Peak rate of AdamW. LoRA: 1e-4 to 2e-4, ten times that of full fine-tuning; full: 1e-5 (LoRA Without Regret)."""
    epochs: float = Field(default=3.0, gt=0)
    """Passes over the data."""
    batch_size: int = Field(default=8, ge=1)
    """Sequences per step and device."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Batches per optimiser step. LoRA does best with at most 32 sequences per step (LoRA Without Regret)."""
    max_length: int = Field(default=1024, ge=16)
    """Longest sequence in tokens; what is longer is counted in the ledger."""
    max_lost_share: float = Field(default=0.05, ge=0, le=1)
    """Share of rows that may be truncated or dropped before the stage refuses to start."""
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the rate rises to its peak."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """How the rate falls after the peak."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 on a GPU that has it, float32 otherwise."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    seed: int = 42
    """Seed of initialisation, order and dropout."""
    checkpoint_steps: int = Field(default=200, ge=1)
    """Steps between checkpoints; an interrupted stage goes on from the newest verified one."""
    log_steps: int = Field(default=10, ge=1)
    """Steps between two points of the loss curve."""

    @property
    def packs(self) -> bool:
        """Whether several rows share one line of a batch."""
        return False

    @model_validator(mode="after")
    def _combination_works(self) -> Self:
        stage = str(getattr(self, "stage", ""))
        refused = refusal(self.method, stage, packing=self.packs, recompute=self.gradient_checkpointing)
        if refused is not None:
            raise ValueError(refused.sentence)
        return self


class PackedSpec(StageSpec):
    """What the stages share whose rows may be packed."""

    packing: bool | None = None
    """Best-fit packing with block-diagonal attention, so that rows don't see one another; by default wherever the
    method allows it."""

    @property
    def packs(self) -> bool:
        """Whether several rows share one line of a batch."""
        return self.method.packs if self.packing is None else self.packing


class PretrainSpec(PackedSpec):
    """Continued pretraining on text: every token is a target."""

    stage: Literal["pretrain"] = "pretrain"


class SftSpec(PackedSpec):
    """Supervised fine-tuning: loss on the assistant's turns only."""

    stage: Literal["sft"] = "sft"


class DpoSpec(StageSpec):
    """Direct preference optimisation (arXiv 2305.18290)."""

    stage: Literal["dpo"] = "dpo"
    learning_rate: float = Field(default=5e-6, gt=0, lt=1)
    """Peak rate of AdamW: 5e-6 with LoRA, 5e-7 with full weights."""
    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference model (arXiv 2305.18290, section 4)."""
    sft_weight: float = Field(default=0.0, ge=0)
    """Weight of the likelihood of the chosen answer beside the preference loss (RPO, arXiv 2404.19733)."""


TrainSpec = Annotated[PretrainSpec | SftSpec | DpoSpec, Field(discriminator="stage")]


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


Job = Annotated[TrainJob | CompleteJob | MeasureJob, Field(discriminator="kind")]


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
    guards: dict[str, str] = Field(default_factory=dict)
    """Guard name to what it saw, such as `dpo_step0_loss: 0.6931`."""
    versions: dict[str, str] = Field(default_factory=dict)


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


class JobFailure(Record):
    """What a process writes instead of a result when it ends on a known error."""

    error: str
    """The error class of `data_catalog.errors`."""
    message: str
    valid: str = ""
    next_step: str = ""
