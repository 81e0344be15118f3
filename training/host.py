"""A process that has the libraries imported and forks one process per job: `python -m training.host [DESCRIPTOR]`.

Importing torch, transformers, TRL and PEFT takes 7 to 12 s; a pipeline of several stages pays it once, and while the
teacher still writes. Lines in (stdin, or the open descriptor that is named), JSON:

    {"job": "JOB.json", "result": "RESULT.json", "log": "worker.log"}

Lines out (stdout), JSON: `{"event": "ready", "seconds"}` once, then for each job `{"event": "started", "job", "pid"}`,
the job's own progress lines with its `job` added, and `{"event": "ended", "job", "pid", "exit"}`. A line that can't be
used is answered by `{"event": "refused", "reason"}`. A job is ended with SIGTERM to its pid. The end of the lines ends
the host and whatever it still runs.

The host itself never computes anything and has no second thread: a fork copies only the thread that forks, and a pool
of OpenMP threads that was started before would be missing in the child, which then waits for it for ever. It refuses
to fork if it sees a second thread.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_catalog.errors import MachineError
from training.environment import apply_late
from training.process import Progress, StopRequest, end_with_parent, send_death_signal
from training.worker import import_libraries, run_job

_TERM_SECONDS = 35.0
"""How long children may take to end after SIGTERM; a little more than they give themselves."""


@dataclass(frozen=True)
class _Child:
    pid: int
    job: str


class Host:
    """Reads job lines, forks, and reports. Needs Linux (pidfd) or another system where `os.pidfd_open` exists."""

    def __init__(self, progress: Progress, orders: int = 0) -> None:
        self._progress = progress
        self._orders = orders
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, _Child] = {}
        self._buffer = b""

    def serve(self) -> int:
        """Serve until the orders end; return the exit code."""
        self._selector.register(self._orders, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fd != self._orders:
                    self._reap(key.fd)
                elif not self._read_jobs():
                    self._end_children()
                    return 0

    def _read_jobs(self) -> bool:
        """Start the jobs whose lines have arrived; False at their end."""
        data = os.read(self._orders, 65_536)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            if line.strip():
                self._start(line)
        return bool(data)

    def _start(self, line: bytes) -> None:
        try:
            order = json.loads(line)
            job, result, log = (str(order[name]) for name in ("job", "result", "log"))
        except (ValueError, KeyError, TypeError) as error:
            self._progress.write("refused", line=line.decode("utf-8", "replace")[:200], reason=repr(error))
            return
        try:
            refuse_threads()
        except MachineError as error:
            self._progress.write("refused", job=job, reason=str(error))
            return
        pid = os.fork()
        if pid == 0:
            self._become_worker(Path(job), Path(result), Path(log))
        descriptor = os.pidfd_open(pid)
        self._children[descriptor] = _Child(pid, job)
        self._selector.register(descriptor, selectors.EVENT_READ)
        self._progress.write("started", job=job, pid=pid)

    def _become_worker(self, job: Path, result: Path, log: Path) -> None:
        """In the child: run the job and exit; never returns to the host's loop."""
        code = 1
        try:
            _redirect(log)
            for descriptor in self._children:
                os.close(descriptor)
            self._selector.close()
            os.close(self._orders)
            stop = StopRequest()
            stop.install()
            end_with_parent(os.getppid())
            code = run_job(job, result, self._progress.tagged(job=str(job)), stop)
        except BaseException:  # noqa: BLE001 - nothing may climb up into the host's copy of its loop
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _reap(self, descriptor: int) -> None:
        child = self._children.pop(descriptor)
        self._selector.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(child.pid, 0)
        self._progress.write("ended", job=child.job, pid=child.pid, exit=os.waitstatus_to_exitcode(status))

    def _end_children(self) -> None:
        for child in self._children.values():
            os.kill(child.pid, signal.SIGTERM)
        self._selector.unregister(self._orders)
        deadline = time.monotonic() + _TERM_SECONDS
        while self._children and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                self._reap(key.fd)
        for child in self._children.values():
            os.kill(child.pid, signal.SIGKILL)


def refuse_threads() -> None:
    """Raise MachineError if this process has more than one thread, of Python or not."""
    tasks = Path("/proc/self/task")
    names = [(task / "comm").read_text().strip() for task in tasks.iterdir()] if tasks.is_dir() else []
    if len(names) > 1:
        raise MachineError(
            f"the training host has {len(names)} threads ({', '.join(sorted(names))}); a fork would lose them",
            next_step="start it with training.environment.worker_environment(), or use training.worker",
        )


def _redirect(log: Path) -> None:
    """Send stdout and stderr of a job to its own log, and cut it off from the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)


def main(arguments: Sequence[str]) -> int:
    """Import, say `ready`, and serve."""
    orders = int(arguments[0]) if arguments else 0
    parent = os.getppid()
    progress = Progress.take_stdout()
    apply_late()
    # No watching thread here: a process that forks has one thread. End of stdin says the same.
    send_death_signal(parent)
    seconds = import_libraries(for_training=True) + import_libraries(for_training=False)
    progress.write("ready", seconds=round(seconds, 3), pid=os.getpid())
    return Host(progress, orders).serve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
