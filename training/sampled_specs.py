"""The stages that learn from the model's own answers, as a user may ask for them: `ppo`, `grpo`, `rloo`.

Light, as `training.stage_specs`. TRL stands for its version in the locks.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from training.stage_specs import StageSpec, weighed_by_name


class SampledSpec(StageSpec):
    """What these stages share: prompts are answered in rollouts, and the answers of a rollout are learned from."""

    learning_rate: float = Field(default=1e-5, gt=0, lt=1)
    """Peak rate of AdamW: 1e-5 with LoRA, 1e-6 with full weights. Default because LoRA takes about ten times the rate
    of full weights (LoRA Without Regret)."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the prompts; each pass answers all of them anew. Default because `passes` learns several times from
    each answer already."""
    rollout: int = Field(default=32, ge=1)
    """Prompts that are answered before the answers are learned from. Default because it makes four batches of the
    default size: enough answers to whiten the advantages over."""
    passes: int = Field(default=4, ge=1)
    """How often the answers of one rollout are learned from. Default from the PPOConfig that TRL had."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Tokens of an answer at most. Default because a suite's `max_tokens` is as many: what is learned is what is
    asked."""
    clip: float = Field(default=0.2, gt=0, lt=1)
    """How far a probability may move, as a share of that at its rollout, before it stops counting. Default from arXiv
    1707.06347, section 6.1."""
    unfinished_penalty: float = Field(default=1.0, ge=0)
    """What an answer loses that did not end within `max_new_tokens`. Default because centred rewards lie around zero,
    where one makes a bad answer of a good one."""

    @property
    def group(self) -> int:
        """How often each prompt of a rollout is answered."""
        return 1

    @property
    def held(self) -> bool:
        """Whether a frozen copy of the model that the stage starts from is kept beside it."""
        return True

    @model_validator(mode="after")
    def _minibatches_fit(self) -> Self:
        answers = self.rollout * self.group
        if answers % self.batch_size:
            nearest = f"batch_size: {math.gcd(answers, self.batch_size)}"
            what = "`rollout`"
            if self.group == 1:
                nearest = f"rollout: {max(1, round(self.rollout / self.batch_size)) * self.batch_size}"
            else:
                what = "`rollout` times `group_size`"
            raise ValueError(
                f"{what} must be a multiple of `batch_size`, got {answers} and {self.batch_size}; "
                f"nearest that works: {nearest}"
            )
        return self


class PpoSpec(SampledSpec):
    """Proximal policy optimisation (arXiv 1707.06347, 2203.02155) on the reward model of the `reward` stage before it.

    The model answers prompts; each answer earns its reward, less the KL divergence from the model that the stage starts
    from; a value head on the same model tells what was to be expected.
    """

    stage: Literal["ppo"] = "ppo"
    batch_size: int = Field(default=8, ge=1)
    """Answers per optimiser step and device; a divisor of `rollout`. Default from transformers' TrainingArguments."""
    clip: float = Field(default=0.2, gt=0, lt=1)
    """How far a token's probability may move, as a share of that at its rollout, before it stops counting; and how far
    the values may move. Default from arXiv 1707.06347, section 6.1."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """Gamma: how much a reward counts one token earlier. Default from arXiv 2203.02155, appendix C.4: no discount."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """Lambda of generalised advantage estimation (arXiv 1506.02438). Default from arXiv 1707.06347, table 3."""
    value_weight: float = Field(default=0.1, ge=0)
    """Weight of the value head's loss. Default from the PPOConfig that TRL had."""
    kl_weight: float = Field(default=0.05, ge=0)
    """Weight of the KL divergence from the model that the stage starts from, per token, at the beginning. Default
    from the PPOConfig that TRL had."""
    kl_target: float | None = Field(default=6.0, gt=0)
    """Divergence of a whole answer, in nats, that `kl_weight` is adapted to (arXiv 1909.08593, section 2.2); null keeps
    it as it is. Default from the PPOConfig that TRL first had."""

    @property
    def judged(self) -> bool:
        """Whether the stage needs the reward model of a `reward` stage before it."""
        return True


RewardName = Literal["model", "exact_match", "token_f1", "contains"]
"""What an answer may earn: by the reward model, or by the answer that its row has (scorers of the same names)."""


def _by_model() -> dict[RewardName, float]:
    return {"model": 1.0}


def _not_alone(value: Any) -> Any:
    """Refuse a group of one with the reason."""
    if value == 1:
        raise ValueError(
            "a group of 1 has no other answer to compare its answer with, so no answer would be learned from; "
            "nearest that works: group_size: 2, or stage: ppo, whose value head tells what was to be expected"
        )
    return value


