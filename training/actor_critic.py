"""A language model that answers, and with a value head on it that tells what an answer is going to earn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from training.guards import check_finite_logits


@dataclass(frozen=True)
class Answered:
    """Prompts, padded on the left, and their answers, padded on the right. int64."""

    ids: torch.Tensor
    """(rows, prompt + answer tokens)."""
    attention_mask: torch.Tensor
    """Shape of `ids`."""
    mask: torch.Tensor
    """(rows, answer tokens): 1 where a token belongs to the answer, its end token included."""
    ended: torch.Tensor
    """(rows,), bool: whether the answer has an end token."""

    @property
    def prompt_width(self) -> int:
        """How many positions the prompts take."""
        return self.ids.shape[1] - self.mask.shape[1]

    def conversations(self) -> list[list[int]]:
        """Return the tokens of each row without padding."""
        return [ids[mask.bool()].tolist() for ids, mask in zip(self.ids, self.attention_mask, strict=True)]

    def answers(self) -> list[list[int]]:
        """Return the tokens of each answer, with its end token."""
        ids = self.ids[:, self.prompt_width :]
        return [row[mask.bool()].tolist() for row, mask in zip(ids, self.mask, strict=True)]

    def widened(self, prompt: int, answer: int, pad_token: int) -> Answered:
        """Return the same rows with prompts and answers padded to so many tokens."""
        left, right = prompt - self.prompt_width, answer - self.mask.shape[1]
        pad = torch.nn.functional.pad
        return Answered(
            pad(self.ids, (left, right), value=pad_token),
            pad(self.attention_mask, (left, right)),
            pad(self.mask, (0, right)),
            self.ended,
        )


@dataclass(frozen=True)
class Said:
    """What a model makes of the tokens of answers; each (rows, answer tokens), float32."""

    logps: torch.Tensor
    values: torch.Tensor
    """0 for a model without a value head."""


class Actor(torch.nn.Module):
    """A policy."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, answered: Answered) -> Said:
        """Return the log-probability of each token of the answers."""
        return look(self.policy, answered)


class ActorCritic(Actor):
    """A policy and a value head on its last hidden states, which begins at 0."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        where = policy.get_input_embeddings().weight.device
        self.value_head = torch.nn.Linear(policy.config.get_text_config().hidden_size, 1).to(where)
        torch.nn.init.zeros_(self.value_head.weight)
        torch.nn.init.zeros_(self.value_head.bias)

    def forward(self, answered: Answered) -> Said:
        """Return log-probability and value of each token of the answers."""
        return look(self.policy, answered, self.value_head)


def look(model: Any, answered: Answered, value_head: torch.nn.Module | None = None) -> Said:
    """Return the log-probability of each token of the answers, and its value where there is a value head.

    A value belongs to the state before its token, so both are read where the token is predicted.
    """
    tokens = answered.mask.shape[1]
    output = model(
        input_ids=answered.ids,
        attention_mask=answered.attention_mask,
        position_ids=_positions(answered.attention_mask),
        logits_to_keep=tokens + 1,
        output_hidden_states=value_head is not None,
        use_cache=False,
    )
    logps = output.logits[:, -tokens - 1 : -1].float().log_softmax(dim=-1)
    chosen = logps.gather(-1, answered.ids[:, -tokens:, None])[:, :, 0] * answered.mask
    if value_head is None:
        return Said(chosen, torch.zeros_like(chosen))
    hidden = output.hidden_states[-1][:, -tokens - 1 : -1]
    return Said(chosen, value_head(hidden.float())[:, :, 0].float() * answered.mask)


def joined(parts: Sequence[Answered], pad_token: int) -> Answered:
    """Return the rows of all parts in one rectangle."""
    prompt = max(part.prompt_width for part in parts)
    tokens = max(part.mask.shape[1] for part in parts)
    wide = [part.widened(prompt, tokens, pad_token) for part in parts]
    return Answered(
        torch.cat([part.ids for part in wide]),
        torch.cat([part.attention_mask for part in wide]),
        torch.cat([part.mask for part in wide]),
        torch.cat([part.ended for part in wide]),
    )


def _positions(attention_mask: torch.Tensor) -> torch.Tensor:
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)


@torch.no_grad()
def answer(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    *,
    names: Sequence[str],
    tokens: int,
    end_tokens: frozenset[int],
    pad_token: int,
) -> Answered:
    """Sample one answer to each prompt from the policy's own distribution, by torch's random numbers.

    Not through `generate`: a model's generation settings (top_p, a repetition penalty) would make another distribution
    than the one whose probabilities are compared. Raises TrainingError, with the `names` of the prompts, on NaN.
    """
    where = policy.get_input_embeddings().weight.device
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_token] * (width - len(row)) + list(row) for row in prompts], device=where)
    attention = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=where)
    ends = torch.tensor(sorted(end_tokens), device=where)
    cache = DynamicCache(config=policy.config)
    going_on = torch.ones(len(prompts), dtype=torch.bool, device=where)
    fresh = ids
    mask: list[torch.Tensor] = []
    while len(mask) < tokens and bool(going_on.any()):
        logits = policy(
            input_ids=fresh,
            attention_mask=attention,
            position_ids=_positions(attention)[:, -fresh.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        check_finite_logits(logits, names)
        drawn = torch.multinomial(logits.float().softmax(dim=-1), 1)
        fresh = torch.where(going_on[:, None], drawn, pad_token)
        mask.append(going_on.long())
        ids = torch.cat([ids, fresh], dim=1)
        attention = torch.cat([attention, going_on.long()[:, None]], dim=1)
        going_on = going_on & ~torch.isin(fresh[:, 0], ends)
    return Answered(ids, attention, torch.stack(mask, dim=1), ~going_on)
