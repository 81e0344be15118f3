"""What the steps of one run share, and the rule that a step with equal inputs is never done twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_catalog.catalogue import Catalogue
from data_catalog.records import StepRun
from evaluation.scorers.judged import TEACHER
from flows.config import Config
from flows.progress import Reporter
from flows.teacher import LazyTeacher
from flows.workers import WorkerHost
from generators.target import GenerationTarget

Result = Mapping[str, Any]


@dataclass(frozen=True)
class RunContext:
    """The project, where it is kept, who teaches, and who is told."""

    config: Config
    catalogue: Catalogue
    teacher: LazyTeacher
    reporter: Reporter
    host: WorkerHost | None = None
    """Where training and local inference are forked from; without it each job has a process of its own."""
    judges: Mapping[str, LazyTeacher] = field(default_factory=dict)
    """The further endpoints that judge answers."""
    targets: tuple[GenerationTarget, ...] = ()
    """What alone may be newly asked of the teacher; empty: everything."""

    def judge(self, name: str) -> LazyTeacher:
        """Return who judges under that name: `teacher`, or one of `judges`."""
        return self.teacher if name == TEACHER else self.judges[name]

    @property
    def home(self) -> Path:
        """The project's home: catalogue, datasets, stages, models, logs, reports."""
        return self.config.home

    def step(
        self,
        name: str,
        inputs: Mapping[str, Any],
        work: Callable[[StepRun], Result],
        *,
        intact: Callable[[Result], bool] = lambda result: True,
        describe: Callable[[Result], str] = lambda result: "",
        detail: str = "",
    ) -> StepRun:
        """Do a step, or return the run that has already done it with equal `inputs`.

        Args:
            name: the step, such as `train:sft`.
            inputs: everything that the result depends on; its hash is the step's fingerprint.
            work: does the step and returns its result as plain JSON.
            intact: whether the files of an earlier result are still there.
            describe: one line on a result, for the reporter.
            detail: what the reporter says when the step starts.
        """
        fingerprint = StepRun.fingerprint_of(name, inputs)
        done = self.catalogue.done_step(fingerprint)
        self.reporter.step_started(name, detail)
        if done is not None and intact(done.result):
            self.reporter.step_done(name, describe(done.result), cached=True)
            return done
        run = self.catalogue.start_step(name, fingerprint)
        try:
            result = work(run)
        except BaseException as error:
            self.catalogue.fail_step(run, f"{type(error).__name__}: {error}")
            raise
        finished = self.catalogue.finish_step(run, result)
        self.reporter.step_done(name, describe(result))
        return finished
