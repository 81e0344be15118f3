"""The quick head computes what TRL's own does, and leaves alone what it doesn't know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from training.cpu_head import add_cpu_head

OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")


def prepared(base: Path, *, lora: bool, quick: bool) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa")
    if lora:
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    add_fused_lm_head(model.get_base_model() if lora else model, outputs=OUTPUTS)
    assert add_cpu_head(model) if quick else True
    return model


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    ids = torch.randint(5, 300, (3, 20))
    labels = ids.masked_fill(torch.rand(ids.shape) < 0.6, -100)
    labels[2] = -100
    return {"input_ids": ids, "labels": labels, "position_ids": torch.arange(20).remainder(9).expand(3, 20)}


@pytest.mark.parametrize("lora", [False, True])
def test_values_and_gradients_are_those_of_trl(base: Path, batch: dict[str, torch.Tensor], lora: bool) -> None:
    outcomes = []
    for quick in (True, False):
        model = prepared(base, lora=lora, quick=quick)
        output = model(**batch, fused_lm_head=True, use_cache=False)
        (-output.log_probs.sum()).backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        outcomes.append((output, gradients))
    (quick_output, quick_gradients), (output, gradients) = outcomes
    for name in (*OUTPUTS, "label_mask"):
        torch.testing.assert_close(getattr(quick_output, name), getattr(output, name), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(quick_gradients, gradients, rtol=1e-4, atol=1e-5)


def test_a_batch_without_targets_is_a_differentiable_zero(base: Path, batch: dict[str, torch.Tensor]) -> None:
    model = prepared(base, lora=False, quick=True)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    loss = model(**batch, fused_lm_head=True).log_probs.sum()
    loss.backward()
    assert float(loss.detach()) == 0


def test_an_ordinary_call_is_untouched(base: Path, batch: dict[str, torch.Tensor]) -> None:
    plain = AutoModelForCausalLM.from_pretrained(base)
    expected = plain(input_ids=batch["input_ids"]).logits
    assert torch.equal(prepared(base, lora=False, quick=True)(input_ids=batch["input_ids"]).logits, expected)


def test_a_head_that_caps_its_logits_is_left_to_trl(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    model.config.final_logit_softcapping = 30.0
    assert not add_cpu_head(model)
