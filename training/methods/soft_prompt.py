"""What the methods share that put trained virtual tokens, or keys and values, before the input."""

from __future__ import annotations

import json
from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from data_catalog.errors import TrainingError
from training.methods.base import Finished, Method, Seen, go_on, keep, logits
from training.models import ModelSource, load_weights
from training.specs import StageSpec
from training.student import PromptedStudent, Student
from training.trainable import save_trainable

_BESIDE = "../base"
"""Where the base stands from the adapter's folder."""


class SoftPrompt(Method):
    """A frozen model with a trained prompt. There are no weights it could be merged into: it stays beside the base."""

    @abstractmethod
    def config(self, spec: StageSpec, source: ModelSource, hidden: int) -> PeftConfig:
        """Return PEFT's configuration of a fresh prompt; `hidden` is the model's width."""

    def prepare(self, model: PreTrainedModel, spec: StageSpec, source: ModelSource) -> PeftModel:
        """Freeze the model and put a prompt before it: fresh, or the one that `source` carries."""
        prompted = get_peft_model(model, self.config(spec, source, model.config.get_text_config().hidden_size))
        go_on(prompted, source)
        return prompted

    def reference(self, model: PeftModel, source: ModelSource) -> AbstractContextManager[None]:
        """A fresh prompt does change the model, so the model that the stage starts from is the one without it."""
        return nullcontext() if source.adapter is not None else model.disable_adapter()

    def starts_as_reference(self, source: ModelSource) -> bool:
        """Only a prompt that was trained before."""
        return source.adapter is not None

    def finish(
        self, trained: PeftModel, spec: StageSpec, source: ModelSource, probe: torch.Tensor, work: Path
    ) -> Finished:
        """Keep the prompt beside the base: there are no weights that it could be merged into."""
        seen, folder = Seen(logits(trained, probe), trained.get_base_model().dtype), work / "adapter"
        self.save_adapter(trained, spec, folder)
        return keep(self._prompted(folder, load_weights(source, torch.float32)), folder, source, probe, seen)

    def save_adapter(self, trained: PeftModel, spec: StageSpec, folder: Path) -> None:
        """Write the prompt as PEFT stores it, and beside it all that is needed to train it further."""
        trained.save_pretrained(folder)
        _forget_this_machine(folder)
        save_trainable(trained, folder)

    def attach(self, source: ModelSource, model: PreTrainedModel) -> Student:
        """Put the stored prompt before the base."""
        assert source.adapter is not None, "the source carries an adapter"
        return self._prompted(source.adapter, model)

    def _prompted(self, folder: Path, model: PreTrainedModel) -> PromptedStudent:
        return PromptedStudent(PeftModel.from_pretrained(model, str(folder)))


def _forget_this_machine(folder: Path) -> None:
    """Let the configuration name the base beside it instead of a path, so that equal adapters are equal bytes."""
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text("utf-8"))
    for name in ("base_model_name_or_path", "tokenizer_name_or_path"):
        if config.get(name):
            config[name] = _BESIDE
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


class Prefix(SoftPrompt):
    """A soft prompt of keys and values in every layer."""

    def prepare(self, model: PreTrainedModel, spec: StageSpec, source: ModelSource) -> PeftModel:
        """Refuse a model whose layers don't all keep the keys and values of every token."""
        kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise TrainingError(
                f"{self.name} needs full attention in each layer; this {model.config.model_type} model has "
                f"{', '.join(sorted(kinds))}",
                next_step="use prompt_tuning or p_tuning, which stand before the input embeddings",
            )
        return super().prepare(model, spec, source)
