"""The only place that starts processes: each in a session of its own, with a log, ended with its owner.

A `ManagedProcess` runs behind flows/watchdog.py, which ends the whole process group when the owner closes it, dies, or
is killed. While it lives, a record in `<home>/run/` names it, so that `tutelage doctor` can find orphans.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from data_catalog.errors import MachineError

WATCHDOG = Path(__file__).with_name("watchdog.py")
LOG_TAIL_LINES = 15


@dataclass(frozen=True)
class Orphan:
    """A process group whose owner is gone."""

    group: int
    owner: int
    argv: tuple[str, ...]
    started: float
    record: Path


class ManagedProcess:
    """A child process that can't outlive its owner.

    Args:
        argv: the command line.
        home: the project's home; `<home>/run/` gets the record.
        log: file that standard error (and standard output, unless `pipe_output`) is appended to.
        env: variables added to this process's own.
        pipe_output: give standard output to the owner as `lines()`.
        take_orders: the process reads lines of `send()` from a pipe; its descriptor is put behind `argv`.
        grace: seconds between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        home: Path,
        log: Path,
        env: Mapping[str, str] | None = None,
        pipe_output: bool = False,
        take_orders: bool = False,
        grace: float = 10.0,
    ) -> None:
        self.argv = tuple(argv)
        self.log = log
        self._grace = grace
        self._record = home / "run" / f"{uuid.uuid4().hex}.json"
        self._env = {**os.environ, **(env or {})}
        self._pipe_output = pipe_output
        self._take_orders = take_orders
        self._orders: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process; returns at once."""
        self._record.parent.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        argv, theirs = list(self.argv), []
        if self._take_orders:
            reading, self._orders = os.pipe()
            argv, theirs = [*argv, str(reading)], [reading]
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-E", str(WATCHDOG), str(self._record), str(self._grace), "--", *argv],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE if self._pipe_output else log,
                    stderr=log,
                    env=self._env,
                    start_new_session=True,
                    pass_fds=theirs,
                )
        finally:
            for descriptor in theirs:
                os.close(descriptor)

    @property
    def returncode(self) -> int | None:
        """The exit status, 128 + signal after a signal, None while it runs."""
        return self._running().poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status."""
        return self._running().wait(timeout)

    def lines(self) -> Iterator[str]:
        """Yield standard output line by line until it closes; needs `pipe_output`."""
        stream: IO[bytes] | None = self._running().stdout
        if stream is None:
            raise ValueError("the process was started without pipe_output")
        for line in stream:
            yield line.decode("utf-8", "replace").rstrip("\n")

    def send(self, line: str) -> None:
        """Send a line to a process that takes orders; raise MachineError where it is gone."""
        if self._orders is None:
            raise ValueError("the process was started without take_orders")
        try:
            os.write(self._orders, f"{line}\n".encode())
        except BrokenPipeError as error:
            raise MachineError(f"{self.argv[0]} has ended:\n{self.log_tail()}") from error

    def stop(self) -> None:
        """End the process group, if it still runs, and wait until it is gone."""
        if self._orders is not None:
            os.close(self._orders)
            self._orders = None
        process = self._process
        if process is None:
            return
        if process.stdin is not None and not process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._record.unlink(missing_ok=True)

    def pause(self) -> None:
        """Take the process group off the processors (SIGSTOP) and keep its memory."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self._signal(signal.SIGCONT)

    def log_tail(self) -> str:
        """Return the last lines of the log, for error messages."""
        return tail(self.log)

    def _signal(self, number: signal.Signals) -> None:
        record = _read_record(self._record)
        if record is not None and self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(record.group, number)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise MachineError(f"{self.argv[0]} was not started", next_step="call start() first")
        return self._process


def tail(log: Path) -> str:
    """Return the last lines of a log, for error messages."""
    if not log.exists():
        return "(no log)"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LOG_TAIL_LINES:])


def orphans(home: Path) -> list[Orphan]:
    """Return the process groups that were started for this home and whose owner is gone."""
    found = []
    for path in sorted((home / "run").glob("*.json")):
        record = _read_record(path)
        if record is not None and not _alive(record.owner):
            found.append(record)
    return found


def end_orphan(orphan: Orphan, *, grace: float = 5.0) -> None:
    """End an orphaned process group and remove its record."""
    for number in (signal.SIGCONT, signal.SIGTERM):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(orphan.group, number)
    deadline = time.monotonic() + grace
    while _alive(orphan.group) and time.monotonic() < deadline:
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(orphan.group, signal.SIGKILL)
    orphan.record.unlink(missing_ok=True)


def _read_record(path: Path) -> Orphan | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None  # not written yet, or removed at this moment by its watchdog
    return Orphan(data["group"], data["owner"], tuple(data["argv"]), data["started"], path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
