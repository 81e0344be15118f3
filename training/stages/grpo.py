"""Group relative policy optimisation (arXiv 2402.03300), with DAPO, Dr. GRPO, CISPO and GSPO beside it."""

from __future__ import annotations

import torch

from training import group_math
from training.actor_critic import Said
from training.specs import GrpoSpec
from training.stages.groups import GroupExperience, GroupStage, GroupTrainer


class GrpoTrainer(GroupTrainer):
    """Advantages of a group's mean, and the divergence from the reference in the loss of each token."""

    spec: GrpoSpec

    def advantages(self, earned: torch.Tensor, log_ratios: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return what each answer earned beyond the mean of its group, scaled."""
        return group_math.group_advantages(earned, self.spec.group_size, self.spec.scale)

    def loss(self, said: Said, told: GroupExperience, at: torch.Tensor) -> torch.Tensor:
        """Return the loss of the spec, with the weighed divergence of each token in it."""
        spec, mask, advantages = self.spec, told.mask[at], told.advantages[at][:, None]
        ratios = group_math.token_ratios(said.logps, told.logps[at], mask, spec.importance)
        if spec.loss == "cispo":
            losses = group_math.weighed_losses(ratios, said.logps, advantages, self.clip_high())
        else:
            losses = group_math.clipped_losses(ratios, advantages, spec.clip, self.clip_high())
        if spec.held:
            losses = losses + spec.kl_weight * group_math.divergences(said.logps, told.reference_logps[at], ratios)
        self.see_clipped(ratios.detach(), advantages, mask)
        return group_math.gathered(
            losses,
            mask,
            spec.loss,
            longest=spec.max_new_tokens,
            tokens_a_batch=float(told.mask.sum()) * len(at) / len(told.mask),
        )


class Grpo(GroupStage):
    """Prompts in, a model whose answers earn more out; an answer is compared with the mean of its group."""

    name = "grpo"
    loop = GrpoTrainer
