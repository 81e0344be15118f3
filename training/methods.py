"""The fine-tuning methods: what of a model is trained, and how the trained part becomes an ordinary model again.

A method is one class and one row of `METHODS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig, PreTrainedModel

from data_catalog.errors import MissingDependency, TrainingError
from training.guards import MERGE_TOLERANCE, check_adapter_active, check_parity
from training.models import ModelSource, device, load_weights
from training.specs import FullSpec, LoraSpec, QloraSpec, StageSpec

_BF16_TOLERANCE = 5e-2
"""A base held in bfloat16 rounds each layer's output to 8 bits; parity with float32 is no closer than this."""


@dataclass(frozen=True)
class Merged:
    """An ordinary full-precision model, and what the guards saw on the way."""

    model: PreTrainedModel
    guards: dict[str, str] = field(default_factory=dict)


class Method(ABC):
    """How a model is loaded for training, what of it is trained, and how it is made whole again."""

    name: str

    @abstractmethod
    def load(self, source: ModelSource, precision: torch.dtype) -> PreTrainedModel:
        """Load the base as this method trains on it. `precision` is the dtype of the arithmetic."""

    @abstractmethod
    def prepare(self, model: PreTrainedModel, spec: StageSpec) -> PreTrainedModel | PeftModel:
        """Return the model with exactly what this method trains set trainable."""

    @abstractmethod
    def merge(self, trained: Any, source: ModelSource, probe: torch.Tensor, work: Path) -> Merged:
        """Return the trained model as an ordinary one, float32, on the CPU.

        `probe` (int64, (rows, tokens)) is what the guards compare logits on; adapters are kept in `work/adapter`.
        """


class Full(Method):
    """All weights, held in float32 whatever the arithmetic: steps of 1e-5 vanish in bfloat16 weights."""

    name = "full"

    def load(self, source: ModelSource, precision: torch.dtype) -> PreTrainedModel:
        """Load the weights in float32; bfloat16 arithmetic comes from autocast."""
        return load_weights(source, torch.float32).to(device())

    def prepare(self, model: PreTrainedModel, spec: StageSpec) -> PreTrainedModel:
        """Set every weight trainable."""
        return model.requires_grad_(True)

    def merge(self, trained: PreTrainedModel, source: ModelSource, probe: torch.Tensor, work: Path) -> Merged:
        """Nothing to merge: the model is what was trained, unless it is still the base."""
        model = trained.to("cpu", torch.float32)
        base = load_weights(source, torch.float32)
        moved = _difference(logits(model, probe), logits(base, probe))
        return Merged(model, {"weights_changed": check_adapter_active(moved.largest)})


class Lora(Method):
    """Low-rank adapters on every linear layer but the output head (arXiv 2106.09685)."""

    name = "lora"

    def load(self, source: ModelSource, precision: torch.dtype) -> PreTrainedModel:
        """Load the frozen base in the precision of the arithmetic."""
        return load_weights(source, precision).to(device())

    def prepare(self, model: PreTrainedModel, spec: StageSpec) -> PeftModel:
        """Put fresh adapters on the model; they are float32 also on a bfloat16 base."""
        method = spec.method
        if not isinstance(method, LoraSpec | QloraSpec):
            raise TypeError(f"{type(method).__name__} is not a LoRA spec")
        config = LoraConfig(
            r=method.rank,
            lora_alpha=method.alpha,
            lora_dropout=method.dropout,
            # PEFT's default is q and v only. all-linear leaves the output head out, where an adapter is not trained.
            target_modules="all-linear",
            bias="none",
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)

    def merge(self, trained: PeftModel, source: ModelSource, probe: torch.Tensor, work: Path) -> Merged:
        """Save the adapter, put it on the full-precision base, merge, and compare logits at each step."""
        trained.eval()
        in_training = logits(trained, probe)
        adapter = work / "adapter"
        trained.save_pretrained(adapter)
        attached = PeftModel.from_pretrained(load_weights(source, torch.float32), str(adapter)).eval()
        apart = logits(attached, probe)
        with attached.disable_adapter():
            base = logits(attached, probe)
        merged = attached.merge_and_unload(safe_merge=True)
        together = _difference(logits(merged, probe), apart)
        return Merged(
            merged,
            {
                "adapter_active": check_adapter_active(_difference(apart, base).largest),
                "merge_parity": check_parity("merging", together.largest, together.scale, MERGE_TOLERANCE),
                **self._saved_parity(trained, _difference(apart, in_training)),
            },
        )

    def _saved_parity(self, trained: PeftModel, difference: Difference) -> dict[str, str]:
        exact = trained.get_base_model().dtype == torch.float32
        tolerance = MERGE_TOLERANCE if exact else _BF16_TOLERANCE
        return {"save_parity": check_parity("saving", difference.largest, difference.scale, tolerance)}


