"""The LoRA of one or more stages, loaded back on the named base, answers as the merged model does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel

from data_catalog.errors import TrainingError
from tests.training.test_methods import PROBE, disturb
from tests.training.tiny import build_model
from training.lora_export import CONFIG, export_lora
from training.methods import logits, method_for
from training.models import load_weights, open_source, write_model
from training.specs import PretrainSpec


class Stage(NamedTuple):
    adapter: Path
    model: Path


def stage(start: Path, folder: Path, method: dict[str, Any]) -> Stage:
    """Make what a training stage leaves: the adapter in its work folder, and the merged model."""
    source = open_source(start, needs_chat_template=True)
    spec = PretrainSpec.model_validate({"method": method})
    implementation = method_for(spec)
    torch.manual_seed(0)
    trained = implementation.prepare(implementation.load(source, torch.float32), spec, source)
    disturb(trained)
    finished = implementation.finish(trained, spec, source, PROBE, folder / "work")
    write_model(finished.model.to(source.stored_dtype), source, folder / "model")
    return Stage(folder / "work" / "adapter", folder / "model")


def exported(adapters: list[Path], base: Path, merged: Path, folder: Path) -> Path:
    output = folder / "lora"
    output.mkdir()
    export_lora(adapters, base, str(base), merged, output)
    return output


def loaded(base: Path, adapter: Path) -> torch.Tensor:
    model = load_weights(open_source(base, needs_chat_template=True), torch.float32)
    return logits(PeftModel.from_pretrained(model, str(adapter)).eval(), PROBE)


def whole(model: Path) -> torch.Tensor:
    return logits(load_weights(open_source(model, needs_chat_template=True), torch.float32).eval(), PROBE)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "lora", "rank": 4},
        {"name": "lora", "rank": 4, "rank_stabilised": True},
        {"name": "lora", "rank": 4, "init": "pissa"},
    ],
    ids=["lora", "rslora", "pissa"],
)
def test_one_stage_loads_back_to_the_merged_model(base: Path, tmp_path: Path, method: dict[str, Any]) -> None:
    made = stage(base, tmp_path, method)
    output = exported([made.adapter], base, made.model, tmp_path)
    assert json.loads((output / CONFIG).read_text())["base_model_name_or_path"] == str(base)
    expected = whole(made.model)
    assert float((expected - whole(base)).abs().max()) > 0.01, "the stage did something"
    torch.testing.assert_close(loaded(base, output), expected, rtol=1e-4, atol=1e-4)


def test_two_stages_are_one_adapter_on_the_first_base(base: Path, tmp_path: Path) -> None:
    first = stage(base, tmp_path / "one", {"name": "lora", "rank": 4})
    second = stage(first.model, tmp_path / "two", {"name": "lora", "rank": 2, "alpha": 8})
    output = exported([first.adapter, second.adapter], base, second.model, tmp_path)
    assert json.loads((output / CONFIG).read_text())["r"] == 6
    torch.testing.assert_close(loaded(base, output), whole(second.model), rtol=1e-4, atol=1e-4)


def test_a_bfloat16_base_rounds_and_is_still_recognised(tmp_path: Path) -> None:
    base = build_model(tmp_path / "base", dtype=torch.bfloat16)
    made = stage(base, tmp_path, {"name": "lora", "rank": 4})
    output = exported([made.adapter], base, made.model, tmp_path)
    assert json.loads((output / CONFIG).read_text())["r"] == 4


def test_an_adapter_of_another_run_is_not_called_this_models(base: Path, tmp_path: Path) -> None:
    made = stage(base, tmp_path / "one", {"name": "lora", "rank": 4})
    other = stage(base, tmp_path / "two", {"name": "lora", "rank": 8})
    with pytest.raises(TrainingError, match="is not base and adapter"):
        exported([other.adapter], base, made.model, tmp_path)


def test_another_base_is_not_called_this_models(base: Path, tmp_path: Path) -> None:
    made = stage(base, tmp_path, {"name": "lora", "rank": 4})
    other = build_model(tmp_path / "other", seed=7)
    with pytest.raises(TrainingError, match="is not base and adapter"):
        exported([made.adapter], other, made.model, tmp_path)


def test_dora_is_no_sum_of_factors(base: Path, tmp_path: Path) -> None:
    made = stage(base, tmp_path, {"name": "lora", "rank": 4, "dora": True})
    with pytest.raises(TrainingError, match="holds DoRA") as error:
        exported([made.adapter], base, made.model, tmp_path)
    assert "--format hf" in error.value.next_step
