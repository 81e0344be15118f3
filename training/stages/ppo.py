"""Proximal policy optimisation (arXiv 1707.06347, 2203.02155). TRL has none any more, so the loop is ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

from training import ppo_math
from training.actor_critic import ActorCritic, Answered, answer, look
from training.rewards import Score
from training.specs import PpoSpec
from training.stages.base import Material, Setting
from training.stages.rollouts import Rollout, RolloutTrainer, SampledStage


@dataclass(frozen=True)
class Experience(Rollout):
    """The answers of one rollout, what was said of them then, and what they were worth."""

    kl_weight: float
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


class PpoTrainer(RolloutTrainer):
    """The loop of actor and critic."""

    kind = Experience
    spec: PpoSpec
    score: Score

    def learn(self, model: Any, told: Experience, at: torch.Tensor) -> torch.Tensor:
        """Return the loss of policy and values on answers of a rollout."""
        mask = told.mask[at]
        said = model(Answered(told.ids[at], told.attention_mask[at], mask, told.ended[at]))
        clip = self.spec.clip
        of_policy = ppo_math.policy_loss(said.logps, told.logps[at], told.advantages[at], mask, clip)
        of_value = ppo_math.value_loss(said.values, told.values[at], told.returns[at], mask, clip)
        ratios = ((said.logps - told.logps[at]) * mask).detach().exp()
        self.see(
            policy_loss=float(of_policy.detach()),
            value_loss=float(of_value.detach()),
            clip_fraction=float(ppo_math.masked_mean(((ratios - 1).abs() > clip).float(), mask)),
        )
        return of_policy + self.spec.value_weight * of_value

    @torch.no_grad()
    def roll_out(self, rollout: int) -> Experience:
        """Answer the prompts of a rollout, score the answers, and work out what each token was worth."""
        actor: ActorCritic = self.accelerator.unwrap_model(self.model)
        rows = [self.prompts[index] for index in self.order.rows_of(rollout)]
        answered = answer(
            actor.policy,
            [row.prompt for row in rows],
            names=[row.id for row in rows],
            tokens=self.spec.max_new_tokens,
            end_tokens=self.source.end_tokens,
            pad_token=int(self.source.tokenizer.pad_token_id),
        )
        said, reference = actor(answered), look(self.reference, answered)
        scores = self.score(answered.conversations()).to(said.logps.device)
        earned = scores - self.spec.unfinished_penalty * (~answered.ended).float()
        log_ratios = said.logps - reference.logps
        weight = self.experience.kl_weight if self.experience is not None else self.spec.kl_weight
        worth = ppo_math.generalised_advantages(
            ppo_math.token_rewards(earned, log_ratios, answered.mask, weight),
            said.values,
            answered.mask,
            discount=self.spec.discount,
            gae_lambda=self.spec.gae_lambda,
        )
        divergence = float(log_ratios.sum(dim=1).mean())
        self.see(
            reward=float(scores.mean()),
            kl=divergence,
            kl_weight=weight,
            answer_tokens=float(answered.mask.sum(dim=1).float().mean()),
            ended=float(answered.ended.float().mean()),
        )
        target = self.spec.kl_target
        return Experience(
            rollout=rollout,
            kl_weight=weight if target is None else ppo_math.adapted_kl_weight(weight, divergence, target),
            ids=answered.ids,
            attention_mask=answered.attention_mask,
            mask=answered.mask,
            ended=answered.ended,
            logps=said.logps,
            values=said.values,
            advantages=ppo_math.whitened(worth.advantages, answered.mask),
            returns=worth.returns,
        )


class Ppo(SampledStage):
    """Prompts in, a model whose answers a reward model likes better out."""

    name = "ppo"

    def trainer(
        self, spec: PpoSpec, model: Any, material: Material, setting: Setting, callbacks: list[TrainerCallback]
    ) -> PpoTrainer:
        """Return the loop, with the reward model of the stage before it."""
        return ppo_trainer(spec, model, material, setting, callbacks, self.reward_model(setting).score)


def ppo_trainer(
    spec: PpoSpec, model: Any, material: Material, setting: Setting, callbacks: list[TrainerCallback], score: Score
) -> PpoTrainer:
    """Return the loop on rewards by `score`."""
    trainer = Ppo().build(PpoTrainer, ActorCritic(model), spec, material, setting, callbacks)
    trainer.score = score
    return trainer
