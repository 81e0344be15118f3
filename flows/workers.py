"""Training and local inference in a process of their own: a job file in, a result file out, ended with its owner."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from data_catalog import errors
from data_catalog.errors import MachineError, TrainingError, TutelageError
from data_catalog.identity import digest
from data_catalog.records import Completion, Record, Request
from flows.processes import ManagedProcess, tail
from training.environment import worker_environment
from training.specs import (
    CompleteJob,
    CompleteResult,
    InspectJob,
    InspectResult,
    Job,
    JobFailure,
    MeasureJob,
    MeasureResult,
    TrainJob,
    TrainResult,
)

OnEvent = Callable[[Mapping[str, Any]], None]
ResultT = TypeVar("ResultT", bound=Record)


class WorkerHost:
    """Forks workers from one process that has the libraries imported, which costs 7 to 12 s a time.

    It starts with the first job. Where it can't fork (another system than Linux, a library that started a thread), each
    job has a process of its own, as without a host.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process: ManagedProcess | None = None
        self._lines: Iterator[Mapping[str, Any]] = iter(())
        self._can_fork = hasattr(os, "pidfd_open")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the host and whatever it still runs; the next job starts another."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def run(self, job: Path, result: Path, log: Path, on_event: OnEvent | None) -> int | None:
        """Do a job in a forked process and return its exit status; None where the host can't, and nothing was done."""
        if not self._can_fork:
            return None
        try:
            status = self._forked(job, result, log, on_event)
        except BaseException:  # stopped by the user, or by an error of the reader: nothing goes on behind its back
            self.stop()
            raise
        if status is None:
            self.stop()
            self._can_fork = False
        return status

    def _forked(self, job: Path, result: Path, log: Path, on_event: OnEvent | None) -> int | None:
        order = json.dumps({"job": str(job), "result": str(result), "log": str(log)})
        was_ready = True
        while was_ready:
            process, was_ready = self._started()
            with contextlib.suppress(MachineError):  # it has ended: its output says no more
                process.send(order)
            begun = False
            for event in self._lines:
                if event.get("event") == "refused":
                    return None
                if event.get("job") != str(job):
                    continue
                begun = True
                if event["event"] == "ended":
                    return int(event["exit"])
                if on_event is not None:
                    on_event(event)
            self.stop()
            if begun:
                return 1  # the host was ended, and the job with it
            # It was ended between two jobs, by somebody who wanted its memory: another one takes the order. A fresh
            # one that ends before it takes its first can't work here.
        return None

    def _started(self) -> tuple[ManagedProcess, bool]:
        """Return the host's process, and whether it ran before."""
        ran = self._process is not None
        if self._process is None:
            argv = [sys.executable, "-m", "training.host"]
            log = self._home / "logs" / "workers.log"
            self._process = ManagedProcess(
                argv, home=self._home, log=log, env=worker_environment(), pipe_output=True, take_orders=True
            )
            self._process.start()
            self._lines = _events(self._process.lines())
        return self._process, ran


def train(job: TrainJob, *, home: Path, on_event: OnEvent | None = None, host: WorkerHost | None = None) -> TrainResult:
    """Run one training stage; an interrupted one goes on from its newest verified checkpoint."""
    name = f"{job.spec.stage}-{job.output.parent.name}"
    return _run(job, TrainResult, home=home, directory=job.work, name=name, on_event=on_event, host=host)


def complete(
    model: Path,
    fingerprint: str,
    requests: Sequence[Request],
    *,
    home: Path,
    on_event: OnEvent | None = None,
    host: WorkerHost | None = None,
) -> list[Completion]:
    """Answer requests with local weights; one whose prompt fills the model's context has no answer in the result.

    An interrupted call goes on where it was.
    """
    if not requests:
        return []
    directory = home / "work" / "complete" / digest([fingerprint, [request.key for request in requests]])[:16]
    directory.mkdir(parents=True, exist_ok=True)
    job = CompleteJob(model=model, requests=directory / "requests.jsonl", output=directory / "completions.jsonl")
    job.requests.write_text("".join(request.model_dump_json() + "\n" for request in requests), encoding="utf-8")
    _run(job, CompleteResult, home=home, directory=directory, name="complete", on_event=on_event, host=host)
    answered = {}
    for line in job.output.read_bytes().splitlines():  # of bytes: a text also breaks at U+2028, which JSON may hold
        completion = Completion.model_validate_json(line)
        answered[completion.request_key] = completion
    shutil.rmtree(directory)
    return [answered[request.key] for request in requests if request.key in answered]


def measure(job: MeasureJob, *, home: Path, on_event: OnEvent | None = None) -> MeasureResult:
    """Measure methods on a model."""
    directory = home / "work" / "measure"
    return _run(job, MeasureResult, home=home, directory=directory, name="measure", on_event=on_event, host=None)


def inspect(job: InspectJob, *, home: Path) -> InspectResult:
    """Look at a stage's batches."""
    directory = home / "work" / "inspect"
    return _run(job, InspectResult, home=home, directory=directory, name="inspect", on_event=None, host=None)


def _run(
    job: Job,
    result_type: type[ResultT],
    *,
    home: Path,
    directory: Path,
    name: str,
    on_event: OnEvent | None,
    host: WorkerHost | None,
) -> ResultT:
    directory.mkdir(parents=True, exist_ok=True)
    job_path, result_path = directory / "job.json", directory / "result.json"
    job_path.write_text(job.model_dump_json(indent=1), encoding="utf-8")
    result_path.unlink(missing_ok=True)
    log = home / "logs" / f"{name}.log"
    status = host.run(job_path, result_path, log, on_event) if host is not None else None
    if status is None:
        status = _run_apart(job_path, result_path, home, log, on_event)
    if not result_path.is_file():
        raise TrainingError(
            f"the {name} process ended with status {status} and left no result:\n{tail(log)}",
            next_step=f"look into {log}, then run the same command: what was done is kept",
        )
    text = result_path.read_text(encoding="utf-8")
    if "error" in json.loads(text):
        raise _failure(JobFailure.model_validate_json(text))
    return result_type.model_validate_json(text)


def _run_apart(job: Path, result: Path, home: Path, log: Path, on_event: OnEvent | None) -> int:
    """Do a job in a process that imports everything itself; return its exit status."""
    with worker_process(job, result, home=home, log=log) as process:
        for event in _events(process.lines()):
            if on_event is not None:
                on_event(event)
        return process.wait()


@contextlib.contextmanager
def worker_process(job: Path, result: Path, *, home: Path, log: Path) -> Iterator[ManagedProcess]:
    """Start `python -m training.worker` and end it with the caller."""
    argv = [sys.executable, "-m", "training.worker", str(job), str(result)]
    with ManagedProcess(argv, home=home, log=log, env=worker_environment(), pipe_output=True) as process:
        yield process


def _events(lines: Iterator[str]) -> Iterator[Mapping[str, Any]]:
    for line in lines:
        if line.startswith("{"):
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue  # a library wrote to standard output; the log has the rest


def _failure(failure: JobFailure) -> TutelageError:
    kind = getattr(errors, failure.error, TrainingError)
    error: TutelageError = kind(failure.message, valid=failure.valid, next_step=failure.next_step)
    return error
