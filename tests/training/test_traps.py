"""Traps of the bare libraries that say nothing when they close: each is seen to fire, and seen to be caught."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import (
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import use_adapter

from data_catalog.errors import TrainingError
from tests.training.test_methods import PROBE, disturb, prepared
from tests.training.tiny import UNUSED, payloads
from training.method_specs import Ia3Spec, LoraSpec, PTuningSpec
from training.methods import Lora, logits, method_for
from training.models import ModelSource, open_source
from training.rows import RawRow
from training.specs import DpoSpec, SftSpec, StageSpec
from training.stages.base import Setting
from training.stages.dpo import Dpo, PreferenceTrainer
from training.trainable import TRAINABLE, load_trainable, save_trainable


@pytest.fixture(scope="module")
def source(base: Path) -> ModelSource:
    return open_source(base, needs_chat_template=True)


def fresh(source: ModelSource) -> Any:
    return AutoModelForCausalLM.from_pretrained(source.path)


def dpo_trainer(source: ModelSource, model: Any, spec: StageSpec) -> PreferenceTrainer:
    rows = [RawRow(str(number), row) for number, row in enumerate(payloads("dpo", 8))]
    material = Dpo().encode(spec, source, rows, [], 0.0)
    return Dpo().trainer(spec, model, material, Setting(source, torch.float32, UNUSED), [])  # type: ignore[arg-type]


def test_a_prefix_with_gradient_checkpointing(source: ModelSource) -> None:
    """Dies somewhere in the attention, on sizes that nobody set; TRL turns checkpointing on by default."""
    model = get_peft_model(fresh(source), PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")).train()
    model.get_base_model().gradient_checkpointing_enable()
    with pytest.raises(RuntimeError, match="size"):
        model(input_ids=PROBE, attention_mask=torch.ones_like(PROBE), labels=PROBE)
    for method in ("prefix_tuning", "p_tuning_v2"):
        with pytest.raises(ValidationError, match=f"{method} with gradient_checkpointing: false"):
            SftSpec.model_validate({"method": method, "gradient_checkpointing": True})


def test_a_soft_prompt_before_packed_rows(source: ModelSource) -> None:
    """The second row of a pack sees the first: where it begins is ignored."""
    model = get_peft_model(fresh(source), PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")).eval()
    pack, starts = PROBE.reshape(1, 40), torch.arange(20).repeat(2)[None]
    with torch.no_grad(), pytest.warns(UserWarning, match="Ignoring position ids"):
        packed = model(input_ids=pack, position_ids=starts, use_cache=False).logits[:, -20:]
    assert (packed - logits(model, PROBE[1:])).abs().max() > 1e-2
    with pytest.raises(ValidationError, match="prompt_tuning with packing: false"):
        SftSpec.model_validate({"method": "prompt_tuning", "packing": True})


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_adapter_that_took_a_part_of_the_base_with_it(source: ModelSource, init: Any) -> None:
    """Switched off, it shows what is left, which is no reference for DPO; ours is the model before its first step."""
    config = LoraConfig(r=4, init_lora_weights=init, target_modules="all-linear", task_type="CAUSAL_LM")
    model, base = get_peft_model(fresh(source), config), logits(fresh(source), PROBE)
    torch.testing.assert_close(logits(model, PROBE), base, rtol=1e-4, atol=1e-4)
    with model.disable_adapter():
        assert (logits(model, PROBE) - base).abs().max() > 0.1

    spec = DpoSpec(method=LoraSpec(rank=4, init=init), batch_size=8)
    ours = method_for(spec).prepare(fresh(source), spec, source)
    trainer = dpo_trainer(source, ours, spec)
    torch.testing.assert_close(logits(trainer.model, PROBE), base, rtol=1e-4, atol=1e-4)
    assert trainer.check_step0(torch.float32, is_reference=True).startswith("0.6931")


def test_a_trained_ia3_and_its_copy(base: Path, source: ModelSource, tmp_path: Path) -> None:
    """TRL copies what has `.default.` in its name; IA3's parameters end with `.default`, so the copy is a fresh one."""
    places = ["k_proj", "v_proj", "down_proj"]
    config = IA3Config(target_modules=places, feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(fresh(source), config)
    disturb(model)
    options: dict[str, Any] = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": []}
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(output_dir=str(tmp_path), **options),
        train_dataset=Dataset.from_list([{"prompt": "What?", "chosen": " Red.", "rejected": " Blue."}]),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    policy = logits(trainer.model, PROBE)
    with use_adapter(trainer.model, "ref"):
        assert (logits(trainer.model, PROBE) - policy).abs().max() > 1e-3

    spec = DpoSpec(method=Ia3Spec(), batch_size=8)
    ours = method_for(spec).prepare(fresh(source), spec, source)
    disturb(ours)
    assert dpo_trainer(source, ours, spec).check_step0(torch.float32, is_reference=True).startswith("0.6931")


def test_a_reference_that_is_the_base_is_caught(source: ModelSource) -> None:
    """A trained adapter with the base as its reference: the loss at step 0 is not ln 2, and that stops the stage."""
    spec = DpoSpec(method=LoraSpec(rank=4), batch_size=8)
    model = method_for(spec).prepare(fresh(source), spec, source)
    disturb(model)
    trainer = dpo_trainer(source, model, spec)
    trainer.cache_reference(trainer.model.disable_adapter())
    with pytest.raises(TrainingError, match="the reference is not the model that is trained"):
        trainer.check_step0(torch.float32, is_reference=True)
    assert math.log(2) == pytest.approx(0.6931, abs=1e-4)


def test_the_encoder_of_a_prompt_is_lost(base: Path, source: ModelSource, tmp_path: Path) -> None:
    """PEFT keeps the vectors alone, and refuses to train them further; ours goes on with the encoder."""
    config = PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=16, task_type="CAUSAL_LM")
    model = get_peft_model(fresh(source), config)
    model.save_pretrained(tmp_path / "peft")
    assert set(load_file(tmp_path / "peft" / "adapter_model.safetensors")) == {"prompt_embeddings"}
    with pytest.raises(ValueError, match="Cannot set a prompt learning adapter to trainable"):
        PeftModel.from_pretrained(fresh(source), str(tmp_path / "peft"), is_trainable=True)

    first, _ = prepared(source, PTuningSpec(tokens=4, hidden=16))
    disturb(first)
    save_trainable(first, tmp_path / "ours")
    assert any("mlp_head" in name for name in load_file(tmp_path / "ours" / TRAINABLE))
    second, _ = prepared(source, PTuningSpec(tokens=4, hidden=16))
    load_trainable(second, tmp_path / "ours")
    state = {name: p for name, p in first.named_parameters() if p.requires_grad}
    assert all(torch.equal(state[name], p) for name, p in second.named_parameters() if p.requires_grad)
    assert torch.equal(logits(first, PROBE), logits(second, PROBE))


