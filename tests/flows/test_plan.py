"""What `tutelage check` and a run say of memory and time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import plan
from flows.config_file import load_config
from flows.model_steps import _tell_step, _train_line
from flows.plan import describe, memory_line
from tests.flows.projects import STUDENT, write_project
from training.specs import Ledger, MetricPoint, PretrainSpec, SftSpec, TrainResult


def test_each_stage_is_told_with_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "has_gpu", lambda: False)
    lines = describe(load_config(write_project(tmp_path, "http://127.0.0.1:9/v1"))).splitlines()
    behind = [after for line, after in pairwise(lines) if line.startswith("stage ")]
    assert len(behind) == 2
    assert all("of memory beside the libraries, a full step at least" in line for line in behind)


def test_the_recipes_of_pairs_are_told(tmp_path: Path) -> None:
    path = write_project(tmp_path, "http://127.0.0.1:9/v1")
    more = "  - {name: prefer, train: {stage: dpo}, data: {pairs: [on_policy, {name: delta, rejected: student}]}}\n"
    path.write_text(path.read_text() + more)
    assert "           pairs: on_policy, delta; 4 answers per question" in describe(load_config(path)).splitlines()


def test_what_does_not_fit_is_told_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "has_gpu", lambda: False)
    spec = SftSpec(batch_size=8, max_length=512)
    assert "are free" not in memory_line(STUDENT, spec, 10**12)
    assert "batch_size: 2 with gradient_accumulation: 4" in memory_line(STUDENT, spec, 350_000_000)
    assert memory_line(STUDENT, spec, 1).endswith("no single setting makes it fit")
    monkeypatch.setattr(plan, "has_gpu", lambda: True)
    assert "GPU memory" in memory_line(STUDENT, PretrainSpec(), 1)


def test_a_run_says_that_memory_ran_out_and_what_a_long_training_takes() -> None:
    notes: list[str] = []
    ctx: Any = SimpleNamespace(reporter=SimpleNamespace(note=notes.append))
    event = {"event": "out_of_memory", "batch_size": 4, "gradient_accumulation": 2, "reason": "CUDA out of memory."}
    _tell_step(ctx, "train:learn", event)
    for seconds in (60.0, 600.0):
        _tell_step(
            ctx, "train:learn", {"event": "calibrated", "seconds": seconds, "step_seconds": 1.5, "memory": 2 * 10**9}
        )
    assert len(notes) == 2
    assert "goes on with batch_size 4 and gradient_accumulation 2" in notes[0]
    assert "about 10 min to train, 1.5 s for the largest batch, 2.0 GB" in notes[1]


def test_a_stage_on_sampled_answers_says_what_they_earned_and_what_taught_nothing() -> None:
    details: list[str] = []
    ctx: Any = SimpleNamespace(reporter=SimpleNamespace(step_progress=lambda *said: details.append(said[-1])))
    step = {"event": "step", "step": 1, "steps": 2, "loss": 0.0}
    for more in ({}, {"reward": 0.5}, {"reward": 0.5, "equal_groups": 0.25}):
        _tell_step(ctx, "train:reinforce", {**step, **more})
    assert details == ["loss 0.000", "reward 0.500", "reward 0.500, 25% of the groups equal"]
    logged = [{"reward": 0.1, "ended": 0.5, "equal_groups": 0.5}, {"reward": 0.4, "ended": 1.0, "equal_groups": 0.0}]
    result = TrainResult(
        stage="grpo",
        method="lora",
        steps=2,
        seconds=1,
        import_seconds=0,
        trainable_parameters=1,
        total_parameters=2,
        ledger=Ledger(rows=1, kept=1, truncated=0, dropped=0),
        metrics=tuple(MetricPoint(step=n, epoch=n, loss=0, values=values) for n, values in enumerate(logged)),
    )
    assert _train_line({"train": result.model_dump()}) == (
        "2 steps of lora, reward 0.100 → 0.400, answers that end 50% → 100%, nothing learned from 25% of the prompts, "
        "whose answers all earned the same"
    )
