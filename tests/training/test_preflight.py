"""What is told of memory and time before a stage starts, what is refused, and what happens where memory runs out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from data_catalog.errors import MachineError, TrainingError
from tests.training.test_train import run, spec_of
from tests.training.tiny import Lines, build_model, identical, payloads, train_job, weights
from training import train as training_module
from training.environment import worker_environment
from training.footprint import (
    Batch,
    largest_batch,
    next_pieces,
    predict,
    read_shape,
    remedies,
    size,
    step_operations,
    trained_weights,
)
from training.machine import free_memory, peak_memory, product_speed
from training.method_specs import AnyMethod, PTuningSpec
from training.methods import METHODS
from training.models import count_parameters, open_source
from training.preflight import out_of_memory
from training.process import StopRequest
from training.specs import SftSpec, TrainResult
from training.stages.base import GuardedTrainer
from training.train import train

GIB = 2**30


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers outweigh what is counted roughly."""
    return build_model(tmp_path_factory.mktemp("wide") / "model", hidden=128, layers=4)


METHODS_OF_ALL_KINDS = [*(kind() for kind in get_args(AnyMethod)), PTuningSpec(encoder="mlp", hidden=24)]


@pytest.mark.parametrize("method", METHODS_OF_ALL_KINDS, ids=lambda method: method.name)
def test_trained_weights_are_those_of_the_method(base: Path, method: AnyMethod) -> None:
    source, spec, shape = open_source(base, needs_chat_template=True), SftSpec(method=method), read_shape(base)
    made = METHODS[method.name]
    counted = count_parameters(made.prepare(made.load(source, torch.float32), spec, source))
    assert trained_weights(shape, method) == counted.trainable
    assert shape.parameters == (counted.total if method.name == "full" else shape.parameters)


@pytest.mark.parametrize("method", ["full", "lora", {"name": "lora", "dropout": 0}, "ia3", "prompt_tuning"])
def test_what_autograd_keeps(wide: Path, method: Any) -> None:
    """The activations that are told, without the heap's waste, are those that a forward pass leaves behind."""
    source, spec = open_source(wide, needs_chat_template=True), SftSpec(method=method)
    made = METHODS[spec.method.name]
    model = made.prepare(made.load(source, torch.float32), spec, source).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor
        return tensor

    ids = torch.randint(5, 300, (4, 128))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, output_hidden_states=True)
    seen = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert hidden.logits is not None
    # On a GPU nothing is wasted, and the arithmetic here is the same.
    told = predict(read_shape(wide), spec, Batch(4, 128, 0), gpu=True).activations
    assert told == pytest.approx(seen, rel=0.1)


def test_the_shape_of_an_architecture_with_names_of_its_own(tmp_path: Path) -> None:
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=96, n_positions=16)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    assert (shape.hidden, shape.layers, shape.query, shape.inner, shape.vocabulary) == (32, 2, 32, 128, 96)


def test_the_shape_of_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the size of .* can't be told"):
        read_shape(tmp_path)


@pytest.mark.parametrize(
    ("batch", "pieces", "least", "expected"),
    [
        (8, 1, 1, 2),
        (8, 2, 1, 4),
        (8, 4, 1, 8),
        (8, 8, 1, None),
        (6, 2, 1, 6),
        (5, 1, 1, 5),
        (8, 4, 2, None),
        (1, 1, 1, None),
    ],
)
def test_the_next_smaller_batch(batch: int, pieces: int, least: int, expected: int | None) -> None:
    assert next_pieces(batch, pieces, least) == expected


