"""The training stages as a user may ask for them, and what is refused of a stage before anything is run.

Light: imports neither torch nor TRL. What a stage does stands in `training.stages`, one file each.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from data_catalog.records import Spec
from training.compatibility import refusal
from training.method_specs import LoraSpec, MethodSpec


class StageSpec(Spec):
    """What all training stages share. Sources of the defaults stand in docs/configuration.md."""

    method: MethodSpec = LoraSpec()
    """Which weights are trained; `method: lora` is short for `method: {name: lora}`."""
    learning_rate: float = Field(default=1e-4, gt=0, lt=1)
    """Peak rate of AdamW. LoRA: 1e-4 to 2e-4, ten times that of full fine-tuning; full: 1e-5. Default from LoRA Without
    Regret."""
    epochs: float = Field(default=3.0, gt=0)
    """Passes over the data. Default from transformers' TrainingArguments; Stanford Alpaca was trained so."""
    batch_size: int = Field(default=8, ge=1)
    """Sequences per step and device. Default from transformers' TrainingArguments."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Batches per optimiser step. LoRA does best with at most 32 sequences per step (LoRA Without Regret). Default
    because a batch that fits into memory needs no pieces."""
    max_length: int = Field(default=1024, ge=16)
    """Longest sequence in tokens; what is longer is counted in the ledger. Default from TRL's SFTConfig."""
    max_lost_share: float = Field(default=0.05, ge=0, le=1)
    """Share of rows that may be truncated or dropped before the stage refuses to start. Default because a few odd rows
    are in any data, and where more are lost it is a setting that is wrong."""
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the rate rises to its peak. Default because it lies between the 0.03 of SFT and the
    0.1 of DPO in Tülu 3 (arXiv 2411.15124)."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """How the rate falls after the peak."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of AdamW. Default from transformers' TrainingArguments."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm. Default from transformers' TrainingArguments."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 on a GPU that has it, float32 otherwise."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    seed: int = 42
    """Seed of initialisation, order and dropout. Default from transformers' TrainingArguments."""
    checkpoint_steps: int = Field(default=200, ge=1)
    """Steps between checkpoints; an interrupted stage goes on from the newest verified one. Default because at a second
    or so a step minutes are lost at most, and the disk is left in peace."""
    log_steps: int = Field(default=10, ge=1)
    """Steps between two points of the loss curve. Default from TRL's trainers."""

    @property
    def stage_name(self) -> str:
        """What kind of stage it is: the field `stage` of every kind."""
        return str(getattr(self, "stage", ""))

    @property
    def packs(self) -> bool:
        """Whether several rows share one line of a batch."""
        return False

    @property
    def judged(self) -> bool:
        """Whether the stage needs the reward model of a `reward` stage before it."""
        return False

    @model_validator(mode="after")
    def _combination_works(self) -> Self:
        refused = refusal(self.method, self.stage_name, packing=self.packs, recompute=self.gradient_checkpointing)
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
    """Supervised fine-tuning: loss on what the assistant says only."""

    stage: Literal["sft"] = "sft"
    loss_on: Literal["assistant", "completion"] = "assistant"
    """Which tokens carry loss. `assistant`: every turn of the assistant. `completion`: its last turn only; the turns
    before it are read and not learned."""
    neftune_alpha: float | None = Field(default=None, gt=0)
    """NEFTune: uniform noise of this size, divided by the root of tokens times width, on the embedded input while
    training; 5 is usual (arXiv 2310.05914)."""


DpoLoss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]
"""The losses of TRL's DPOTrainer; a test compares them with those of the installed TRL."""

SMOOTHED = frozenset({"robust", "exo_pair", "aot", "aot_unpaired"})
"""The losses that read `label_smoothing`."""


def weighed_by_name(value: Any) -> Any:
    """Let `loss: ipo` stand for `loss: {ipo: 1.0}`."""
    return {value: 1.0} if isinstance(value, str) else value


def _sigmoid() -> dict[DpoLoss, float]:
    return {"sigmoid": 1.0}


