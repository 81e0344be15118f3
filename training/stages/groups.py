"""What GRPO and RLOO share: each prompt is answered several times, and an answer is compared with its group.

The loop is that of `training.stages.rollouts`, not TRL's GRPOTrainer and RLOOTrainer. Those keep the answers that are
being learned from in memory alone, so a training that was stopped between two steps of a rollout would go on with other
answers than it had; they render prompts themselves, so what a model reads would not be what the ledger and the guards
saw; and a reward that is NaN counts there as 0, where it should stop the stage. Where vLLM is installed they import it
too, of the versions that TRL knows. The formulas are TRL's: tests hold losses, gradients and advantages to its code.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import TrainerCallback

from training.actor_critic import Actor, Answered, Said, answer, joined, look
from training.ppo_math import masked_mean
from training.rewards import Rewarder, Score, check_rewards
from training.specs import EQUAL_GROUPS, GroupSpec
from training.stages.base import Material, Setting
from training.stages.rollouts import PromptRow, Rollout, RolloutTrainer, SampledStage


@dataclass(frozen=True)
class GroupExperience(Rollout):
    """The answers of one rollout, those to a prompt one behind the other, and how each compared with its group."""

    reference_logps: torch.Tensor
    """Shape of `logps`; equal to them where no reference is held."""
    advantages: torch.Tensor
    """(answers,), float32."""


@dataclass(frozen=True)
class _Part:
    """As many answers of a rollout as are computed at once."""

    answered: Answered
    logps: torch.Tensor
    reference_logps: torch.Tensor
    rewards: dict[str, torch.Tensor]


class GroupTrainer(RolloutTrainer):
    """The loop on groups of answers."""

    kind = GroupExperience
    spec: GroupSpec
    rewarder: Rewarder

    @abstractmethod
    def advantages(self, earned: torch.Tensor, log_ratios: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return what each answer was worth beside its group, (answers,).

        `earned`: (answers,), what they earned; `log_ratios`: (answers, tokens), log(policy/reference) as they were
        given, 0 where no reference is held.
        """

    @abstractmethod
    def loss(self, said: Said, told: GroupExperience, at: torch.Tensor) -> torch.Tensor:
        """Return the loss on the answers at the places `at`, of which the policy now says `said`."""

    def learn(self, model: Any, told: GroupExperience, at: torch.Tensor) -> torch.Tensor:
        """Return the loss on the answers of a rollout that stand at the places `at`."""
        said = model(Answered(told.ids[at], told.attention_mask[at], told.mask[at], told.ended[at]))
        loss = self.loss(said, told, at)
        self.see(policy_loss=float(loss.detach()))
        return loss

    @torch.no_grad()
    def roll_out(self, rollout: int) -> GroupExperience:
        """Answer each prompt of a rollout `group_size` times and compare the answers; a batch of them at a time."""
        rows = [self.prompts[index] for index in self.order.rows_of(rollout)]
        each = self.args.per_device_train_batch_size
        parts = [self._answer(rows[start : start + each]) for start in range(0, len(rows), each)]
        answered = joined([part.answered for part in parts], int(self.source.tokenizer.pad_token_id))
        mask = answered.mask
        logps = _stacked([part.logps for part in parts], mask.shape[1])
        reference_logps = _stacked([part.reference_logps for part in parts], mask.shape[1])
        rewards: dict[str, torch.Tensor] = {
            name: torch.cat([part.rewards[name] for part in parts]) for name in self.rewarder.weights
        }
        total = self.rewarder.total(rewards)
        check_rewards(total, [row.id for row in rows])
        earned = total.to(mask.device) - self.spec.unfinished_penalty * (~answered.ended).float()
        log_ratios = logps - reference_logps
        self._tell(rewards, total, earned, log_ratios, answered)
        return GroupExperience(
            rollout=rollout,
            ids=answered.ids,
            attention_mask=answered.attention_mask,
            mask=mask,
            ended=answered.ended,
            logps=logps,
            reference_logps=reference_logps,
            advantages=self.advantages(earned, log_ratios, mask),
        )

    def _answer(self, rows: Sequence[PromptRow]) -> _Part:
        actor: Actor = self.accelerator.unwrap_model(self.model)
        answered = answer(
            actor.policy,
            [row.prompt for row in rows],
            names=[row.id for row in rows],
            tokens=self.spec.max_new_tokens,
            end_tokens=self.source.end_tokens,
            pad_token=int(self.source.tokenizer.pad_token_id),
        )
        logps = actor(answered).logps
        held = logps if self.reference is None else look(self.reference, answered).logps
        rewards = self.rewarder.parts([row.prompt for row in rows], answered.answers(), [row.expected for row in rows])
        return _Part(answered, logps, held, rewards)

    def _tell(
        self,
        rewards: dict[str, torch.Tensor],
        total: torch.Tensor,
        earned: torch.Tensor,
        log_ratios: torch.Tensor,
        answered: Answered,
    ) -> None:
        """Note what is logged of a rollout. Nothing is learned of a prompt whose answers all earned the same."""
        spread = earned.view(-1, self.spec.group_size).std(dim=1)
        self.see(
            reward=float(total.mean()),
            group_std=float(spread.mean()),
            **{EQUAL_GROUPS: float((spread < 1e-6).float().mean())},
            answer_tokens=float(answered.mask.sum(dim=1).float().mean()),
            ended=float(answered.ended.float().mean()),
        )
        if self.reference is not None:
            self.see(kl=float(log_ratios.sum(dim=1).mean()))
        if len(rewards) > 1:
            self.see(**{f"reward_{name}": float(values.mean()) for name, values in rewards.items()})

    def clip_high(self) -> float:
        """Return how far a ratio may rise above 1."""
        return self.spec.clip if self.spec.clip_high is None else self.spec.clip_high

    def see_clipped(self, ratios: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor) -> None:
        """Note the share of tokens that have no gradient, because their ratio went as far as it may."""
        fallen = (ratios < 1 - self.spec.clip) & (advantages < 0)
        risen = (ratios > 1 + self.clip_high()) & (advantages > 0)
        self.see(clip_fraction=float(masked_mean((fallen | risen).float().expand(mask.shape), mask)))


def _stacked(values: Sequence[torch.Tensor], width: int) -> torch.Tensor:
    """Return the rows of all, each (rows, tokens), with zeros behind them up to one width."""
    return torch.cat([torch.nn.functional.pad(one, (0, width - one.shape[1])) for one in values])


class GroupStage(SampledStage):
    """Prompts in, a model whose answers earn more than they did out, without a value head."""

    loop: ClassVar[type[GroupTrainer]]

    def trainer(
        self, spec: GroupSpec, model: Any, material: Material, setting: Setting, callbacks: list[TrainerCallback]
    ) -> GroupTrainer:
        """Return the loop, with the reward model of the stage before it where that is asked for."""
        score = self.reward_model(setting).score if spec.judged else None
        return self.rewarded(spec, model, material, setting, callbacks, score)

    def rewarded(
        self,
        spec: GroupSpec,
        model: Any,
        material: Material,
        setting: Setting,
        callbacks: list[TrainerCallback],
        score: Score | None,
    ) -> GroupTrainer:
        """Return the loop, with `score` for the reward `model`."""
        trainer = self.build(self.loop, Actor(model), spec, material, setting, callbacks)
        trainer.rewarder = Rewarder(spec.reward, setting.source.tokenizer, score)
        return trainer
