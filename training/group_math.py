"""The formulas of GRPO and RLOO on groups of answers to one prompt. Pure functions.

Rewards and advantages have the shape (answers,), the answers of a group one behind the other; log-probabilities and
masks (answers, tokens). `mask` is 1 where a token belongs to the answer, its end token included, and 0 behind it.
"""

from __future__ import annotations

from typing import Literal

import torch

from training.ppo_math import masked_mean

_LEAST_SPREAD = 1e-4
"""Added to a standard deviation that is divided by, as in TRL."""


def group_advantages(rewards: torch.Tensor, group: int, scale: Literal["group", "batch", "none"]) -> torch.Tensor:
    """Return (r - mean of its group) / (s + 1e-4); s: the standard deviation of the group or of all, or nothing.

    Source: arXiv 2402.03300, section 4.1.2; 2508.08221 for `batch`, 2503.20783 for `none`.
    """
    grouped = rewards.view(-1, group)
    centred = grouped - grouped.mean(dim=1, keepdim=True)
    if scale == "group":
        centred = centred / (grouped.std(dim=1, keepdim=True) + _LEAST_SPREAD)
    elif scale == "batch":
        centred = centred / (rewards.std() + _LEAST_SPREAD)
    return centred.flatten()


def leave_one_out_advantages(rewards: torch.Tensor, group: int, *, normalise: bool) -> torch.Tensor:
    """Return r less the mean of the others of its group; normalised over all answers where asked for.

    Source: arXiv 2402.14740.
    """
    grouped = rewards.view(-1, group)
    others = (grouped.sum(dim=1, keepdim=True) - grouped) / (group - 1)
    found = (grouped - others).flatten()
    return (found - found.mean()) / (found.std() + _LEAST_SPREAD) if normalise else found


def penalised(rewards: torch.Tensor, log_ratios: torch.Tensor, mask: torch.Tensor, kl_weight: float) -> torch.Tensor:
    """Return what answers earn less `kl_weight` · the sum of log(policy/reference). Source: arXiv 2402.14740."""
    return rewards - kl_weight * (log_ratios * mask).sum(dim=1)


def token_ratios(
    logps: torch.Tensor, old_logps: torch.Tensor, mask: torch.Tensor, importance: Literal["token", "sequence"]
) -> torch.Tensor:
    """Return exp(logps - old_logps) of each token; with `sequence` their geometric mean in an answer, (answers, 1).

    Source: arXiv 2507.18071.
    """
    logs = (logps - old_logps) * mask
    if importance == "sequence":
        logs = logs.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True)
    return logs.exp()


def clipped_losses(ratios: torch.Tensor, advantages: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Return -min(ρ·A, clip(ρ, 1 - low, 1 + high)·A), in the shape of the ratios.

    `advantages` broadcasts against them. Source: arXiv 1707.06347, equation 7; two sides in 2503.14476, section 3.1.
    """
    return -torch.minimum(ratios * advantages, ratios.clamp(1 - low, 1 + high) * advantages)


def weighed_losses(ratios: torch.Tensor, logps: torch.Tensor, advantages: torch.Tensor, high: float) -> torch.Tensor:
    """Return -sg(min(ρ, 1 + high))·A·log π, where sg has no gradient: CISPO, arXiv 2506.13585, section 3.1."""
    return -ratios.clamp(max=1 + high).detach() * advantages * logps


def divergences(logps: torch.Tensor, reference_logps: torch.Tensor, ratios: torch.Tensor) -> torch.Tensor:
    """Return ρ·(π_ref/π - log(π_ref/π) - 1) of each token: an estimate of the KL divergence that is never negative.

    The ratio ρ makes it one of the policy as it is now, not as it was when it answered. Source: arXiv 2402.03300,
    equation 4; with ρ 2512.02556, as in TRL.
    """
    log_ratios = reference_logps - logps
    return ratios * (log_ratios.exp() - log_ratios - 1)


def gathered(
    losses: torch.Tensor,
    mask: torch.Tensor,
    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"],
    *,
    longest: int,
    tokens_a_batch: float,
) -> torch.Tensor:
    """Return one number of the losses of all tokens.

    Args:
        losses: of each token, (answers, tokens), or of each answer, (answers, 1).
        mask: of the answers.
        loss: `grpo`: the mean over the answers of each one's mean. `bnpo`: the mean over the batch's tokens. `dapo`,
            `cispo`: their sum, divided by the tokens that a batch of the rollout has on average, so that each token of
            the rollout counts alike. `dr_grpo`: their sum, divided by answers times `longest`.
        longest: tokens that an answer may have.
        tokens_a_batch: tokens of the rollout's answers per batch of it.
    """
    if loss == "grpo":
        return ((losses * mask).sum(dim=1) / mask.sum(dim=1)).mean()
    if loss == "bnpo":
        return masked_mean(losses, mask)
    if loss == "dr_grpo":
        return (losses * mask).sum() / (len(mask) * longest)
    return (losses * mask).sum() / tokens_a_batch
