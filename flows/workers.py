"""Training and local inference in a process of their own: a job file in, a result file out, ended with its owner."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from data_catalog import errors
from data_catalog.errors import TrainingError, TutelageError
from data_catalog.identity import digest
from data_catalog.records import Completion, Record, Request
from flows.processes import ManagedProcess
from training.environment import worker_environment
from training.specs import (
    CompleteJob,
    CompleteResult,
    Job,
    JobFailure,
    MeasureJob,
    MeasureResult,
    TrainJob,
    TrainResult,
)

OnEvent = Callable[[Mapping[str, Any]], None]
ResultT = TypeVar("ResultT", bound=Record)


def train(job: TrainJob, *, home: Path, on_event: OnEvent | None = None) -> TrainResult:
    """Run one training stage; an interrupted one goes on from its newest verified checkpoint."""
    name = f"{job.spec.stage}-{job.output.parent.name}"
    return _run(job, TrainResult, home=home, directory=job.work, name=name, on_event=on_event)


def complete(
    model: Path, fingerprint: str, requests: Sequence[Request], *, home: Path, on_event: OnEvent | None = None
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
    _run(job, CompleteResult, home=home, directory=directory, name="complete", on_event=on_event)
    answered = {}
    for line in job.output.read_bytes().splitlines():  # of bytes: a text also breaks at U+2028, which JSON may hold
        completion = Completion.model_validate_json(line)
        answered[completion.request_key] = completion
    shutil.rmtree(directory)
    return [answered[request.key] for request in requests if request.key in answered]


def measure(job: MeasureJob, *, home: Path, on_event: OnEvent | None = None) -> MeasureResult:
    """Measure methods on a model."""
    directory = home / "work" / "measure"
    return _run(job, MeasureResult, home=home, directory=directory, name="measure", on_event=on_event)


def _run(
    job: Job, result_type: type[ResultT], *, home: Path, directory: Path, name: str, on_event: OnEvent | None
) -> ResultT:
    directory.mkdir(parents=True, exist_ok=True)
    job_path, result_path = directory / "job.json", directory / "result.json"
    job_path.write_text(job.model_dump_json(indent=1), encoding="utf-8")
    result_path.unlink(missing_ok=True)
    log = home / "logs" / f"{name}.log"
    with worker_process(job_path, result_path, home=home, log=log) as process:
        for event in _events(process.lines()):
            if on_event is not None:
                on_event(event)
        status = process.wait()
        tail = process.log_tail()
    if not result_path.is_file():
        raise TrainingError(
            f"the {name} process ended with status {status} and left no result:\n{tail}",
            next_step=f"look into {log}, then run the same command: what was done is kept",
        )
    text = result_path.read_text(encoding="utf-8")
    if "error" in json.loads(text):
        raise _failure(JobFailure.model_validate_json(text))
    return result_type.model_validate_json(text)


@contextmanager
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