class Qlora(Lora):
    """LoRA on a base in 4-bit NF4 with double quantisation (arXiv 2305.14314).

    The adapters are merged onto the full-precision base, not onto the rounded weights they were trained on.
    """

    name = "qlora"

    def load(self, source: ModelSource, precision: torch.dtype) -> PreTrainedModel:
        """Load the base quantised to 4 bits."""
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision,
        )
        model = load_weights(source, precision, quantization_config=quantisation, device_map={"": device()})
        guard_4bit_layers(model)
        return model

    def prepare(self, model: PreTrainedModel, spec: StageSpec) -> PeftModel:
        """Freeze the 4-bit base, put fresh adapters on it."""
        ready = prepare_model_for_kbit_training(model, use_gradient_checkpointing=spec.gradient_checkpointing)
        return super().prepare(ready, spec)

    def _saved_parity(self, trained: PeftModel, difference: Difference) -> dict[str, str]:
        # The rounding of the base, not an error: it says how far the trained and the merged model are apart.
        return {"quantisation_gap": f"{difference.largest:.3g} of logits up to {difference.scale:.3g}"}


METHODS: dict[str, Method] = {"full": Full(), "lora": Lora(), "qlora": Qlora()}
"""`method.name` of a stage to what does it."""

_SPECS = (FullSpec, LoraSpec, QloraSpec)


def method_for(spec: StageSpec) -> Method:
    """Return the method that a stage asks for."""
    return METHODS[spec.method.name]


def guard_4bit_layers(model: torch.nn.Module) -> int:
    """Turn off bitsandbytes' AVX512-BF16 path on each 4-bit layer; return how many there are.

    On a CPU with AVX512-BF16 an evaluation forward repacks the weights; gradients after it are wrong (relative error
    0.6, with an unchanged loss) and a merge corrupts. Raises TrainingError if a layer doesn't know the switch.
    """
    try:
        from bitsandbytes.nn import Linear4bit  # only here: bitsandbytes is needed for qlora alone
    except ImportError as error:
        raise MissingDependency(
            "method qlora needs bitsandbytes", next_step="pip install bitsandbytes, or use method lora"
        ) from error
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    for layer in layers:
        if not hasattr(layer, "support_avx512bf16_for_cpu"):
            raise TrainingError(
                "this bitsandbytes has no switch for its AVX512-BF16 path, which trains wrongly",
                valid="bitsandbytes 0.50",
                next_step="install the version of the lock file, or use method lora",
            )
        layer.support_avx512bf16_for_cpu = False
    if not layers:
        raise TrainingError("no layer of the model was quantised to 4 bits", next_step="use method lora")
    return len(layers)


@torch.no_grad()
def logits(model: Any, probe: torch.Tensor) -> torch.Tensor:
    """Return the logits of `probe` as float32 on the CPU, in evaluation mode, without autocast."""
    with _evaluation(model):
        where = next(model.parameters()).device
        return torch.as_tensor(model(input_ids=probe.to(where)).logits.float().cpu())


@contextmanager
def _evaluation(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@dataclass(frozen=True)
class Difference:
    """How far two sets of logits are apart: the largest absolute difference, and the largest logit."""

    largest: float
    scale: float


def _difference(one: torch.Tensor, other: torch.Tensor) -> Difference:
    return Difference(float((one - other).abs().max()), float(other.abs().max()))