def test_a_state_of_other_settings_is_refused(source: ModelSource, tmp_path: Path) -> None:
    save_trainable(prepared(source, PTuningSpec(tokens=4, hidden=16))[0], tmp_path)
    for other in (PTuningSpec(tokens=5, hidden=16), PTuningSpec(tokens=4, hidden=16, encoder="mlp"), LoraSpec()):
        with pytest.raises(TrainingError, match="does not fit what is trained here"):
            load_trainable(prepared(source, other)[0], tmp_path)


def rename_weights(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({name.replace("layers", "blocks"): weight for name, weight in load_file(file).items()}, file)


class _Misnamed(Lora):
    """Saves its weights under names that the base does not have."""

    def save_adapter(self, trained: PeftModel, spec: StageSpec, folder: Path) -> None:
        super().save_adapter(trained, spec, folder)
        rename_weights(folder)


def test_an_adapter_whose_weights_do_not_fit(source: ModelSource, tmp_path: Path) -> None:
    """PEFT warns and answers as the base does; training ends with an error instead."""
    model, spec = prepared(source, LoraSpec(rank=4))
    disturb(model)
    model.save_pretrained(tmp_path / "peft")
    rename_weights(tmp_path / "peft")
    with pytest.warns(UserWarning, match="missing"):
        loaded = PeftModel.from_pretrained(fresh(source), str(tmp_path / "peft"))
    assert torch.equal(logits(loaded, PROBE), logits(fresh(source), PROBE))

    with pytest.warns(UserWarning, match="missing"), pytest.raises(TrainingError, match="does not change"):
        _Misnamed().finish(model, spec, source, PROBE, tmp_path)
