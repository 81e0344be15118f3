"""`qlora`: LoRA on a base of 4 bits."""

from __future__ import annotations

import torch
from peft import PeftModel, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig, PreTrainedModel

from data_catalog.errors import MissingDependency, TrainingError
from training.methods.base import Difference
from training.methods.lora import Lora
from training.models import ModelSource, device, load_weights
from training.specs import StageSpec


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

    def prepare(self, model: PreTrainedModel, spec: StageSpec, source: ModelSource) -> PeftModel:
        """Freeze the 4-bit base, put fresh adapters on it."""
        ready = prepare_model_for_kbit_training(model, use_gradient_checkpointing=spec.gradient_checkpointing)
        return super().prepare(ready, spec, source)

    def saved_parity(self, trained: PeftModel, gap: Difference) -> dict[str, str]:
        """Say how far the trained and the merged model are apart: the rounding of the base, not an error."""
        return {"quantisation_gap": f"{gap.largest:.3g} of logits up to {gap.scale:.3g}"}


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
