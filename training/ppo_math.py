"""The formulas of PPO on answers of a language model. Pure functions; shapes are (answers, tokens) throughout.

`mask` is 1 where a token belongs to the answer, its end token included, and 0 behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_KL_STEP, _KL_LARGEST_ERROR = 0.1, 0.2
"""K and the clip of arXiv 1909.08593, section 2.2."""


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over the tokens of all answers, a scalar."""
    return (values * mask).sum() / mask.sum()


def token_rewards(scores: torch.Tensor, log_ratios: torch.Tensor, mask: torch.Tensor, kl_weight: float) -> torch.Tensor:
    """Return each token's reward: -kl_weight · log(policy/reference), and the answer's score on its last token.

    `scores` has the shape (answers,), `log_ratios` that of the mask. The mean of the log-ratios over sampled answers is
    the KL divergence. Source: arXiv 1909.08593, equation 2.
    """
    rewards = -kl_weight * log_ratios * mask
    last = mask.sum(dim=1).long() - 1
    rewards[torch.arange(len(scores), device=scores.device), last] += scores
    return rewards


@dataclass(frozen=True)
class Advantages:
    """What each token was worth beyond expectation, and what the value head should have said."""

    advantages: torch.Tensor
    returns: torch.Tensor


def generalised_advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, discount: float, gae_lambda: float
) -> Advantages:
    """Return A_t = d_t + γλ·A_{t+1} with d_t = r_t + γ·V_{t+1} - V_t, and the returns A_t + V_t.

    Behind the last token of an answer all is 0. Source: arXiv 1506.02438, equation 16.
    """
    values = values * mask
    advantages = torch.zeros_like(values)
    ahead = values.new_zeros(len(values))
    for token in reversed(range(values.shape[1])):
        following = values[:, token + 1] if token + 1 < values.shape[1] else torch.zeros_like(ahead)
        surprise = rewards[:, token] + discount * following - values[:, token]
        ahead = (surprise + discount * gae_lambda * ahead) * mask[:, token]
        advantages[:, token] = ahead
    return Advantages(advantages, (advantages + values) * mask)


def whitened(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the values with mean 0 and variance 1 over all tokens; 0 behind the answers."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return (values - mean) * (variance + 1e-8).rsqrt() * mask


def policy_loss(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return -mean min(ρ·A, clip(ρ, 1 - clip, 1 + clip)·A) with ρ = exp(logps - old_logps). arXiv 1707.06347, eq. 7."""
    ratios = ((logps - old_logps) * mask).exp()
    return -masked_mean(torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages), mask)


def value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return ½·mean max((V - R)², (V' - R)²), where V' is V kept within `clip` of what it was at the rollout."""
    kept = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (kept - returns) ** 2), mask)


def adapted_kl_weight(weight: float, divergence: float, target: float) -> float:
    """Return weight·(1 + 0.1·clip(KL/target - 1, -0.2, 0.2)). Source: arXiv 1909.08593, section 2.2."""
    error = max(-_KL_LARGEST_ERROR, min(_KL_LARGEST_ERROR, divergence / target - 1))
    return weight * (1 + _KL_STEP * error)
