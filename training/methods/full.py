"""`full`: all weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from training.guards import check_adapter_active
from training.methods.base import Finished, Method, difference, logits
from training.models import ModelSource, device
from training.specs import StageSpec


class Full(Method):
    """All weights, held in float32 whatever the arithmetic: steps of 1e-5 vanish in bfloat16 weights."""

    name = "full"
    saves_whole = True

    def load(self, source: ModelSource, precision: torch.dtype) -> PreTrainedModel:
        """Load the weights in float32; bfloat16 arithmetic comes from autocast."""
        return self.base(source, torch.float32).to(device())

    def prepare(self, model: PreTrainedModel, spec: StageSpec, source: ModelSource) -> PreTrainedModel:
        """Set every weight trainable."""
        return model.requires_grad_(True)

    def save_adapter(self, trained: Any, spec: StageSpec, folder: Path) -> None:
        """Write the whole model."""
        trained.save_pretrained(folder)

    def finish(self, trained: Any, spec: StageSpec, source: ModelSource, probe: torch.Tensor, work: Path) -> Finished:
        """Nothing to merge: the model is what was trained, unless it is still the base."""
        model = trained.to("cpu", torch.float32)
        base = self.base(source, torch.float32)
        moved = difference(logits(model, probe), logits(base, probe))
        return Finished(model, {"weights_changed": check_adapter_active(moved.largest)})
