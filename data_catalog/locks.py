"""File locks that know who holds them.

The operating system releases a file lock when its holder dies, so a kill leaves nothing stale behind. Who holds it
stands in a small file beside the lock, which is read only while the lock is held.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from data_catalog.records import Record

_POLL_SECONDS = 0.01


class Holder(Record):
    """Which process holds a lock, doing what, since when (seconds since the epoch)."""

    pid: int
    command: str
    since: float

    def __str__(self) -> str:
        started = datetime.fromtimestamp(self.since).astimezone().isoformat(sep=" ", timespec="seconds")
        return f"process {self.pid} (`{self.command}`, since {started})"


class LockHeld(Exception):
    """The lock is held by another process; `holder` is None where it could not be read."""

    def __init__(self, path: Path, holder: Holder | None) -> None:
        super().__init__(f"{path} is held by {holder}")
        self.holder = holder


@contextmanager
def hold(path: Path, command: str, *, wait: float) -> Iterator[None]:
    """Hold the lock file `path` for `command`.

    Args:
        path: the lock file; it is created and stays.
        command: what the others are told.
        wait: seconds to wait for the lock.

    Raises:
        LockHeld: another process (or thread) kept the lock all that time.
    """
    # Not thread-local: Prefect may leave a task on another thread than it entered on.
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=wait, poll_interval=_POLL_SECONDS)
    except Timeout as error:
        raise LockHeld(path, _read_holder(path)) from error
    try:
        _write_holder(path, Holder(pid=os.getpid(), command=command, since=time.time()))
        yield
    finally:
        _holder_file(path).unlink(missing_ok=True)
        lock.release()


def _holder_file(path: Path) -> Path:
    return path.with_name(path.name + ".holder")


def _write_holder(path: Path, holder: Holder) -> None:
    target = _holder_file(path)
    draft = target.with_name(f"{target.name}.{holder.pid}")
    draft.write_text(holder.model_dump_json(), encoding="utf-8")
    draft.replace(target)


def _read_holder(path: Path) -> Holder | None:
    try:
        return Holder.model_validate(json.loads(_holder_file(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError):
        # The holder has just come or gone; the lock itself is what counts.
        return None
