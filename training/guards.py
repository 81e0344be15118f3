"""Checks on what fails in silence: each raises TrainingError where it fires, or returns what it saw.

The result file lists every guard that looked and what it saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from data_catalog.errors import TrainingError
from training.specs import EQUAL_GROUPS, MetricPoint

MERGE_TOLERANCE = 1e-4
"""Largest difference of logits after a float32 merge, relative to the largest logit (seen: 2e-7)."""
STEP0_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2}
"""How far a first loss may be from the one that is known. Different padding of the two passes moves it by rounding."""


@dataclass(frozen=True)
class Fault:
    """What a guard on rows found."""

    guard: str
    row_id: str
    error: TrainingError


_collected: ContextVar[list[Fault] | None] = ContextVar("collected", default=None)


@contextmanager
def collecting() -> Iterator[list[Fault]]:
    """While open, the guards on rows write down what they find and don't raise it: for looking, never for training."""
    faults: list[Fault] = []
    token = _collected.set(faults)
    try:
        yield faults
    finally:
        _collected.reset(token)


def _found(guard: str, row_id: str, error: TrainingError) -> None:
    faults = _collected.get()
    if faults is None:
        raise error
    faults.append(Fault(guard, row_id, error))


def check_pad_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """The padding token must exist and be another than the end token, or ends are padded away from the loss."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise TrainingError(
            f"the padding token is {tokenizer.pad_token!r}, the end-of-sequence token {tokenizer.eos_token!r}",
            valid="a padding token of its own",
            next_step="set `pad_token` in tokenizer_config.json to a token that never stands in a text",
        )
    return f"{tokenizer.pad_token!r} is not {tokenizer.eos_token!r}"


def check_single_start(row_id: str, ids: Sequence[int], start_token: int | None) -> None:
    """A doubled beginning-of-sequence token is one that the model never sees when it is used."""
    if start_token is not None and len(ids) > 1 and ids[0] == start_token == ids[1]:
        error = TrainingError(
            f"row {row_id} begins with two beginning-of-sequence tokens",
            valid="one, put there by the chat template or by the tokenizer, not by both",
            next_step="remove `bos_token` from the chat template, or `add_bos_token` from tokenizer_config.json",
        )
        _found("single_start", row_id, error)


def check_prompt_is_prefix(row_id: str, prompt: Sequence[int], whole: Sequence[int]) -> None:
    """The tokens of the prompt alone must begin the whole conversation, or training and use differ."""
    if list(whole[: len(prompt)]) != list(prompt):
        same = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
        error = TrainingError(
            f"row {row_id}: the prompt's tokens and the conversation's differ from token {same} of {len(prompt)}",
            valid="a chat template whose prompt (with add_generation_prompt) is a token prefix of the conversation",
            next_step="correct the chat template: it may not render earlier turns differently once an answer follows",
        )
        _found("prompt_is_prefix", row_id, error)


def check_end_supervised(row_id: str, targets: Sequence[int], end_tokens: Iterable[int]) -> None:
    """The last target of a turn must end it, or the model is never taught to stop."""
    ends = set(end_tokens)
    if not targets or targets[-1] not in ends:
        last = targets[-1] if targets else None
        error = TrainingError(
            f"row {row_id}: the last token with loss is {last}, which does not end a turn",
            valid=f"one of the end tokens {sorted(ends)}",
            next_step="list the chat template's end-of-turn token as `eos_token_id` in generation_config.json",
        )
        _found("end_supervised", row_id, error)


def check_finite_loss(loss: torch.Tensor, step: int, row_ids: Sequence[str]) -> None:
    """NaN or infinite loss stops the run before the optimizer spreads it into the weights."""
    if not bool(torch.isfinite(loss)):
        shown = ", ".join(row_ids[:16]) + (f" and {len(row_ids) - 16} more" if len(row_ids) > 16 else "")
        raise TrainingError(
            f"the loss is {float(loss)} at step {step}, on the rows {shown}",
            valid="a finite loss",
            next_step="look at these rows; else lower learning_rate, or train in float32",
        )


def check_finite_logits(logits: torch.Tensor, row_ids: Sequence[str]) -> None:
    """NaN or infinite logits, shape (rows, vocabulary), can't be sampled from."""
    broken = ~torch.isfinite(logits).all(dim=-1)
    if bool(broken.any()):
        ids = [row_ids[index] for index in broken.nonzero()[:16, 0].tolist()]
        raise TrainingError(
            f"the model's logits are not finite where it answers the rows {', '.join(ids)}",
            valid="finite logits",
            next_step="look at these rows; else lower learning_rate, or train in float32",
        )


