"""The trials of a sweep: each trains the stage from the same model on the same rows, and is scored like a gate scores.

A trial is first trained for a ninth of the stage's epochs, then for a third, then for all of them, each time from the
start with its own rise and fall of the learning rate; one that is not among the best third of those seen so far at that
share ends there (successive halving by the stopping rule; Jamieson and Talwalkar, AISTATS 2016; Li et al., arXiv
1810.05934). Every such training is a step in the catalogue, found again by what it depends on.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from data_catalog.errors import ConfigError, MachineError, TrainingError
from data_catalog.identity import file_sha256
from data_catalog.records import DatasetVersion, StepRun
from evaluation.statistics import Interval, mean, paired_bootstrap, wilson
from evaluation.suites import Suite
from flows import model_steps
from flows.config import StageConfig
from flows.context import RunContext
from flows.model_steps import StudentModel
from flows.sweeping.samplers import Sampler
from flows.sweeping.space import Values, with_values
from training.specs import TrainSpec

REDUCTION = 3
"""One in so many goes on to so many times the training; the eta of successive halving, 3 as in Li et al."""
MAX_RUNGS = 3
"""A ninth, a third, all: below a ninth of a few epochs little has been learned that could be compared."""
AS_CONFIGURED = 0
"""The number of the trial with the settings as they are, which the others are compared with."""
Scores = Mapping[str, float | None]


class TrialState(StrEnum):
    """How a trial ended."""

    FINISHED = "finished"
    """Trained for all epochs."""
    PRUNED = "pruned"
    """Not among the best at a share of the epochs."""
    REFUSED = "refused"
    """Its values don't go together; nothing was trained."""
    FAILED = "failed"
    """The training or the scoring ended in an error; the same command tries it again."""


@dataclass(frozen=True)
class Trial:
    """One combination of values and what came of it."""

    number: int
    values: Values
    state: TrialState
    train: TrainSpec | None = None
    """The stage's settings with the values; None where they are refused."""
    rungs: Mapping[int, float] = field(default_factory=dict)
    """Rung to mean score."""
    share: float = 0.0
    """Of the epochs that the newest score is of."""
    scores: Scores = field(default_factory=dict)
    """Sample id to that score; None is unscored."""
    seconds: float = 0.0
    """Training and scoring, of all shares."""
    error: str = ""

    @property
    def known(self) -> list[float]:
        """The scores that there are."""
        return [score for score in self.scores.values() if score is not None]

    @property
    def score(self) -> float | None:
        """The mean of the scored samples."""
        return mean(self.known) if self.known else None

    @property
    def interval(self) -> Interval | None:
        """One-sided 95 % bounds of the mean (Wilson)."""
        return wilson(mean(self.known), len(self.known)) if self.known else None

    def ahead_of(self, other: Trial) -> Interval | None:
        """Return one-sided 95 % bounds of how much better this trial is than another, on the samples of both."""
        pairs = [(score, other.scores.get(sample)) for sample, score in self.scores.items()]
        differences = [mine - its for mine, its in pairs if mine is not None and its is not None]
        return paired_bootstrap(differences) if differences else None


@dataclass(frozen=True)
class Bench:
    """What all trials of a sweep share."""

    stage: StageConfig
    start: StudentModel
    dataset: DatasetVersion
    suite: Suite
    """The samples that settings are chosen on, and how they are scored."""
    shares: tuple[float, ...] = (1.0,)
    """Of the epochs, one per rung, the last 1."""


def shares_for(trials: int, *, prune: bool) -> tuple[float, ...]:
    """Return the shares of the epochs at which trials are compared: as many as leave one for the last."""
    rungs = 1
    while prune and rungs < MAX_RUNGS and REDUCTION**rungs <= trials:
        rungs += 1
    return tuple(REDUCTION**-rung for rung in reversed(range(rungs)))


def survives(score: float, seen: Sequence[float]) -> bool:
    """Whether a score is among the best third of those seen at its share, itself included; a tie is no defeat."""
    return sum(other > score for other in seen) < math.ceil(len(seen) / REDUCTION)


