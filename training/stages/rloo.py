"""REINFORCE leave-one-out (arXiv 2402.14740)."""

from __future__ import annotations

import torch

from training import group_math
from training.actor_critic import Said
from training.specs import RlooSpec
from training.stages.groups import GroupExperience, GroupStage, GroupTrainer


class RlooTrainer(GroupTrainer):
    """Advantages over the others of a group; the divergence from the reference is taken off what an answer earns."""

    spec: RlooSpec

    def advantages(self, earned: torch.Tensor, log_ratios: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return what each answer earned, less its divergence, beyond the mean of the others of its group."""
        kept = group_math.penalised(earned, log_ratios, mask, self.spec.kl_weight)
        return group_math.leave_one_out_advantages(kept, self.spec.group_size, normalise=self.spec.normalise)

    def loss(self, said: Said, told: GroupExperience, at: torch.Tensor) -> torch.Tensor:
        """Return the mean over answers of the clipped loss, by the ratio of whole answers as in TRL."""
        mask, advantages = told.mask[at], told.advantages[at]
        ratios = ((said.logps - told.logps[at]) * mask).sum(dim=1).exp()
        self.see_clipped(ratios.detach()[:, None], advantages[:, None], mask)
        return group_math.clipped_losses(ratios, advantages, self.spec.clip, self.clip_high()).mean()


class Rloo(GroupStage):
    """Prompts in, a model whose answers earn more out; an answer is compared with the others of its group."""

    name = "rloo"
    loop = RlooTrainer