def preference_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """Return the mean DPO loss -log sigmoid(beta·((chosen - reference_chosen) - (rejected - reference_rejected))).

    All four are log-probabilities of whole answers, shape (pairs,). Source: arXiv 2305.18290, equation 7.
    """
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)
    return -torch.nn.functional.logsigmoid(beta * margin).mean()


def check_step0(loss: float, expected: float, dtype: torch.dtype) -> str:
    """Before the first step policy and reference are the same model, so the loss is `expected` whatever the data.

    That is ln 2 for the sigmoid loss of DPO, and 1/2 for KTO's without its KL term.
    """
    tolerance = STEP0_TOLERANCE[dtype]
    if not abs(loss - expected) <= tolerance:
        raise TrainingError(
            f"the loss before the first step is {loss:.4f}: the reference is not the model that is trained",
            valid=f"{expected:.4f}, within {tolerance}",
            next_step="report this: the reference log-probabilities must come from the model the stage starts from",
        )
    return f"{loss:.6f}, of {expected:.6f}"


def check_positions(longest: int, virtual: int, positions: int) -> str:
    """Virtual tokens take positions of the context; what lies beyond the last one was never trained."""
    if longest + virtual > positions:
        raise TrainingError(
            f"the longest row ({longest} tokens) and {virtual} virtual tokens need {longest + virtual} positions",
            valid=f"at most {positions}, which is what the model knows",
            next_step=f"set max_length to {positions - virtual} or less, or use fewer virtual `tokens`",
        )
    return f"{longest} tokens behind {virtual} virtual ones, of {positions}"


def check_adapter_active(difference: float) -> str:
    """An adapter that changes no logit was not trained, or is not applied."""
    if not difference > 0:
        raise TrainingError(
            "the trained adapter does not change the model's outputs",
            valid="logits that differ with the adapter on and off",
            next_step="train for more steps (the first one warms up from a rate of 0); if the loss fell, report this",
        )
    return f"moves logits by up to {difference:.3g}"


def check_parity(what: str, difference: float, scale: float, tolerance: float) -> str:
    """Two ways to the same model must give the same logits, within `tolerance` of the largest logit."""
    limit = tolerance * max(1.0, scale)
    if not difference <= limit:
        raise TrainingError(
            f"{what}: logits differ by {difference:.3g}",
            valid=f"at most {limit:.3g} ({tolerance:g} of the largest logit {scale:.3g})",
            next_step="report this: the saved model would not be the trained one",
        )
    return f"{difference:.3g} of {limit:.3g}"


def check_learned(metrics: Sequence[MetricPoint]) -> None:
    """Where in every rollout of a training all answers to a prompt earned the same, they taught nothing.

    Of stages that compare answers; the others log no such share.
    """
    shares = [point.values[EQUAL_GROUPS] for point in metrics if EQUAL_GROUPS in point.values]
    if shares and min(shares) == 1:
        raise TrainingError(
            "nothing was learned: in every rollout the answers to each prompt all earned the same",
            valid="a `reward` that tells the answers to a prompt apart",
            next_step="set `group_size` higher, take a reward with steps between such as token_f1, or start from a "
            "model that answers some of the prompts (an sft stage before)",
        )
