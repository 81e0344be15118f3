"""The parent of every process that Tutelage starts: it ends the whole process group when its owner is gone.

Run as `python flows/watchdog.py RECORD GRACE -- ARGV...` with standard input a pipe that the owner holds open. End of
file on it (closed on purpose, or because the owner was killed) means: SIGTERM to the group, GRACE seconds, SIGKILL.
RECORD is a JSON file that names the group while it lives, so that `tutelage doctor` can find what was left behind.

It imports the standard library alone and must stay quick to start: it stands before every training step.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.1
LEFTOVER_GRACE = 1.0
"""Seconds that what a finished child left running gets between SIGTERM and SIGKILL."""


def _prctl(option: int, value: int) -> None:
    """Call Linux's prctl; other systems do without."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


class Family:
    """The child, its process group, and on Linux every orphan among its descendants (we are their subreaper)."""

    def __init__(self, argv: list[str]) -> None:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.status: int | None = None
        self.child = os.fork()
        if self.child == 0:
            self._become(argv)

    @staticmethod
    def _become(argv: list[str]) -> None:
        try:
            os.setsid()
            # Should even the watchdog be killed, the child still hears of it.
            _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.execvp(argv[0], argv)  # noqa: S606 - a list of arguments, never a shell line
        except OSError as error:
            sys.stderr.write(f"can't start {argv[0]}: {error}\n")
            sys.stderr.flush()
        os._exit(127)

    def reap(self) -> bool:
        """Collect what ended; return whether anything of the family may still run."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.child:
                self.status = os.waitstatus_to_exitcode(status)

    def end(self, grace: float) -> None:
        """SIGTERM the group, give it `grace` seconds, then SIGKILL it and whatever came to us as an orphan."""
        self._signal(signal.SIGTERM)
        # A stopped (paused) process handles SIGTERM only after it is continued.
        self._signal(signal.SIGCONT)
        deadline = time.monotonic() + grace
        while self.reap() and time.monotonic() < deadline:
            time.sleep(0.02)
        while self.reap():
            self._signal(signal.SIGKILL)
            for orphan in _children():
                os.kill(orphan, signal.SIGKILL)
            time.sleep(0.02)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.child, number)
        except ProcessLookupError:
            return  # the whole group has ended


def _children() -> list[int]:
    """Return our children by Linux's own list; elsewhere orphans go to process 1 and there is nothing to do."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def main(arguments: list[str]) -> int:
    """Start ARGV in a session of its own, wait for its end or for the owner's, and leave nothing behind."""
    record, grace = Path(arguments[0]), float(arguments[1])
    argv = arguments[arguments.index("--") + 1 :]
    owner = os.getppid()
    stopping = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    family = Family(argv)
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps({"group": family.child, "owner": owner, "argv": argv, "started": time.time()}))
    partial.replace(record)
    while family.reap() and family.status is None and not stopping:
        readable, _, _ = select.select([0], [], [], POLL_SECONDS)
        stopping = stopping or bool(readable and not os.read(0, 1))
    family.end(grace if stopping else LEFTOVER_GRACE)
    record.unlink(missing_ok=True)
    status = family.status if family.status is not None else -signal.SIGKILL
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
