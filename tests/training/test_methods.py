"""Methods: what they train, that merging changes nothing, and the bitsandbytes trap."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel

from data_catalog.errors import TrainingError
from tests.training.tiny import build_model
from training.method_specs import AnyMethod, FullSpec, LoraSpec, QloraSpec
from training.methods import METHODS, Lora, Qlora, guard_4bit_layers, logits, method_for
from training.models import ModelSource, count_parameters, open_source
from training.specs import PretrainSpec, StageSpec

PROBE = torch.arange(5, 45).reshape(2, 20)


@pytest.fixture(scope="module")
def source(base: Path) -> ModelSource:
    return open_source(base, needs_chat_template=True)


def prepared(source: ModelSource, method: Any, precision: torch.dtype = torch.float32) -> tuple[Any, StageSpec]:
    spec = PretrainSpec.model_validate({"method": method})
    torch.manual_seed(0)
    implementation = method_for(spec)
    return implementation.prepare(implementation.load(source, precision), spec, source), spec


def disturb(model: torch.nn.Module) -> None:
    """Stand in for training: move every trainable weight."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)


def test_there_is_a_method_for_every_spec() -> None:
    named = {kind.model_fields["name"].default: kind for kind in get_args(AnyMethod)}
    assert set(METHODS) == set(named)
    for name, kind in named.items():
        assert METHODS[name].name == name
        assert kind.sits
        assert kind.wants


def test_full_trains_everything(source: ModelSource) -> None:
    model, _ = prepared(source, FullSpec())
    count = count_parameters(model)
    assert count.trainable == count.total


@pytest.mark.parametrize("method", [LoraSpec(rank=4), QloraSpec(rank=4)])
def test_adapters_are_on_every_linear_layer_but_the_head(source: ModelSource, method: Any) -> None:
    model, _ = prepared(source, method)
    adapted = {name.split(".")[-4] for name, p in model.named_parameters() if p.requires_grad}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    count = count_parameters(model)
    base = count_parameters(Lora().load(source, torch.float32)).total
    assert 0 < count.trainable < count.total == base + count.trainable


def test_rank_and_alpha_are_heeded(source: ModelSource) -> None:
    small, large = (count_parameters(prepared(source, LoraSpec(rank=rank))[0]).trainable for rank in (2, 8))
    assert large == 4 * small
    model, _ = prepared(source, LoraSpec(rank=4, alpha=40, dropout=0.25))
    config = model.peft_config["default"]
    assert (config.lora_alpha, config.lora_dropout) == (40, 0.25)


CHANGED: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]] = {
    ("lora", "rank"): ({"rank": 4}, {"rank": 5}),
    ("lora", "alpha"): ({}, {"alpha": 40}),
    ("lora", "dropout"): ({}, {"dropout": 0.5}),
    ("lora", "rank_stabilised"): ({}, {"rank_stabilised": True}),
    ("lora", "dora"): ({}, {"dora": True}),
    ("lora", "init"): ({}, {"init": "olora"}),
    ("qlora", "rank"): ({"rank": 4}, {"rank": 5}),
    ("qlora", "alpha"): ({}, {"alpha": 40}),
    ("qlora", "dropout"): ({}, {"dropout": 0.5}),
    ("qlora", "rank_stabilised"): ({}, {"rank_stabilised": True}),
    ("qlora", "dora"): ({}, {"dora": True}),
    ("adapter", "placement"): ({}, {"placement": "houlsby"}),
    ("adapter", "size"): ({}, {"size": 8}),
    ("adapter", "activation"): ({}, {"activation": "gelu"}),
    ("adapter", "dropout"): ({}, {"dropout": 0.5}),
    ("prompt_tuning", "tokens"): ({}, {"tokens": 3}),
    ("prompt_tuning", "init"): ({}, {"init": "random"}),
    ("prompt_tuning", "text"): ({"init": "text", "text": "red"}, {"init": "text", "text": "blue"}),
    ("prefix_tuning", "tokens"): ({}, {"tokens": 3}),
    ("prefix_tuning", "hidden"): ({}, {"hidden": 8}),
    ("p_tuning", "tokens"): ({}, {"tokens": 3}),
    ("p_tuning", "encoder"): ({}, {"encoder": "mlp"}),
    ("p_tuning", "hidden"): ({}, {"hidden": 8}),
    ("p_tuning_v2", "tokens"): ({}, {"tokens": 3}),
}
"""Two settings of each field that must make two models. `b_rate_ratio`: test_every_method, test_lora_plus_..."""


def test_no_setting_of_a_method_is_forgotten() -> None:
    fields = {(kind.model_fields["name"].default, field) for kind in get_args(AnyMethod) for field in kind.model_fields}
    assert {(method, field) for method, field in fields if field not in ("name", "b_rate_ratio")} == CHANGED.keys()


