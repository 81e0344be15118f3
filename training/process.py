"""What a training process owes its caller: progress lines on stdout, an end on SIGTERM, no life after its parent.

Light: no torch. Linux sends a signal when the parent dies (prctl); elsewhere, and where the signal is lost, a thread
looks once a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import BaseModel

from data_catalog.errors import Interrupted
from data_catalog.files import write_durably

_PR_SET_PDEATHSIG = 1
_GRACE_SECONDS = 30.0
"""How long an orphan or a stopped process may take to save a checkpoint."""


class Progress:
    """Writes one JSON object per line to the stdout that the process was started with.

    Everything else that prints to stdout (libraries, warnings) is sent to stderr, the log.
    """

    def __init__(self, descriptor: int, **tags: Any) -> None:
        self._descriptor = descriptor
        self._tags = tags

    @classmethod
    def take_stdout(cls) -> Progress:
        """Keep stdout for progress lines alone; from here on file descriptor 1 is the log."""
        sys.stdout.flush()
        private = os.dup(1)
        os.dup2(2, 1)
        return cls(private)

    def tagged(self, **tags: Any) -> Progress:
        """Return a progress writer that adds `tags` to each line."""
        return Progress(self._descriptor, **self._tags, **tags)

    def write(self, event: str, **values: Any) -> None:
        """Write `{"event": event, ...}`. A reader that went away is no reason to stop training."""
        line = json.dumps({**self._tags, "event": event, **values}, ensure_ascii=False) + "\n"
        # One write call below PIPE_BUF is atomic, so lines of several forked jobs never mix.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._descriptor, line.encode())


class StopRequest:
    """Whether SIGTERM or SIGINT came, or the parent died.

    Inside `deferred()` (the training loop) the signal only sets a flag, which the loop sees at the end of its step;
    elsewhere it raises `Interrupted` at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False

    def install(self) -> None:
        """Take over SIGTERM and SIGINT. Must be called in the main thread."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(Interrupted.exit_code)  # asked twice: the caller does not want to wait
        self.requested = True
        _exit_after(_GRACE_SECONDS)
        if not self._deferred:
            raise interrupted()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the code inside end its step by itself; raise `Interrupted` behind it if a stop was requested."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested:
            raise interrupted()


def interrupted() -> Interrupted:
    """The error that a stopped job ends with."""
    return Interrupted(
        "training was asked to stop; the last checkpoint is kept",
        next_step="run the same command again: it goes on from the checkpoint",
    )


def _exit_after(seconds: float) -> None:
    def end() -> None:
        time.sleep(seconds)
        os._exit(Interrupted.exit_code)

    threading.Thread(target=end, daemon=True, name="grace").start()


def send_death_signal(parent: int, end: Callable[[], None] | None = None) -> None:
    """On Linux, call `end` (by default: end this process) when the process `parent` dies. Starts no thread.

    PR_SET_PDEATHSIG fires when the *thread* that started us ends, so the signal only makes us look whether the parent
    process is still there.
    """

    def look(number: int, frame: FrameType | None) -> None:
        if os.getppid() != parent:
            (end or _exit)()

    if sys.platform == "linux":
        signal.signal(signal.SIGUSR2, look)
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR2, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call
            (end or _exit)()


def end_with_parent(parent: int, *, poll_seconds: float = 1.0) -> None:
    """End this process (as on SIGTERM) soon after the process `parent` is gone: by signal, and by looking."""
    once = threading.Lock()  # never released: the signal and the thread both see the orphan, one of them acts

    def end() -> None:
        if once.acquire(blocking=False):
            _terminate_self()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(poll_seconds)
        end()

    send_death_signal(parent, end)
    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def _exit() -> None:
    os._exit(Interrupted.exit_code)


def _terminate_self() -> None:
    # The main thread may sit in a long call into C, where Python sees no signal: hence the limit.
    _exit_after(_GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def write_json(path: Path, record: BaseModel) -> None:
    """Write a record as a JSON file that is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, record.model_dump_json().encode())
