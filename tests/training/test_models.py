"""Which model directories are refused, and what a written one holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from data_catalog.errors import TrainingError
from tests.training.tiny import build_model, identical
from training.models import count_parameters, load_weights, open_source, resolve_precision, write_model


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _pickled(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def _without_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def _own_code(model: Path) -> None:
    edit(model / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Evil"})


def _own_tokenizer_code(model: Path) -> None:
    edit(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization.Evil", None]})


def _without_template(model: Path) -> None:
    (model / "chat_template.jinja").unlink()


def _small_vocabulary(model: Path) -> None:
    edit(model / "config.json", vocab_size=100)


def _without_config(model: Path) -> None:
    (model / "config.json").unlink()


def _broken_config(model: Path) -> None:
    (model / "config.json").write_text("{")


def _without_end_token(model: Path) -> None:
    config = json.loads((model / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (model / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_pickled, r"only pickled weights \(pytorch_model.bin\)"),
        (_without_weights, "has no weights"),
        (_own_code, "own code"),
        (_own_tokenizer_code, "own code"),
        (_without_template, "no chat template"),
        (_small_vocabulary, "the model only 100 tokens"),
        (_without_config, "config.json is missing"),
        (_broken_config, "can't be read"),
        (_without_end_token, "no end-of-sequence token"),
    ],
)
def test_refused(base: Path, tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(base, model)
    damage(model)
    with pytest.raises(TrainingError, match=said):
        open_source(model, needs_chat_template=True)


def test_no_template_is_needed_for_text(base: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(base, model)
    _without_template(model)
    assert open_source(model, needs_chat_template=False).end_token


def test_damaged_weights_are_told(base: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(base, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(TrainingError, match="can't be loaded"):
        load_weights(open_source(model, needs_chat_template=True), torch.float32)


def test_a_missing_pad_token_gets_a_token_of_its_own(base: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(base, model)
    edit(model / "tokenizer_config.json", pad_token="<|im_end|>", unk_token="<|endoftext|>")
    tokenizer = open_source(model, needs_chat_template=True).tokenizer
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_written_model_is_complete_and_equal(base: Path, tmp_path: Path) -> None:
    source = open_source(base, needs_chat_template=True)
    output = tmp_path / "out" / "model"
    output.parent.mkdir()
    write_model(load_weights(source, torch.float32), source, output)
    assert not output.with_name("model.partial").exists()
    assert identical(base, output)
    assert AutoTokenizer.from_pretrained(output).chat_template == source.tokenizer.chat_template
    ends = GenerationConfig.from_pretrained(output).eos_token_id
    assert set(ends) == source.end_tokens
    assert source.end_token in ends
    probe = torch.arange(5, 25)[None]
    one, two = (AutoModelForCausalLM.from_pretrained(path)(probe).logits for path in (base, output))
    assert torch.equal(one, two)


def test_writing_again_replaces_what_a_killed_job_left(base: Path, tmp_path: Path) -> None:
    source = open_source(base, needs_chat_template=True)
    output = tmp_path / "model"
    for leftover in (output, tmp_path / "model.partial"):
        leftover.mkdir()
        (leftover / "old").write_text("old")
    write_model(load_weights(source, torch.float32), source, output)
    assert not (output / "old").exists()
    assert identical(base, output)


def test_the_stored_dtype_is_kept(tmp_path: Path) -> None:
    model = build_model(tmp_path / "half", dtype=torch.bfloat16)
    assert open_source(model, needs_chat_template=True).stored_dtype == torch.bfloat16


def test_parameters_are_counted(base: Path) -> None:
    model = load_weights(open_source(base, needs_chat_template=True), torch.float32)
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    count = count_parameters(model)
    assert count.trainable == model.lm_head.weight.numel()
    assert count.total == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said of a CPU")
def test_a_cpu_computes_in_float32_unless_told_otherwise() -> None:
    assert resolve_precision("auto") == torch.float32
    assert resolve_precision("bfloat16") == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_computes_in_bfloat16() -> None:
    assert resolve_precision("auto") == torch.bfloat16