def run_trials(ctx: RunContext, bench: Bench, sampler: Sampler, budget: float | None) -> Iterator[Trial]:
    """Yield the trial with the settings as they are, then those that the sampler proposes.

    Args:
        ctx: of the project, whose run lock is held.
        bench: what is trained and scored.
        sampler: proposes values.
        budget: seconds of training and scoring after which no further trial begins; what an earlier, interrupted
            command spent on finished trainings counts.
    """
    first = _all_rungs(ctx, replace(bench, shares=(1.0,)), Trial(AS_CONFIGURED, {}, TrialState.FAILED), {})
    yield first
    spent = first.seconds
    seen: dict[int, list[float]] = {}
    for number in range(1, sampler.trials + 1):
        if budget is not None and spent >= budget:
            ctx.reporter.note(f"the budget is spent: {number - 1} of {sampler.trials} trials were begun")
            return
        values = sampler.ask()
        told = ", ".join(f"{name} {value}" for name, value in values.items())
        ctx.reporter.note(f"trial {number} of {sampler.trials}: {told}")
        trial = _all_rungs(ctx, bench, Trial(number, values, TrialState.FAILED), seen)
        sampler.tell(trial.rungs, pruned=trial.state is TrialState.PRUNED)
        spent += trial.seconds
        yield trial


def _all_rungs(ctx: RunContext, bench: Bench, trial: Trial, seen: dict[int, list[float]]) -> Trial:
    """Train a trial for each share in turn, until it is finished, pruned or in error."""
    try:
        trial = replace(trial, train=with_values(bench.stage.train, trial.values))
    except ConfigError as error:
        return replace(trial, state=TrialState.REFUSED, error=error.message)
    for rung, share in enumerate(bench.shares):
        try:
            trial = _measured(ctx, bench, trial, rung, share)
        except (TrainingError, MachineError) as error:
            ctx.reporter.note(f"trial {trial.number} failed: {error.message}")
            return replace(trial, state=TrialState.FAILED, error=error.message)
        if trial.score is None:
            return replace(trial, state=TrialState.FAILED, error="no sample could be scored")
        seen.setdefault(rung, []).append(trial.score)
        if share < 1 and not survives(trial.score, seen[rung]):
            return replace(trial, state=TrialState.PRUNED)
    return replace(trial, state=TrialState.FINISHED)


def _measured(ctx: RunContext, bench: Bench, trial: Trial, rung: int, share: float) -> Trial:
    """Train and score a trial for a share of its epochs, or find what an equal training came to."""
    assert trial.train is not None, "the caller has put the values in"
    train = trial.train.model_copy(update={"epochs": trial.train.epochs * share})
    # A name of its own: what starts from "the newest training of a stage" must not start from a trial.
    stage = bench.stage.model_copy(update={"name": f"{bench.stage.name}-sweep", "train": train})
    replay = ctx.config.replay if stage.data.replay_share > 0 else None
    inputs = {
        "spec": train.model_dump(mode="json"),
        "model": bench.start.fingerprint,
        "dataset": bench.dataset.id,
        "replay": file_sha256(replay) if replay else None,
        "replay_share": stage.data.replay_share,
        "suite": bench.suite.digest,
    }

    def work(run: StepRun) -> dict[str, Any]:
        began = ctx.catalogue.clock()
        _, model = model_steps.train(ctx, stage, bench.start, bench.dataset)
        found = model_steps.evaluate(ctx, [bench.suite], model)[bench.suite.name]
        return {
            "parameters": dict(trial.values),
            "share": share,
            "suite": bench.suite.name,
            "weights": model.fingerprint,
            "directory": str(model.path.parent.relative_to(ctx.home)),
            "seconds": ctx.catalogue.clock() - began,
            "scores": {entry.sample_id: entry.score for entry in found},
        }

    run = ctx.step(f"sweep:{bench.stage.name}", inputs, work, describe=_line, detail=f"{train.epochs:.3g} epochs")
    # The scores are kept; a model for each trial would fill the disk. Behind the record, so that none is trained twice.
    shutil.rmtree(ctx.home / str(run.result["directory"]), ignore_errors=True)
    measured = replace(
        trial, share=share, scores=run.result["scores"], seconds=trial.seconds + float(run.result["seconds"])
    )
    return replace(measured, rungs={**trial.rungs, rung: measured.score}) if measured.score is not None else measured


def _line(result: Mapping[str, Any]) -> str:
    known = [score for score in result["scores"].values() if score is not None]
    return f"{result['suite']} {100 * mean(known):.1f} %" if known else "unscored"
