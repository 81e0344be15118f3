"""The output head of TRL's trainers, made quick on a CPU.

TRL computes log-probabilities without holding all logits: on a GPU by a kernel and only at targets, on a CPU by some
twenty passes over the logits of every position, which costs a small model as much as all of its layers. Where memory
is no concern and targets are a part of the tokens, it is quicker to compute the logits of the targets alone, plainly.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from peft import PeftModel
from trl.trainer.utils import FusedCausalLMOutput

from training.packing import NO_LOSS

# Heads that scale or cap their logits, and mixtures of experts with a loss of their own, are left to TRL.
_SPECIAL = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
    "output_router_logits",
)
_LARGEST_LOGITS = 1 << 28
"""Most logits that are held at once (1 GiB in float32); a batch with more goes TRL's way."""


def add_cpu_head(model: Any) -> bool:
    """Put the head on a model that a TRL trainer has prepared; return whether it fits the model.

    Fits models on the CPU whose logits are a plain linear map of the last hidden states. The result is TRL's: per-token
    fields of shape (rows, tokens - 1), zero where there is no target.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    head = base.get_output_embeddings()
    config = base.config.get_text_config()
    plain = isinstance(head, torch.nn.Linear) and not any(getattr(config, name, None) for name in _SPECIAL)
    if not plain or head.weight.device.type != "cpu":
        return False
    of_trl = base.forward

    @functools.wraps(type(base).forward)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        if not fused_lm_head or labels is None:
            return of_trl(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)
        targets = labels[:, 1:]
        mask = targets != NO_LOSS
        if int(mask.sum()) * head.weight.shape[0] > _LARGEST_LOGITS:
            return of_trl(*args, fused_lm_head=True, labels=labels, **kwargs)
        kwargs.pop("num_items_in_batch", None)
        kwargs["use_cache"] = False  # as in TRL's own; with a cache packed rows would see one another
        hidden = self.base_model(*args, **kwargs).last_hidden_state[:, :-1]
        return at_targets(head(hidden[mask]).float(), targets[mask], mask)

    base.forward = types.MethodType(forward, base)
    return True


def at_targets(logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> FusedCausalLMOutput:
    """Return log-probability, entropy, mean logit and top-1 hit of each target, spread out over `mask`.

    Shapes: logits (targets, vocabulary); targets (targets,); mask (rows, tokens - 1) with as many True as targets.
    """
    log_probabilities = logits.log_softmax(dim=-1)
    picked = log_probabilities.gather(-1, targets[:, None])[:, 0]
    with torch.no_grad():
        entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=-1)
        means = logits.mean(dim=-1)
        hits = logits.argmax(dim=-1) == targets

    def spread(values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    return FusedCausalLMOutput(
        log_probs=spread(picked),
        entropy=spread(entropy),
        mean_logits=spread(means),
        is_top1=spread(hits),
        label_mask=mask,
    )
