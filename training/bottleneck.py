"""Bottleneck adapters, in the manner of PEFT: a configuration, injection, saving and loading, switching off.

PEFT has none. A bottleneck stands behind a block's output projection, before the residual connection:

    h = W·x                                     what the block hands on
    y = h + U·f(D·dropout(h) + d) + u           D (size, hidden), U (hidden, size), f a non-linearity

`pfeiffer` puts one behind the feed-forward block of each layer (arXiv 2005.00247), `houlsby` also one behind attention
(arXiv 1902.00751, section 2.1). U and u start at zero, so an untrained adapter changes nothing; D starts as any linear
layer does. Non-linear in its input, it can't be merged into W.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from data_catalog.errors import TrainingError
from training.method_specs import AdapterSpec
from training.trainable import misfits

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PEFT_TYPE = "TUTELAGE_BOTTLENECK"
"""Stands in the configuration file where PEFT's own types stand, so that PEFT refuses the folder by name."""

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
# Output projections by the names that transformers gives them.
_ATTENTION_OUT = ("self_attn.o_proj", "self_attn.out_proj", "self_attn.dense", "attention.dense", "attention.wo")
_FEED_FORWARD_OUT = ("mlp.down_proj", "mlp.fc2", "mlp.dense_4h_to_h", "feed_forward.w2", "fc2")


class Bottleneck(nn.Module):
    """The projection that it stands behind, and the bottleneck. Shapes: (..., in) to (..., hidden)."""

    def __init__(self, base_layer: nn.Linear, spec: AdapterSpec) -> None:
        super().__init__()
        hidden, where = base_layer.out_features, base_layer.weight.device
        self.base_layer = base_layer
        self.adapter = nn.Sequential(
            nn.Dropout(spec.dropout),
            nn.Linear(hidden, spec.size, device=where, dtype=torch.float32),
            _ACTIVATIONS[spec.activation](),
            nn.Linear(spec.size, hidden, device=where, dtype=torch.float32),
        )
        up = self.adapter[3]
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.on = True

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the projection of `inputs`, adapted where the layer is on."""
        projected = self.base_layer(inputs)
        if not self.on:
            return torch.as_tensor(projected)
        # Held in float32 like every trained weight; autocast decides what the products are computed in.
        return torch.as_tensor(projected + self.adapter(projected.to(self.adapter[1].weight.dtype)).to(projected.dtype))


def inject(model: PreTrainedModel, spec: AdapterSpec) -> PreTrainedModel:
    """Freeze a model and put fresh bottlenecks into it, in place; only they are trainable.

    Raises TrainingError for a model whose layers have no output projection that is known by name.
    """
    places = _FEED_FORWARD_OUT if spec.placement == "pfeiffer" else (*_ATTENTION_OUT, *_FEED_FORWARD_OUT)
    layers: Any = getattr(model.get_decoder(), "layers", ())
    model.requires_grad_(False)
    for number, layer in enumerate(layers):
        found = [name for name, module in layer.named_modules() if name in places and isinstance(module, nn.Linear)]
        if len(found) != (1 if spec.placement == "pfeiffer" else 2):
            raise TrainingError(
                f"layer {number} of this {model.config.model_type} model has {', '.join(found) or 'no layer'} where "
                f"{spec.placement} adapters would stand",
                valid=f"one linear layer of each block that is called {' or '.join(places)}",
                next_step="use method lora, which fits any linear layer",
            )
        for name in found:
            layer.set_submodule(name, Bottleneck(layer.get_submodule(name), spec))
    if not len(layers):
        raise TrainingError(
            f"this {model.config.model_type} model has no list of layers to put adapters into",
            next_step="use method lora",
        )
    return model


def bottlenecks(model: nn.Module) -> list[Bottleneck]:
    """Return the bottlenecks of a model, in order."""
    return [module for module in model.modules() if isinstance(module, Bottleneck)]


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """While open, the model is its base."""
    for module in bottlenecks(model):
        module.on = False
    try:
        yield
    finally:
        for module in bottlenecks(model):
            module.on = True


def save_pretrained(model: PreTrainedModel, folder: Path, spec: AdapterSpec) -> None:
    """Write the adapter alone: `adapter_config.json` and `adapter_model.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": PEFT_TYPE, **spec.model_dump(mode="json")}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    save_file(_state(model), folder / WEIGHTS_FILE, metadata={"format": "pt"})


def from_pretrained(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Put a stored adapter into its base, in place; every weight must be there and fit."""
    config_file, weights_file = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    try:
        config = json.loads(config_file.read_text("utf-8"))
        kind = config.pop("peft_type")
        spec = AdapterSpec.model_validate(config)
        state = load_file(weights_file)
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise TrainingError(
            f"{folder} is no bottleneck adapter: {error}", valid=f"{CONFIG_FILE} and {WEIGHTS_FILE} as they were saved"
        ) from error
    if kind != PEFT_TYPE:
        raise TrainingError(f"{config_file} is of type {kind}", valid=PEFT_TYPE, next_step="load it with PEFT")
    inject(model, spec)
    if wrong := misfits(_state(model), state):
        raise TrainingError(
            f"the adapter in {folder} is of another base: {len(wrong)} weights differ, such as {wrong[0]}",
            valid="the base that the adapter was trained on",
            next_step="use the directory that training wrote; it keeps base and adapter together",
        )
    with torch.no_grad():
        for name, parameter in _parameters(model):
            parameter.copy_(state[name])
    return model


def _parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [
        (f"{name}.{inner}", parameter)
        for name, module in model.named_modules()
        if isinstance(module, Bottleneck)
        for inner, parameter in module.adapter.named_parameters(prefix="adapter")
    ]


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().cpu().contiguous() for name, parameter in _parameters(model)}
