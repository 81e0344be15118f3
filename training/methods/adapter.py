"""`adapter`: bottleneck layers behind each block."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from training import bottleneck
from training.method_specs import AdapterSpec
from training.methods.base import Finished, Method, Seen, go_on, keep, logits, settings
from training.models import ModelSource, load_weights
from training.specs import StageSpec
from training.student import BottleneckStudent, Student
from training.trainable import save_trainable


class Adapter(Method):
    """Bottlenecks in place (`training.bottleneck`); the model stays an ordinary transformers model around them."""

    name = "adapter"

    def prepare(self, model: PreTrainedModel, spec: StageSpec, source: ModelSource) -> PreTrainedModel:
        """Put bottlenecks into the frozen model."""
        bottleneck.inject(model, settings(spec, AdapterSpec))
        go_on(model, source)
        if spec.gradient_checkpointing:
            # Without a gradient at its input, a recomputed layer would not be differentiated at all.
            model.enable_input_require_grads()
        return model

    def finish(
        self, trained: PreTrainedModel, spec: StageSpec, source: ModelSource, probe: torch.Tensor, work: Path
    ) -> Finished:
        """Keep the bottlenecks beside the base: non-linear, they can't be merged."""
        seen, folder = Seen(logits(trained, probe), trained.dtype), work / "adapter"
        self.save_adapter(trained, spec, folder)
        student = BottleneckStudent(bottleneck.from_pretrained(load_weights(source, torch.float32), folder))
        return keep(student, folder, source, probe, seen)

    def save_adapter(self, trained: PreTrainedModel, spec: StageSpec, folder: Path) -> None:
        """Write the bottlenecks with their configuration, and the state that training goes on from."""
        bottleneck.save_pretrained(trained, folder, settings(spec, AdapterSpec))
        save_trainable(trained, folder)

    def attach(self, source: ModelSource, model: PreTrainedModel) -> Student:
        """Put the stored bottlenecks into the base."""
        assert source.adapter is not None, "the source carries an adapter"
        return BottleneckStudent(bottleneck.from_pretrained(model, source.adapter))
