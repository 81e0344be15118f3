"""The steps evaluate and gate on a catalogue that has all answers: what the configuration says reaches the decision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.errors import DataError
from data_catalog.evaluation_records import SampleScore
from data_catalog.records import Completion, Outcome, RunStatus, StepRun
from evaluation.gates import GateOutcome
from evaluation.specs import Against, SuiteSpec
from evaluation.suites import load_suite, requests_by_sample
from flows import model_steps
from flows.config import StageConfig
from flows.config_file import load_config
from flows.context import RunContext
from flows.gating import Scored, gate_stage
from flows.model_steps import StudentModel
from flows.plan import describe
from flows.progress import SilentReporter
from flows.teacher import LazyTeacher
from tests.flows.projects import write_project


class Lines(SilentReporter):
    """Keeps what a step says at its end."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def step_done(self, step: str, detail: str = "", *, cached: bool = False) -> None:
        self.done.append(f"{step}: {detail}")


@pytest.fixture
def context(tmp_path: Path) -> tuple[RunContext, Lines]:
    lines = Lines()
    config = load_config(write_project(tmp_path, "http://127.0.0.1:1/v1"))
    return RunContext(config, Catalogue(tmp_path / "home"), cast(LazyTeacher, None), lines), lines


def stage(**fields: Any) -> StageConfig:
    return StageConfig.model_validate({"name": "learn", "train": {"stage": "sft"}, **fields})


def scores(won: int, total: int, *, candidate: bool) -> list[SampleScore]:
    """The candidate is right everywhere, its baseline everywhere but on the first `won`."""
    return [
        SampleScore(
            sample_id=str(n),
            question="?",
            completion="x",
            outcome=Outcome.PASSED,
            score=1.0 if candidate or n >= won else 0.0,
        )
        for n in range(total)
    ]


def decided(ctx: RunContext, folder: Path, gated: StageConfig) -> GateOutcome:
    """Gate a candidate that won 5 of 60 samples and lost none; the even ones are of kind `a`."""
    directory = folder / "model"
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    rows = [{"id": str(n), "question": f"{n}?", "answers": ["x"], "kind": "ab"[n % 2]} for n in range(60)]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    suite = load_suite("gold", SuiteSpec(path=path))
    new, old = ({"gold": scores(5, 60, candidate=candidate)} for candidate in (True, False))
    run = StepRun(id="run-1", step="train:learn", fingerprint="f", status=RunStatus.DONE, started_at=0.0)
    model = StudentModel("learn", directory, "candidate")
    base = StudentModel("base", folder, "base")
    found = gate_stage(ctx, gated, Scored(model, new), {Against.BASE: Scored(base, old)}, run, [suite])
    assert found.record.outcome == found.decision.outcome.name
    assert found.record.baseline == "base"
    return found.decision.outcome


def test_the_correction_of_the_stage_decides(context: tuple[RunContext, Lines], tmp_path: Path) -> None:
    """5 wins and no loss are p = 1/32: enough for one rule at 95 %, not for two."""
    rules = [{"suite": "gold", "require": "better"}]
    assert decided(context[0], tmp_path, stage(gate=rules)) is GateOutcome.PASS
    assert decided(context[0], tmp_path, stage(gate=[*rules, *rules])) is GateOutcome.INCONCLUSIVE
    assert decided(context[0], tmp_path, stage(gate=[*rules, *rules], gate_correction="none")) is GateOutcome.PASS


def test_the_slice_of_a_rule_decides(context: tuple[RunContext, Lines], tmp_path: Path) -> None:
    """Of the 5 samples won, 3 are of kind `a`: too few alone."""
    sliced = {"suite": "gold", "require": "better", "slice": {"kind": "a"}}
    assert decided(context[0], tmp_path, stage(gate=[sliced])) is GateOutcome.INCONCLUSIVE
    with pytest.raises(DataError, match="no sample of suite `gold` has kind=c"):
        decided(context[0], tmp_path, stage(gate=[{**sliced, "slice": {"kind": "c"}}]))


def test_an_empty_slice_is_found_by_check_before_anything_runs(tmp_path: Path) -> None:
    gate = "[{suite: gold, require: better, slice: {kind: number}}]"
    with pytest.raises(DataError, match="no sample of suite `gold` has kind=number"):
        describe(load_config(write_project(tmp_path, "http://127.0.0.1:1/v1", gate=gate)))


def test_the_spread_over_templates_is_told(context: tuple[RunContext, Lines], tmp_path: Path) -> None:
    ctx, lines = context
    path = tmp_path / "two.jsonl"
    path.write_text('{"question": "One?", "answers": ["1"]}\n{"question": "Two?", "answers": ["2"]}\n')
    suite = load_suite("two", SuiteSpec(path=path, templates=("{question}", "Q: {question}")))
    texts = (("1", "1"), ("2", "no"))
    pairs = [
        (request, Completion(request_key=request.key, text=text, finish_reason="stop"))
        for group, given in zip(requests_by_sample(suite, "m"), texts, strict=True)
        for request, text in zip(group, given, strict=True)
    ]
    ctx.catalogue.add_completions([request for request, _ in pairs], [completion for _, completion in pairs])
    found = model_steps.evaluate(ctx, [suite], StudentModel("learn", tmp_path, "m"))
    assert [entry.score for entry in found["two"]] == [1.0, 0.5]
    assert lines.done == ["evaluate:learn: two 75.0 % (50.0 to 100.0 % in 2 templates)"]