class GroupSpec(SampledSpec):
    """What `grpo` and `rloo` share: an answer is as good as it is better than the others to the same prompt."""

    learning_rate: float = Field(default=1e-5, gt=0, lt=1)
    """Peak rate of AdamW: 1e-5 with LoRA, 1e-6 with full weights (arXiv 2402.03300, section 4.2; TRL's GRPOConfig and
    RLOOConfig). Default because LoRA takes about ten times the rate of full weights (LoRA Without Regret)."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the prompts; each pass answers all of them anew. Default because each prompt is answered
    `group_size` times already."""
    group_size: Annotated[int, BeforeValidator(_not_alone)] = Field(default=8, ge=2)
    """Answers to each prompt of a rollout; 64 in arXiv 2402.03300, section 4.2, 2 in TRL's RLOOConfig. Default from
    TRL's GRPOConfig."""
    rollout: int = Field(default=4, ge=1)
    """Prompts that are answered, each `group_size` times, before the answers are learned from. Default because these
    are 32 answers, as many as those of a rollout of `ppo`."""
    passes: int = Field(default=1, ge=1)
    """How often the answers of one rollout are learned from. Default from arXiv 2402.03300, section 4.2; TRL's
    GRPOConfig and RLOOConfig have it too."""
    batch_size: int = Field(default=32, ge=1)
    """Answers per optimiser step and device; a divisor of `rollout` times `group_size`. Default because it is all of
    them: with one pass every answer is learned from by the model that gave it."""
    reward: Annotated[
        dict[RewardName, Annotated[float, Field(gt=0)]], BeforeValidator(weighed_by_name), Field(min_length=1)
    ] = Field(default_factory=_by_model)
    """What an answer earns: one by name, or several with their weights, such as `{model: 1, exact_match: 2}`. `model`:
    the reward model of the `reward` stage before this one. `exact_match`, `token_f1`, `contains`: between 0 and 1, by
    the answer that the row has, as the scorers of these names."""
    clip_high: float | None = Field(default=None, gt=0)
    """How far a probability may rise, where that is more than it may fall; 0.28 in DAPO (arXiv 2503.14476, section
    4.1). Null: as `clip`."""
    unfinished_penalty: float = Field(default=1.0, ge=0)
    """What an answer loses that did not end within `max_new_tokens`. Default because it makes the best answer by a
    reward between 0 and 1 as bad as the worst one that ended."""

    @property
    def group(self) -> int:
        """How often each prompt of a rollout is answered."""
        return self.group_size

    @property
    def held(self) -> bool:
        """Whether a frozen copy of the model that the stage starts from is kept beside it."""
        return float(getattr(self, "kl_weight", 0.0)) > 0

    @property
    def judged(self) -> bool:
        """Whether the stage needs the reward model of a `reward` stage before it."""
        return "model" in self.reward


class GrpoSpec(GroupSpec):
    """Group relative policy optimisation (arXiv 2402.03300) and the losses that descend from it.

    The model answers each prompt several times; an answer's advantage is its reward less its group's mean. There is no
    value head.
    """

    stage: Literal["grpo"] = "grpo"
    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = "dapo"
    """How tokens are weighed, as in TRL, whose default this is. `grpo`: each answer's mean counts alike
    (arXiv 2402.03300). `dapo`: each token of the rollout counts alike (2503.14476, section 3.3); `bnpo`: each of the
    batch. `dr_grpo`: the sum, divided by `max_new_tokens` (2503.20783). `cispo`: as `dapo`, but a ratio that is clipped
    weighs its token instead of leaving it out; it is cut at 1 + `clip_high` alone (2506.13585, section 3.1)."""
    importance: Literal["token", "sequence"] = "token"
    """Whether each token has its own ratio of probabilities, or all tokens of an answer have the geometric mean of
    theirs (GSPO, arXiv 2507.18071), which goes with `loss: grpo`."""
    scale: Literal["group", "batch", "none"] = "group"
    """What advantages are divided by: the standard deviation of the rewards of the `group` (arXiv 2402.03300), of the
    whole rollout (`batch`, 2508.08221), or `none`, which does not favour prompts that are nearly always or nearly never
    answered well (2503.20783)."""
    kl_weight: float = Field(default=0.04, ge=0)
    """Weight of the KL divergence from the model that the stage starts from, in the loss of each token; 0 in TRL's
    GRPOConfig. At 0 no copy of that model is kept. Default from arXiv 2402.03300, section 4.2."""

    @model_validator(mode="after")
    def _ratio_goes_with_loss(self) -> Self:
        if self.importance == "sequence" and self.loss != "grpo":
            raise ValueError(
                f"`importance: sequence` has one ratio an answer, which `loss: {self.loss}` would count once a token; "
                "nearest that works: loss: grpo"
            )
        return self


class RlooSpec(GroupSpec):
    """REINFORCE leave-one-out (arXiv 2402.14740).

    The model answers each prompt several times; an answer's advantage is its reward, less its KL divergence from the
    model that the stage starts from, less the mean of what the others of its group earned. There is no value head.
    """

    stage: Literal["rloo"] = "rloo"
    normalise: bool = False
    """Whether the advantages of a rollout are brought to mean 0 and standard deviation 1; TRL leaves them too."""
    kl_weight: float = Field(default=0.05, ge=0)
    """Weight of the KL divergence of a whole answer, in nats, in what it earns. At 0 no copy of that model is kept.
    Default from TRL's RLOOConfig."""
