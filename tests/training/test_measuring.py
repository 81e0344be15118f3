"""What `tutelage methods` measures: the figures are those of the model and of what training would leave."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from tests.training.tiny import Lines
from training import measuring
from training.measuring import measure, slowdown
from training.method_specs import AdapterSpec, AnyMethod, Ia3Spec, LoraSpec
from training.models import load_weights, open_source
from training.specs import MeasureJob, MeasureResult, MethodMeasure
from training.student import Student

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def result(base: Path) -> MeasureResult:
    methods = tuple(kind() for kind in get_args(AnyMethod))
    return measure(MeasureJob(model=base, methods=methods, repeats=1, tokens=16), progress=Lines())


def test_every_method_is_measured(base: Path, result: MeasureResult) -> None:
    rows = {row.method.name: row for row in result.methods}
    assert len(rows) == len(get_args(AnyMethod))
    assert not any(row.refused for row in result.methods)
    weights = (base / "model.safetensors").stat().st_size
    assert rows["full"].trainable == rows["full"].total == result.parameters
    assert (rows["full"].delay, rows["full"].stored_bytes) == (None, weights)
    for name, row in rows.items():
        if name != "full":
            assert 0 < row.trainable < row.total
            assert 0 < row.stored_bytes < 2 * weights
            assert row.delay is not None
            assert row.delay > -1
    # By hand: 20 vectors of 64; 20 keys and values of 64 in each of 2 layers; factors on k, v and the inner 160.
    assert rows["prompt_tuning"].trainable == 20 * 64
    assert rows["p_tuning_v2"].trainable == 20 * 2 * 2 * 64
    assert rows["ia3"].trainable == 2 * (64 + 64 + 160)
    assert rows["lora"].total == result.parameters + rows["lora"].trainable
    # The vectors as PEFT stores them, and once more as what training goes on from.
    assert rows["prompt_tuning"].stored_bytes == pytest.approx(2 * 4 * 20 * 64, rel=0.1)


def test_a_method_that_does_not_fit_the_model_is_told(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.bottleneck._FEED_FORWARD_OUT", ("mlp.other",))
    job = MeasureJob(model=base, methods=(AdapterSpec(), Ia3Spec()), repeats=1, tokens=8)
    adapter, ia3 = measure(job, progress=Lines()).methods
    assert "where pfeiffer adapters would stand" in adapter.refused
    assert adapter == MethodMeasure(method=AdapterSpec(), refused=adapter.refused)
    assert ia3.trainable > 0


def test_the_delay_is_the_median_of_ratios(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = Student(load_weights(open_source(base, needs_chat_template=False), torch.float32))
    # A warm-up pair, then base and adapted in turn: 1.5, 3 and 1.2 times as long.
    seconds = iter([9.0, 99.0, 1.0, 1.5, 1.0, 3.0, 2.0, 2.4])
    monkeypatch.setattr(measuring, "_seconds", lambda *_: next(seconds))
    assert slowdown(student, student, torch.zeros((1, 1)), 3) == pytest.approx(0.5)


def test_settings_of_the_job_are_heeded(base: Path) -> None:
    job = MeasureJob(model=base, methods=(LoraSpec(rank=2), LoraSpec(rank=8)), repeats=2, tokens=10_000)
    result = measure(job, progress=Lines())
    small, large = result.methods
    assert large.trainable == 4 * small.trainable
    assert (result.repeats, result.tokens) == (2, 512)
