"""Bottleneck adapters: where they stand, that fresh ones change nothing, saving, loading, switching off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from data_catalog.errors import TrainingError
from tests.training.test_methods import PROBE, disturb
from tests.training.tiny import build_model
from training import bottleneck
from training.method_specs import AdapterSpec
from training.methods import logits
from training.models import load_weights, open_source


def fresh(path: Path) -> Any:
    return load_weights(open_source(path, needs_chat_template=True), torch.float32)


@pytest.mark.parametrize(
    ("placement", "places"),
    [("pfeiffer", {"mlp.down_proj"}), ("houlsby", {"mlp.down_proj", "self_attn.o_proj"})],
)
def test_one_stands_behind_each_block(base: Path, placement: Any, places: set[str]) -> None:
    model = bottleneck.inject(fresh(base), AdapterSpec(placement=placement, size=8))
    found = {name for name, module in model.named_modules() if isinstance(module, bottleneck.Bottleneck)}
    assert found == {f"model.layers.{layer}.{place}" for layer in (0, 1) for place in places}
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trainable == len(found) * (64 * 8 + 8 + 8 * 64 + 64)


def test_a_fresh_one_changes_nothing(base: Path) -> None:
    assert torch.equal(logits(bottleneck.inject(fresh(base), AdapterSpec()), PROBE), logits(fresh(base), PROBE))


def test_it_computes_what_its_formula_says(base: Path) -> None:
    spec = AdapterSpec(size=8, activation="silu")
    layer = bottleneck.bottlenecks(bottleneck.inject(fresh(base), spec))[0].eval()
    disturb(layer)
    inputs = torch.randn(3, layer.base_layer.in_features)
    down, up, hidden = layer.adapter[1], layer.adapter[3], layer.base_layer(inputs)
    inner = hidden @ down.weight.T + down.bias
    expected = hidden + (inner * torch.sigmoid(inner)) @ up.weight.T + up.bias
    torch.testing.assert_close(layer(inputs), expected)


@pytest.mark.parametrize("field", ["size", "activation", "dropout", "placement"])
def test_every_setting_is_heeded(base: Path, field: str) -> None:
    changed: dict[str, Any] = {"size": 9, "activation": "gelu", "dropout": 0.5, "placement": "houlsby"}
    models = []
    for spec in (AdapterSpec(size=8), AdapterSpec(size=8).model_copy(update={field: changed[field]})):
        torch.manual_seed(0)
        models.append(bottleneck.inject(fresh(base), spec))
        disturb(models[-1])
        torch.manual_seed(0)
    outputs = [model.train()(input_ids=PROBE).logits for model in models]
    assert not torch.equal(*outputs)


def test_saved_and_loaded_it_gives_the_same_logits(base: Path, tmp_path: Path) -> None:
    spec = AdapterSpec(placement="houlsby", size=8, activation="gelu")
    model = bottleneck.inject(fresh(base), spec)
    disturb(model)
    bottleneck.save_pretrained(model, tmp_path, spec)
    loaded = bottleneck.from_pretrained(fresh(base), tmp_path)
    assert torch.equal(logits(loaded, PROBE), logits(model, PROBE))
    with bottleneck.disabled(loaded):
        assert torch.equal(logits(loaded, PROBE), logits(fresh(base), PROBE))
    assert torch.equal(logits(loaded, PROBE), logits(model, PROBE))


def test_it_is_switched_on_again_after_an_error(base: Path) -> None:
    model = bottleneck.inject(fresh(base), AdapterSpec())
    with pytest.raises(KeyError), bottleneck.disabled(model):
        raise KeyError
    assert all(layer.on for layer in bottleneck.bottlenecks(model))


def test_what_does_not_fit_is_told(base: Path, tmp_path: Path) -> None:
    spec = AdapterSpec(size=8)
    bottleneck.save_pretrained(bottleneck.inject(fresh(base), spec), tmp_path, spec)
    wider = build_model(tmp_path / "wider", hidden=96)
    with pytest.raises(TrainingError, match="is of another base"):
        bottleneck.from_pretrained(fresh(wider), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "LORA"}))
    with pytest.raises(TrainingError, match="is of type LORA"):
        bottleneck.from_pretrained(fresh(base), tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(TrainingError, match="is no bottleneck adapter"):
        bottleneck.from_pretrained(fresh(base), tmp_path)


def test_a_model_without_such_layers_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=16, vocab_size=50))
    with pytest.raises(TrainingError, match="gpt2 model has no list of layers") as caught:
        bottleneck.inject(model, AdapterSpec())
    assert "lora" in caught.value.next_step