def test_each_remedy_fits_and_is_named(wide: Path) -> None:
    shape, spec = read_shape(wide), spec_of("sft", "lora", batch_size=32, max_length=512)
    batch = largest_batch(spec)
    whole = predict(shape, spec, batch).total
    found = {remedy.change: remedy.footprint.total for remedy in remedies(shape, spec, batch, whole // 3)}
    assert {"batch_size: 8 with gradient_accumulation: 4", "gradient_checkpointing: true"} <= found.keys()
    assert all(total <= whole // 3 for total in found.values())
    assert remedies(shape, spec, batch, 1) == []


def test_what_makes_a_stage_larger(wide: Path) -> None:
    shape = read_shape(wide)

    def told(stage: str = "sft", method: Any = "lora", **settings: Any) -> int:
        spec = spec_of(stage, method, **settings)
        return predict(shape, spec, largest_batch(spec)).total

    assert told(method="lora") > told(method="prompt_tuning")
    assert told(batch_size=16) > told(batch_size=8)
    assert told(max_length=256) > told(max_length=128)
    assert told(gradient_checkpointing=True) < told()
    assert told("dpo") > told("kto")
    assert told("classify") > told("sft")  # a line for every word
    assert told("ppo") == told("grpo") > told("sft")  # each holds a reference and a reward model
    assert told("grpo") > told("grpo", reward="token_f1") > told("grpo", reward="token_f1", kl_weight=0)
    assert told("rloo") == told("grpo")


def test_operations_of_a_step(wide: Path) -> None:
    shape, batch = read_shape(wide), Batch(4, 128, 512)
    full, lora = (step_operations(shape, spec_of("sft", method), batch) for method in ("full", "lora"))
    products = sum(into * out for into, out in shape.linears)
    head = shape.hidden * shape.vocabulary
    assert 6 * 512 * (products + head) < full < 1.3 * 6 * 512 * (products + head)
    assert lora < full


def test_a_stage_that_does_not_fit_is_refused_before_it_is_loaded(base: Path, tmp_path: Path) -> None:
    job = train_job(tmp_path, base, spec_of("sft", "lora", batch_size=8, packing=False), payloads("sft"))
    held = peak_memory()
    with pytest.raises(MachineError, match=r"stage sft by lora would take .* of memory, and .* are there") as caught:
        train(job, progress=Lines(), stop=StopRequest(), free=lambda: -held // 2)
    assert "activations" in caught.value.message
    assert not job.output.exists()
    assert not any(job.work.iterdir())


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_group_limits_what_is_free(tmp_path: Path, version: int) -> None:
    root = tmp_path / "cgroup"
    inside = root / ("memory/a/b" if version == 1 else "a/b")
    inside.mkdir(parents=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    groups = tmp_path / "groups"
    groups.write_text("3:cpu:/\n8:memory:/a/b\n" if version == 1 else "0::/a/b\n")
    unlimited = "9223372036854771712" if version == 1 else "max"
    for folder, most in ((inside, unlimited), (inside.parent, str(50_000_000))):
        (folder / names[0]).write_text(most)
        (folder / names[1]).write_text("30000000")
    assert free_memory(root, groups) == 20_000_000
    assert free_memory(tmp_path / "none", groups) > 20_000_000
    assert product_speed(1) > 1e8
    assert [size(1.44e9), size(3e6)] == ["1.4 GB", "3 MB"]


def fails_above(monkeypatch: pytest.MonkeyPatch, rows: int, *, from_step: int = 0) -> None:
    """Let the GPU's allocator fail, as it says so, on batches of more than `rows`."""
    real = GuardedTrainer.compute_loss

    def compute_loss(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if len(inputs["rows"]) > rows and self.state.global_step >= from_step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation.")
        return real(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(GuardedTrainer, "compute_loss", compute_loss)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "from_step"), [("sft", 3), ("dpo", 0)])
def test_where_memory_runs_out_the_batch_is_halved(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, from_step: int
) -> None:
    """At once, or in the middle: then from the last checkpoint on. The rows of a step and its loss are the same."""
    settings: dict[str, Any] = {
        "epochs": 2,
        "checkpoint_steps": 2,
        "log_steps": 1,
        **({"packing": False} if stage == "sft" else {}),
    }
    spec = spec_of(stage, "full", **settings)
    expected = run(train_job(tmp_path / "whole", base, spec, payloads(stage)))
    fails_above(monkeypatch, 2, from_step=from_step)
    job, lines = train_job(tmp_path / "pieces", base, spec, payloads(stage)), Lines()
    result = run(job, progress=lines)
    said = [event for event in lines.events if event["event"] == "out_of_memory"]
    assert [(event["batch_size"], event["gradient_accumulation"]) for event in said] == [(4, 2), (2, 4)]
    assert "batches of 2, 4 a step, instead of 8: CUDA out of memory" in result.guards["out_of_memory"]
    assert result.resumed_from_step == (2 if from_step else 0)
    assert result.steps == expected.steps
    losses = [[point.loss for point in one.metrics] for one in (result, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    mine, others = weights(job.output), weights(tmp_path / "whole" / "model")
    assert all(torch.allclose(mine[name], tensor, atol=2e-3) for name, tensor in others.items())


def test_a_batch_that_can_not_be_smaller(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_above(monkeypatch, 0)
    spec = spec_of("sft", "lora", batch_size=2)
    with pytest.raises(MachineError, match="out of memory with 1 rows at a time") as caught:
        run(train_job(tmp_path, base, spec, payloads("sft", 4)))
    assert "gradient_checkpointing" in caught.value.next_step


def test_memory_that_lacks_for_the_model_itself(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    monkeypatch.setattr(type(METHODS["lora"]), "load", load)
    with pytest.raises(MachineError, match="out of memory while loading the model"):
        run(train_job(tmp_path, base, spec_of("sft", "lora"), payloads("sft", 4)))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert not out_of_memory(RuntimeError("shapes differ"))
    assert not out_of_memory(ValueError("CUDA out of memory."))
    assert out_of_memory(MemoryError())


@pytest.mark.slow
def test_the_calibration_step_leaves_nothing_behind(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout and replay-like randomness: the trained bytes and the curve are those of a training without it."""
    jobs = [train_job(tmp_path / name, base, spec_of("sft", "lora", epochs=2), payloads("sft")) for name in ("a", "b")]
    lines = Lines()
    result = run(jobs[0], progress=lines)
    (step,) = [event for event in lines.events if event["event"] == "calibrated"]
    assert step["seconds"] == pytest.approx(result.predicted_seconds)
    assert 0 < step["step_seconds"] < result.predicted_seconds
    assert "predicted" in result.guards["preflight"]
    monkeypatch.setattr(training_module, "calibrate", lambda *_: None)
    other = run(jobs[1])
    assert identical(jobs[0].output, jobs[1].output)
    assert other.metrics == result.metrics
    assert "preflight" not in other.guards


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 33 million weights, whose memory outweighs what varies from run to run."""
    return build_model(tmp_path_factory.mktemp("large") / "model", hidden=512, layers=8, embeddings=8192)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "method"), [("pretrain", "full"), ("pretrain", "prompt_tuning"), ("dpo", "lora")])
def test_the_peak_of_a_process_is_within_15_percent_of_what_was_told(
    large: Path, tmp_path: Path, stage: str, method: str
) -> None:
    """Also without what the libraries take, which is known when the prediction is made."""
    spec = spec_of(stage, method, epochs=1, batch_size=4, max_length=128, warmup_share=0, max_lost_share=1.0)
    if stage == "pretrain":
        rows: list[dict[str, Any]] = [{"text": "rotor " * 128 * 8}]
    else:
        rows = payloads(stage, 8)
        for row in rows:
            row["prompt"][0]["content"] += " rotor" * 50
    job = train_job(tmp_path, large, spec, rows)
    (tmp_path / "job.json").write_text(job.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "training.worker", tmp_path / "job.json", tmp_path / "result.json"],
        # One thread: two that wait for each other on a busy machine take minutes.
        env={**os.environ, **worker_environment(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = TrainResult.model_validate_json((tmp_path / "result.json").read_bytes())
    (told,) = [event for line in done.stdout.splitlines() if (event := json.loads(line))["event"] == "preflight"]
    assert result.predicted_memory_bytes == told["memory"]
    assert result.peak_memory_bytes == pytest.approx(told["memory"], rel=0.15)
    of_training = told["memory"] - told["libraries"]
    assert of_training > 400e6
    assert result.peak_memory_bytes - told["libraries"] == pytest.approx(of_training, rel=0.15)
