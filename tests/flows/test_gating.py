"""A gate with a budget asks more of the suite until it is settled, of everybody it compares, and no question twice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.records import Completion, Request, RunStatus, StepRun
from evaluation.gates import GateOutcome
from evaluation.sequential import spent
from evaluation.specs import Against, Spending, SuiteSpec
from evaluation.suites import Suite, load_suite, questions, requests_by_sample
from flows import model_steps
from flows.config import StageConfig
from flows.config_file import load_config
from flows.context import RunContext
from flows.gating import Gated, Scored, gate_stage
from flows.model_steps import StudentModel
from flows.progress import SilentReporter
from flows.teacher import LazyTeacher
from tests.flows.projects import write_project

ROWS = 300


class Notes(SilentReporter):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Models:
    """Stands for the models' weights: knows which share of the questions each is right on, and counts what is asked."""

    def __init__(self, right: Mapping[str, float]) -> None:
        self.right = right
        self.asked: list[str] = []

    def __call__(
        self, ctx: RunContext, step: str, model: StudentModel, requests: Sequence[Request]
    ) -> dict[str, Completion]:
        known = dict(ctx.catalogue.answered([request.key for request in requests]))
        fresh = [request for request in requests if request.key not in known]
        self.asked += [f"{model.label} {request.origin['sample_id']}" for request in fresh]
        answers = [
            Completion(request_key=request.key, text=self._text(model, request), finish_reason="stop")
            for request in fresh
        ]
        ctx.catalogue.add_completions(fresh, answers)
        return known | {answer.request_key: answer for answer in answers}

    def _text(self, model: StudentModel, request: Request) -> str:
        number = int(request.origin["sample_id"])
        return "x" if (number * 7919) % ROWS < self.right[model.label] * ROWS else "no"


def suite_of(folder: Path, **spec: Any) -> Suite:
    path = folder / "gold.jsonl"
    rows = [{"id": str(n), "question": f"{n}?", "answers": ["x"]} for n in range(ROWS)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return load_suite("gold", SuiteSpec.model_validate({"path": path, "limit": 40, "budget": 280, **spec}))


def gated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, candidate: float, *, improve: int = 0, **stage: Any
) -> tuple[Gated, Models, list[str]]:
    models, notes = Models({"base": 0.5, "learn": candidate}), Notes()
    monkeypatch.setattr(model_steps, "ask_student", models)
    config = load_config(write_project(folder, "http://127.0.0.1:1/v1")).model_copy(update={"improve": improve})
    ctx = RunContext(config, Catalogue(folder / "home"), cast(LazyTeacher, None), notes)
    directory = folder / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    suite = suite_of(folder)
    base, learned = StudentModel("base", folder, "base"), StudentModel("learn", directory, "learn")
    scored = [Scored(model, model_steps.evaluate(ctx, [suite], model)) for model in (learned, base)]
    rules = [{"suite": "gold", "require": "better"}]
    config_of = StageConfig.model_validate({"name": "learn", "train": {"stage": "sft"}, "gate": rules, **stage})
    run = StepRun(id="run-1", step="train:learn", fingerprint="f", status=RunStatus.DONE, started_at=0.0)
    found = gate_stage(ctx, config_of, scored[0], {Against.BASE: scored[1]}, run, [suite])
    return found, models, notes.notes


def test_a_clear_case_is_settled_at_the_first_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, models, notes = gated(tmp_path, monkeypatch, 1.0, gate_spending="pocock")
    assert found.decision.outcome is GateOutcome.PASS
    assert len(models.asked) == 2 * 40
    assert notes[0] == "gate learn, look 1 (gold 40 samples): PASS"
    assert found.record.comparisons[0]["suite_digest"] == suite_of(tmp_path).digest


def test_a_close_case_asks_more_and_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, models, notes = gated(tmp_path, monkeypatch, 0.58)
    assert found.decision.outcome is GateOutcome.PASS
    (comparison,) = found.decision.comparisons
    assert comparison.n in (160, 280)
    assert comparison.confidence > 0.95
    assert len(models.asked) == len(set(models.asked)) == 2 * comparison.n
    assert notes[0] == "gate learn, look 1 (gold 40 samples): INCONCLUSIVE; asks more, up to gold 160"
    assert len(found.candidate.scores["gold"]) == len(found.rivals[Against.BASE].scores["gold"]) == comparison.n
    assert found.record.comparisons[0]["suite_digest"] == suite_of(tmp_path).grown(comparison.n).digest


def test_each_round_of_improvement_has_its_share_of_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _, _ = gated(tmp_path, monkeypatch, 1.0, improve=1, gate_looks=2, gate_spending="pocock")
    spent_first = 1 - found.decision.comparisons[0].confidence
    assert spent_first == pytest.approx(spent(0.05 / 2, 40 / 280, Spending.POCOCK))


def test_a_gate_that_nothing_settles_ends_at_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _, notes = gated(tmp_path, monkeypatch, 0.5, gate_looks=2)
    assert found.decision.outcome is GateOutcome.INCONCLUSIVE
    assert found.decision.comparisons[0].n == 280
    assert [note.partition(":")[0] for note in notes[:2]] == [
        "gate learn, look 1 (gold 40 samples)",
        "gate learn, look 2 (gold 280 samples)",
    ]
    assert "asks more" not in notes[1]


def test_a_budget_draws_by_lot_and_keeps_its_reserve_from_training(tmp_path: Path) -> None:
    suite = suite_of(tmp_path)
    assert (len(suite.samples), len(suite.reserve), len(questions(suite))) == (40, 240, 280)
    numbers = [int(sample.id) for sample in suite.samples]
    assert numbers != sorted(numbers)
    assert sum(number < ROWS // 2 for number in numbers) in range(10, 31)
    grown = suite.grown(100)
    assert grown.samples[:40] == suite.samples
    assert grown.digest != suite.digest
    assert [len(group) for group in requests_by_sample(grown, "m")] == [1] * 100
    assert suite_of(tmp_path) == suite
    with pytest.raises(ValueError, match="needs a smaller `limit`"):
        suite_of(tmp_path, limit=280)
