"""`lora`: low-rank adapters on every linear layer but the output head, with its variants."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel

from training.method_specs import LoraSpec, LowRankSettings
from training.methods.base import settings
from training.methods.mergeable import Mergeable
from training.models import ModelSource
from training.specs import StageSpec

_INITS: dict[str, bool | str] = {"zero": True, "pissa": "pissa", "olora": "olora"}


class Lora(Mergeable):
    """Low-rank adapters (arXiv 2106.09685), float32 also on a bfloat16 base.

    PiSSA and OLoRA move a part of each weight into the adapter, so that switching it off shows what is left of the
    model, not the base. Here nothing relies on switching off: DPO's reference is the model before its first step, and
    the saved adapter is the difference from how it began, a plain LoRA of twice the rank that fits the untouched base.
    """

    name = "lora"
    task = "CAUSAL_LM"
    """What PEFT calls the kind of model that the adapters are put on."""

    def prepare(self, model: PreTrainedModel, spec: StageSpec, source: ModelSource) -> PeftModel:
        """Put fresh adapters on the model."""
        method = settings(spec, LowRankSettings)
        init = method.init if isinstance(method, LoraSpec) else "zero"
        config = LoraConfig(
            r=method.rank,
            lora_alpha=method.alpha,
            lora_dropout=method.dropout,
            use_rslora=method.rank_stabilised,
            use_dora=method.dora,
            init_lora_weights=_INITS[init],
            # PEFT's default is q and v only. all-linear leaves the output head out, where an adapter is not trained.
            target_modules="all-linear",
            bias="none",
            task_type=self.task,
        )
        adapted = get_peft_model(model, config)
        if init != "zero":
            adapted.initial_state = {k: v.clone() for k, v in get_peft_model_state_dict(adapted).items()}
            # TRL's DPO trainer adds a second adapter of this configuration, which would decompose the residual again.
            config.init_lora_weights = True
        return adapted

    def save_adapter(self, trained: PeftModel, spec: StageSpec, folder: Path) -> None:
        """Save an adapter for the untouched base: as it is, or for PiSSA and OLoRA what it has become."""
        trained.save_pretrained(folder)
        began = getattr(trained, "initial_state", None)
        if began is not None:
            _save_change(trained, began, folder)


def _save_change(trained: PeftModel, began: dict[str, torch.Tensor], folder: Path) -> None:
    """Write B·A - B0·A0 as one adapter: A' = [A; A0], B' = [B, -B0], of twice the rank and the same scale.

    Source: PEFT's `subtract_mutated_init`.
    """
    state = get_peft_model_state_dict(trained)
    changed = {
        name: (torch.cat([now, began[name]], dim=0) if "lora_A" in name else torch.cat([now, -began[name]], dim=1))
        for name, now in state.items()
    }
    save_file({name: value.cpu().contiguous() for name, value in changed.items()}, folder / "adapter_model.safetensors")
    config = LoraConfig.from_pretrained(folder)
    config.r *= 2
    config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2
    config.save_pretrained(folder)
