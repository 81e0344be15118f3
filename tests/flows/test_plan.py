"""What `tutelage check` and a run say of memory and time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import plan
from flows.config_file import load_config
from flows.model_steps import _tell_step
from flows.plan import describe, memory_line
from tests.flows.projects import STUDENT, write_project
from training.specs import PretrainSpec, SftSpec


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
