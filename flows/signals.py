"""SIGTERM ends a run like Ctrl-C does: what is in flight is stored, children are ended, and the way on is said."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from data_catalog.errors import Interrupted


@contextmanager
def interruptible(command: str) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Interrupted` inside the block; the second signal is not waited for."""

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Interrupted(f"stopped by {signal.Signals(number).name}; what was done is kept", next_step=command)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