@pytest.mark.parametrize(("method", "field"), CHANGED)
def test_every_setting_changes_what_the_model_computes(source: ModelSource, method: str, field: str) -> None:
    """The same random weights and dropout, another setting: other outputs while training."""
    outputs = []
    for settings in CHANGED[method, field]:
        model, _ = prepared(source, {"name": method, **settings})
        disturb(model)
        model.train()
        torch.manual_seed(2)
        with torch.no_grad():
            outputs.append(model(input_ids=PROBE).logits[:, -20:])
    assert not torch.equal(*outputs)


@pytest.mark.parametrize("method", ["prefix_tuning", "p_tuning_v2"])
def test_a_prefix_needs_full_attention_in_each_layer(source: ModelSource, method: str) -> None:
    """A sliding window would forget the prefix, and its cache has no place for it."""
    spec = PretrainSpec.model_validate({"method": method})
    model = method_for(spec).load(source, torch.float32)
    model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(TrainingError, match="needs full attention") as caught:
        method_for(spec).prepare(model, spec, source)
    assert "prompt_tuning" in caught.value.next_step


def test_a_merged_adapter_gives_the_logits_of_the_adapter(source: ModelSource, tmp_path: Path) -> None:
    model, spec = prepared(source, LoraSpec(rank=4))
    disturb(model)
    expected = logits(model, PROBE)
    merged = method_for(spec).finish(model, spec, source, PROBE, tmp_path)
    assert not isinstance(merged.model, PeftModel)
    torch.testing.assert_close(logits(merged.model, PROBE), expected, rtol=1e-4, atol=1e-4)
    assert set(merged.guards) == {"adapter_active", "merge_parity", "save_parity"}
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("method", [FullSpec(), LoraSpec(), QloraSpec()])
def test_a_model_that_learned_nothing_is_told(source: ModelSource, tmp_path: Path, method: Any) -> None:
    model, spec = prepared(source, method)
    with pytest.raises(TrainingError, match="does not change the model's outputs"):
        method_for(spec).finish(model, spec, source, PROBE, tmp_path)


def test_qlora_merges_onto_the_full_precision_base(source: ModelSource, tmp_path: Path) -> None:
    model, spec = prepared(source, QloraSpec(rank=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter[0, 0] = 0.3
    merged = method_for(spec).finish(model, spec, source, PROBE, tmp_path).model
    plain = Lora().load(source, torch.float32)
    touched = [name for name, p in plain.named_parameters() if not torch.equal(p, merged.get_parameter(name))]
    assert touched
    # Only one row of each adapted matrix moved: had the rounded base been merged, all would have.
    for name in touched:
        assert int((plain.get_parameter(name) != merged.get_parameter(name)).any(dim=1).sum()) == 1
    assert not any(isinstance(module, Linear4bit) for module in merged.modules())


def _layers(model: torch.nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def test_the_avx512_bf16_path_is_off_on_every_4bit_layer(source: ModelSource) -> None:
    model, _ = prepared(source, QloraSpec())
    assert len(_layers(model)) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in _layers(model))


def test_gradients_after_an_evaluation_are_those_before_it(source: ModelSource) -> None:
    """What goes wrong in silence with the AVX512-BF16 path on: an evaluation repacks the weights."""
    model, _ = prepared(source, QloraSpec(rank=4, dropout=0.0))
    disturb(model)

    def gradients() -> torch.Tensor:
        model.train()
        model.zero_grad()
        model(input_ids=PROBE, labels=PROBE).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    before = gradients()
    logits(model, PROBE)
    torch.testing.assert_close(gradients(), before)


def test_a_bitsandbytes_without_the_switch_is_refused(source: ModelSource) -> None:
    model = Qlora().load(source, torch.float32)
    del _layers(model)[0].support_avx512bf16_for_cpu
    with pytest.raises(TrainingError, match="AVX512-BF16"):
        guard_4bit_layers(model)


def test_a_model_without_4bit_layers_is_refused(source: ModelSource) -> None:
    with pytest.raises(TrainingError, match="no layer"):
        guard_4bit_layers(Lora().load(source, torch.float32))


def test_a_bfloat16_base_is_merged_in_float32(tmp_path: Path) -> None:
    half = open_source(build_model(tmp_path / "half", dtype=torch.bfloat16), needs_chat_template=True)
    model, spec = prepared(half, LoraSpec(rank=4), torch.bfloat16)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    disturb(model)
    assert method_for(spec).finish(model, spec, half, PROBE, tmp_path / "work").model.dtype == torch.float32