class DpoSpec(StageSpec):
    """Direct preference optimisation (arXiv 2305.18290) and the losses that descend from it."""

    stage: Literal["dpo"] = "dpo"
    learning_rate: float = Field(default=5e-6, gt=0, lt=1)
    """Peak rate of AdamW: 5e-6 with LoRA, 5e-7 with full weights. Default because it is ten times (LoRA Without Regret)
    what full weights take in Tülu 3 (arXiv 2411.15124)."""
    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference model; the tau of `ipo`. Default from arXiv 2305.18290, appendix
    B."""
    loss: Annotated[
        dict[DpoLoss, Annotated[float, Field(gt=0)]], BeforeValidator(weighed_by_name), Field(min_length=1)
    ] = Field(default_factory=_sigmoid)
    """A loss by name, or a mix of losses with their weights, such as `{sigmoid: 1, sft: 0.5}` (RPO, arXiv 2404.19733).
    `sigmoid` (DPO), `hinge` (SLiC, 2305.10425), `ipo` (2310.12036), `exo_pair` (EXO, 2402.00856), `nca_pair` (NCA,
    2402.05369), `robust` (2403.00409), `bco_pair` (BCO, 2404.04656), `sppo_hard` (SPPO, 2405.00675), `aot` and
    `aot_unpaired` (2406.05882), `apo_zero` and `apo_down` (APO, 2408.06266), `discopop` (2406.08414), `sigmoid_norm`
    (DPO by the token, Tülu 3, 2411.15124), `sft` (likelihood of the chosen answers, only beside another)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """`robust`: the share of pairs that may be labelled the wrong way round, usually 0.1. `exo_pair` needs it, usually
    1e-3. `aot`, `aot_unpaired`: the weight of the opposite preference. Default because `sigmoid` reads none."""

    @model_validator(mode="after")
    def _losses_go_together(self) -> Self:
        if set(self.loss) == {"sft"}:
            raise ValueError(
                "`loss: sft` alone has no preference in it; "
                "nearest that works: stage sft, or {sigmoid: 1, sft: 1} in stage dpo"
            )
        if "exo_pair" in self.loss and self.label_smoothing == 0:
            raise ValueError("`exo_pair` needs `label_smoothing` above 0, such as 1e-3")
        if self.label_smoothing > 0 and not SMOOTHED & set(self.loss):
            raise ValueError(
                f"`label_smoothing` is read by {', '.join(sorted(SMOOTHED))} only, not by {', '.join(self.loss)}; "
                "nearest that works: loss: robust"
            )
        return self


class KtoSpec(StageSpec):
    """Kahneman-Tversky optimisation (arXiv 2402.01306): each answer of a pair counts alone, as wanted or unwanted."""

    stage: Literal["kto"] = "kto"
    learning_rate: float = Field(default=5e-6, gt=0, lt=1)
    """Peak rate of AdamW: 5e-6 with LoRA, 5e-7 with full weights. Default because both are DPO's here: the reference
    holds either in the same way."""
    batch_size: int = Field(default=8, ge=2)
    """Answers per step and device; a pair has two. The KL term is a mean over them. Default from transformers'
    TrainingArguments."""
    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference model. Default from arXiv 2402.01306."""
    loss: Literal["kto", "apo_zero_unpaired"] = "kto"
    """`kto`: answers are weighed against the KL divergence from the reference, estimated on mismatched answers.
    `apo_zero_unpaired`: without that term (arXiv 2408.06266)."""
    desirable_weight: float = Field(default=1.0, gt=0)
    """Weight of the chosen answers. Default because pairs have as many chosen as rejected answers (arXiv
    2402.01306)."""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """Weight of the rejected answers. Default because it is that of the chosen ones."""


class OrpoSpec(StageSpec):
    """Odds ratio preference optimisation (arXiv 2403.07691): likelihood and preference in one, without a reference."""

    stage: Literal["orpo"] = "orpo"
    learning_rate: float = Field(default=5e-5, gt=0, lt=1)
    """Peak rate of AdamW: 8e-6 with full weights (arXiv 2403.07691), up to ten times that with LoRA. Default because it
    stays somewhat below that, as nothing holds the model to a reference."""
    beta: float = Field(default=0.1, gt=0)
    """Weight of the odds ratio beside the likelihood of prompt and chosen answer; the paper's lambda. Default from
    arXiv 2403.07691, and TRL's ORPOConfig."""


class SimpoSpec(StageSpec):
    """Simple preference optimisation (arXiv 2405.14734): mean log-probability per token, without a reference."""

    stage: Literal["simpo"] = "simpo"
    learning_rate: float = Field(default=5e-6, gt=0, lt=1)
    """Peak rate of AdamW: 5e-6 with LoRA, 3e-7 to 1e-6 with full weights (arXiv 2405.14734). Default because LoRA takes
    about ten times the rate of full weights (LoRA Without Regret)."""
    beta: float = Field(default=2.0, gt=0)
    """Scale of the difference of mean log-probabilities; 2.0 to 2.5. Default from arXiv 2405.14734."""
    gamma: float = Field(default=1.0, ge=0)
    """How far the chosen answer shall be ahead, after scaling. Default because about half of `beta` is
    where arXiv 2405.14734 says to begin."""
    sft_weight: float = Field(default=0.0, ge=0)
    """Weight of the likelihood of the chosen answer beside the preference loss; above 0 this is CPO-SimPO. Default from
    arXiv 2405.14734, whose loss has no such part."""


class RewardSpec(StageSpec):
    """A reward model (Bradley-Terry, arXiv 2203.02155): gives a conversation one number, for a stage behind it.

    That is one that learns from the model's own answers: `ppo`, `grpo` or `rloo`. It starts from the model of the stage
    before it and hands that model on; it has no gate of its own.
    """

    stage: Literal["reward"] = "reward"
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the pairs. Default because reward models overfit soon (arXiv 2203.02155, appendix C.2)."""
    centring: float = Field(default=0.01, ge=0)
    """Weight of the square of the two rewards' sum, which keeps their mean at zero. Default from arXiv 2312.09244,
    equation 2."""
