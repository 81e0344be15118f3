"""A training, completing, measuring or inspecting process: `python -m training.worker JOB.json RESULT.json`.

Reads a job (training/specs.py), does it, and writes the result file last: its existence means that the job's output is
complete. A known error writes a JobFailure instead and ends with that error's exit code. Progress lines (JSON) go to
stdout, everything else to stderr. Ends with its parent; SIGTERM saves a checkpoint and ends resumable (exit code 130).
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import time
import traceback
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from data_catalog.errors import ConfigError, MachineError, TutelageError
from training.environment import apply_late
from training.process import Progress, StopRequest, end_with_parent, write_json
from training.quiet import silence
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

_UNEXPECTED = 1


def main(arguments: list[str]) -> int:
    """Run one job; return the exit code."""
    parent = os.getppid()
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m training.worker JOB.json RESULT.json\n")
        return ConfigError.exit_code
    progress = Progress.take_stdout()
    stop = StopRequest()
    stop.install()
    end_with_parent(parent)
    apply_late()
    return run_job(Path(arguments[0]), Path(arguments[1]), progress, stop)


def run_job(job_file: Path, result_file: Path, progress: Progress, stop: StopRequest) -> int:
    """Do the job in `job_file`, write `result_file`, and return the exit code."""
    try:
        result_file.unlink(missing_ok=True)  # a result of an earlier try must not be taken for this one's
        job = read_job(job_file)
        result = _do(job, progress, stop)
    except (TutelageError, MemoryError, OSError, RuntimeError) as raised:
        error = _known(raised)
        if error is None:
            return _unexpected(raised, result_file)
        failure = JobFailure(
            error=type(error).__name__, message=error.message, valid=error.valid, next_step=error.next_step
        )
        sys.stderr.write(f"{error}\n")
        write_json(result_file, failure)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        return _unexpected(error, result_file)
    write_json(result_file, result)
    return 0


def _do(
    job: TrainJob | CompleteJob | MeasureJob | InspectJob, progress: Progress, stop: StopRequest
) -> TrainResult | CompleteResult | MeasureResult | InspectResult:
    if isinstance(job, TrainJob):
        return _train(job, progress, stop)
    if isinstance(job, InspectJob):
        return _inspect(job, progress)
    return _complete(job, progress) if isinstance(job, CompleteJob) else _measure(job, progress)


def _known(error: Exception) -> TutelageError | None:
    """Return our own error, or the one that says what the machine lacked; None for anything else."""
    if isinstance(error, TutelageError):
        return error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return MachineError(
            f"out of memory: {error}",
            next_step="lower batch_size (and raise gradient_accumulation), lower max_length, or use method qlora",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError(f"the disk is full: {error}", next_step="make room and run the same command again")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return MachineError(
            f"a file may not be written or read: {error}", next_step="change its owner or mode, and run it again"
        )
    return None


def _unexpected(error: Exception, result_file: Path) -> int:
    """Tell an error that is not ours with its type; it stands in the log in full."""
    traceback.print_exception(error)
    write_json(
        result_file,
        JobFailure(
            error=type(error).__name__,
            message=f"unexpected {type(error).__name__}: {error}",
            next_step="see the log of the step; report this if the cause is not the machine",
        ),
    )
    return _UNEXPECTED


def read_job(path: Path) -> TrainJob | CompleteJob | MeasureJob | InspectJob:
    """Read a job file; raise ConfigError where it is missing or not a job."""
    try:
        job: TrainJob | CompleteJob | MeasureJob | InspectJob = TypeAdapter(Job).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{path} is not a job: {error}", valid="a TrainJob, CompleteJob, MeasureJob or InspectJob"
        ) from error
    return job


def import_libraries(*, for_training: bool) -> float:
    """Import what a job needs, quietly; return the seconds it took."""
    began = time.monotonic()
    silence()
    importlib.import_module("training.train" if for_training else "training.completing")
    return time.monotonic() - began


def _train(job: TrainJob, progress: Progress, stop: StopRequest) -> TrainResult:
    seconds = import_libraries(for_training=True)
    progress.write("imported", seconds=round(seconds, 3))
    from training.train import train

    return train(job, progress=progress, stop=stop, import_seconds=seconds)


def _complete(job: CompleteJob, progress: Progress) -> CompleteResult:
    seconds = import_libraries(for_training=False)
    progress.write("imported", seconds=round(seconds, 3))
    from training.completing import complete

    return complete(job, progress=progress, import_seconds=seconds)


def _measure(job: MeasureJob, progress: Progress) -> MeasureResult:
    seconds = import_libraries(for_training=False)
    progress.write("imported", seconds=round(seconds, 3))
    from training.measuring import measure

    return measure(job, progress=progress)


def _inspect(job: InspectJob, progress: Progress) -> InspectResult:
    seconds = import_libraries(for_training=True)
    progress.write("imported", seconds=round(seconds, 3))
    from training.inspecting import inspect

    return inspect(job, progress=progress)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
