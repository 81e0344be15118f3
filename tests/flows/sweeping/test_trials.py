"""The order of trials without training: what is pruned, what fails, when the budget ends, what is found again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.errors import TrainingError
from data_catalog.evaluation_records import SampleScore
from data_catalog.records import DatasetVersion, Kind, Outcome, RunStatus
from evaluation.specs import SuiteSpec
from evaluation.suites import Suite
from flows import model_steps
from flows.config import Config, StageConfig
from flows.context import RunContext
from flows.model_steps import StudentModel
from flows.progress import SilentReporter
from flows.sweeping.samplers import ByLot
from flows.sweeping.space import parse_parameter
from flows.sweeping.trials import Bench, Trial, TrialState, run_trials, shares_for
from tests.flows.projects import STUDENT
from training.specs import SftSpec

PARAMETERS = ("learning_rate=1e-6..1e-2", "method=lora,ia3", "method.rank=4..64")
SAMPLES = 20


@dataclass
class Clock:
    """Ten seconds pass between two looks."""

    now: float = 0.0

    def __call__(self) -> float:
        self.now += 10
        return self.now


@dataclass
class Trained:
    """Stands in for training and scoring: a higher rate scores better; what was trained is kept."""

    ctx: RunContext
    fails: Callable[[StageConfig], bool] = lambda stage: False
    stages: list[StageConfig] = field(default_factory=list)

    def train(self, ctx: RunContext, stage: StageConfig, *_: object) -> tuple[None, StudentModel]:
        self.stages.append(stage)
        if self.fails(stage):
            raise TrainingError("the loss is not a number")
        path = ctx.home / "stages" / f"trial-{len(self.stages)}" / "model"
        path.mkdir(parents=True)
        return None, StudentModel(str(stage.train.learning_rate), path, f"weights-{len(self.stages)}")

    def evaluate(
        self, ctx: RunContext, suites: Sequence[Suite], model: StudentModel
    ) -> Mapping[str, Sequence[SampleScore]]:
        right = round(float(model.label) * 100 * SAMPLES)
        scores = [
            SampleScore(sample_id=str(n), question="?", completion="", outcome=Outcome.PASSED, score=float(n < right))
            for n in range(SAMPLES)
        ]
        return {suites[0].name: scores}


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    config = Config.model_validate(
        {
            "project": "test",
            "home": tmp_path / "home",
            "documents": {"paths": [tmp_path]},
            "teacher": {"model": "x", "base_url": "http://127.0.0.1:9/v1"},
            "student": {"model": STUDENT},
            "stages": [{"name": "learn", "train": {"stage": "sft", "learning_rate": 1e-4, "epochs": 9}}],
        }
    )
    catalogue = Catalogue(config.home, clock=Clock())
    ctx = RunContext(config=config, catalogue=catalogue, teacher=cast(Any, None), reporter=SilentReporter())
    stand_in = Trained(ctx)
    monkeypatch.setattr(model_steps, "train", stand_in.train)
    monkeypatch.setattr(model_steps, "evaluate", stand_in.evaluate)
    return stand_in


def trials(trained: Trained, *, count: int = 9, budget: float | None = None, prune: bool = True) -> list[Trial]:
    ctx = trained.ctx
    dataset = DatasetVersion(id="dataset-1", name="test-learn", kind=Kind.MESSAGES, rows=1, path="d", sha256="0")
    suite = Suite(name="gold:development", spec=SuiteSpec(path=Path("gold.jsonl")), samples=(), digest="gold")
    parameters = [parse_parameter(text, SftSpec()) for text in PARAMETERS]
    start = StudentModel("start", STUDENT, "weights")
    bench = Bench(ctx.config.stages[0], start, dataset, suite, shares_for(count, prune=prune))
    return list(run_trials(ctx, bench, ByLot(parameters, count, seed=4), budget))


def test_the_worse_end_early_and_the_best_is_trained_for_all_epochs(trained: Trained) -> None:
    found = trials(trained)
    assert [trial.number for trial in found] == list(range(10))
    first, *rest = found
    assert (first.state, first.values, first.share) == (TrialState.FINISHED, {}, 1)
    states = [trial.state for trial in rest]
    assert {TrialState.FINISHED, TrialState.PRUNED, TrialState.REFUSED} == set(states)  # ia3 has no rank
    refused = [trial for trial in rest if trial.state is TrialState.REFUSED]
    assert all(trial.values["method"] == "ia3" and "rank" in trial.error for trial in refused)
    tried = [trial for trial in rest if trial.state is not TrialState.REFUSED]
    best = max(tried, key=lambda trial: float(str(trial.values["learning_rate"])))
    assert best.state is TrialState.FINISHED
    assert sorted(best.rungs) == [0, 1, 2]
    epochs = [stage.train.epochs for stage in trained.stages]
    assert {round(spent, 6) for spent in epochs} == {1, 3, 9}
    assert len(epochs) < 1 + 3 * len(tried)


def test_what_was_trained_is_found_again_also_by_a_sweep_without_pruning(trained: Trained) -> None:
    first = trials(trained)
    count = len(trained.stages)
    assert trials(trained) == first
    assert len(trained.stages) == count
    finished = sum(trial.state is TrialState.FINISHED for trial in first)
    whole = trials(trained, prune=False)
    left = [trial for trial in whole if trial.state is TrialState.FINISHED]
    assert len(trained.stages) == count + len(left) - finished
    assert not list((trained.ctx.home / "stages").glob("*/model"))


def test_a_failed_trial_ends_alone_and_is_tried_again(trained: Trained) -> None:
    trained.fails = lambda stage: stage.train.learning_rate > 1e-3
    found = trials(trained)
    failed = [trial for trial in found if trial.state is TrialState.FAILED]
    assert failed
    assert all(trial.error == "the loss is not a number" and trial.score is None for trial in failed)
    runs = trained.ctx.catalogue.step_runs()
    assert sum(run.status is RunStatus.FAILED for run in runs) == len(failed)
    trained.fails = lambda stage: False
    assert not [trial for trial in trials(trained) if trial.state is TrialState.FAILED]


def test_the_budget_counts_what_was_trained_before(trained: Trained) -> None:
    some = trials(trained, budget=45.0)
    assert 1 < len(some) < 10
    assert sum(trial.seconds for trial in some) >= 45.0 > sum(trial.seconds for trial in some[:-1])
    count = len(trained.stages)
    assert trials(trained, budget=45.0) == some
    assert len(trained.stages) == count
