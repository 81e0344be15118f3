"""What the user sees while a run goes on: counts, rates and times; a live line on a terminal, plain lines elsewhere.

The pipeline speaks to a `Reporter`; the command line, the Prefect flows and the tests each bring their own.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Protocol, TextIO

PLAIN_INTERVAL = 5.0
"""Seconds between two progress lines where there is no terminal."""
LIVE_INTERVAL = 0.1


class Reporter(Protocol):
    """Where the pipeline tells what it is doing."""

    def step_started(self, step: str, detail: str = "") -> None:
        """A step begins."""

    def step_progress(self, step: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` units of the step are finished."""

    def step_done(self, step: str, detail: str = "", *, cached: bool = False) -> None:
        """A step ended well; `cached` when it had been done before and nothing was repeated."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class SilentReporter:
    """Says nothing."""

    def step_started(self, step: str, detail: str = "") -> None:
        """Ignore."""

    def step_progress(self, step: str, done: int, total: int, detail: str = "") -> None:
        """Ignore."""

    def step_done(self, step: str, detail: str = "", *, cached: bool = False) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


@dataclass(frozen=True)
class StepTime:
    """How long a step took, in seconds; `cached` when nothing had to be done."""

    step: str
    seconds: float
    cached: bool
    detail: str


class RecordingReporter:
    """Passes everything on to another reporter and remembers how long each step took."""

    def __init__(self, inner: Reporter) -> None:
        self.times: list[StepTime] = []
        self.notes: list[str] = []
        self._inner = inner
        self._started: dict[str, float] = {}

    def step_started(self, step: str, detail: str = "") -> None:
        """Note when the step began."""
        self._started[step] = time.monotonic()
        self._inner.step_started(step, detail)

    def step_progress(self, step: str, done: int, total: int, detail: str = "") -> None:
        """Pass it on."""
        self._inner.step_progress(step, done, total, detail)

    def step_done(self, step: str, detail: str = "", *, cached: bool = False) -> None:
        """Note how long the step took."""
        seconds = time.monotonic() - self._started.pop(step, time.monotonic())
        self.times.append(StepTime(step, seconds, cached, detail))
        self._inner.step_done(step, detail, cached=cached)

    def note(self, text: str) -> None:
        """Remember it and pass it on."""
        self.notes.append(text)
        self._inner.note(text)


def clock(seconds: float) -> str:
    """Return `7 s`, `1 min 05 s` or `2 h 03 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass
class _Pace:
    """How fast the units of a step go by, and so how long the rest takes."""

    started: float
    first_done: int
    shown: float = 0.0

    def remaining(self, done: int, total: int, now: float) -> float | None:
        fresh = done - self.first_done
        if fresh <= 0 or done >= total:
            return None
        return (now - self.started) / fresh * (total - done)


@dataclass
class TerminalReporter:
    """Writes to a stream: a live line where it is a terminal, a line every few seconds where it is not."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    width: int = 20
    _started: dict[str, float] = field(default_factory=dict)
    _pace: dict[str, _Pace] = field(default_factory=dict)
    _live: bool = False

    def step_started(self, step: str, detail: str = "") -> None:
        """Show that a step begins."""
        self._started[step] = time.monotonic()
        self._pace.pop(step, None)
        if self.stream.isatty():
            self._draw(f"  … {step:<{self.width}} {detail}")
        else:
            self._line(f"  … {step:<{self.width}} {detail}")

    def step_progress(self, step: str, done: int, total: int, detail: str = "") -> None:
        """Show counts and the time that is left, at most every few seconds without a terminal."""
        now = time.monotonic()
        pace = self._pace.setdefault(step, _Pace(now, done))
        finished = done >= total
        interval = LIVE_INTERVAL if self.stream.isatty() else PLAIN_INTERVAL
        if now - pace.shown < interval and not (finished and self.stream.isatty()):
            return
        pace.shown = now
        left = pace.remaining(done, total, now)
        eta = f", {clock(left)} left" if left is not None else ""
        text = f"  … {step:<{self.width}} {done:,} of {total:,}{eta}{'  ' + detail if detail else ''}"
        self._draw(text) if self.stream.isatty() else self._line(text)

    def step_done(self, step: str, detail: str = "", *, cached: bool = False) -> None:
        """Show what a step came to and how long it took."""
        took = time.monotonic() - self._started.pop(step, time.monotonic())
        when = "unchanged" if cached else clock(took)
        self._line(f"  ✓ {step:<{self.width}} {when:<12} {detail}")

    def note(self, text: str) -> None:
        """Show a line between the steps."""
        self._line(f"  · {text}")

    def _draw(self, text: str) -> None:
        self.stream.write(f"\r\x1b[2K{text}")
        self.stream.flush()
        self._live = True

    def _line(self, text: str) -> None:
        if self._live:
            self.stream.write("\r\x1b[2K")
            self._live = False
        self.stream.write(text.rstrip() + "\n")
        self.stream.flush()
