"""How many requests an endpoint is sent at once: found out while it works, as TCP finds the width of a line.

Additive increase, multiplicative decrease (Chiu and Jain 1989, "Analysis of the increase and decrease algorithms for
congestion avoidance in computer networks"), with TCP's slow start below a threshold. A decrease follows when the
endpoint asks to slow down (429, 503), lets a request time out, or takes longer than the requests in flight explain.

That last one is told by Little's law (requests in flight = rate x seconds): more requests in flight may make each one
slower in proportion and cost nothing. Latency grows too far when the rate of tokens falls to a part of what it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

START = 16
"""Requests in flight at the beginning."""
DECREASE = 0.5
LATENCY_GROWTH = 3.0
"""Seconds per token may grow by this factor beyond what the requests in flight explain."""
MAX_CUTS_FOR_PACE = 2
"""Cuts in a row for latency; where they don't help, other prompts or another load are the normal case now."""
MIN_WINDOW = 16
"""Answers that are taken together, at least, before their latency is judged."""


@dataclass(frozen=True)
class _Pace:
    """What a window of answers was like: seconds per token, at so many requests in flight on average."""

    seconds_per_token: float
    in_flight: float

    @property
    def rate(self) -> float:
        """Tokens per second, by Little's law."""
        return self.in_flight / self.seconds_per_token

    def is_beyond(self, best: _Pace) -> bool:
        """Say whether this is too slow beside the best: `best`'s latency, in proportion to what is in flight now."""
        explained = best.seconds_per_token * max(1.0, self.in_flight / best.in_flight)
        return self.seconds_per_token > LATENCY_GROWTH * explained


class AdaptiveLimit:
    """The limit on requests in flight at one endpoint, between 1 and `cap`.

    Args:
        cap: what it never exceeds.
        clock: seconds that only grow.
    """

    def __init__(self, cap: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.cap = cap
        self._clock = clock
        self._limit = float(min(START, cap))
        self._threshold = float(cap)
        """Below it the limit doubles with every round of answers; from there on it grows by 1."""
        self._cut_at = clock()
        self._begin_round()
        self._peak = 0
        """Requests that were in flight at once, at most, since the endpoint was away."""
        self._best: _Pace | None = None
        self._cuts_for_pace = 0
        self._seconds = 0.0
        self._tokens = 0
        self._in_flight: list[int] = []
        self._window = MIN_WINDOW

    @property
    def value(self) -> int:
        """Requests in flight at most, now."""
        return int(self._limit)

    def begin(self) -> None:
        """Begin another job: what the endpoint bears stays, how quick it was does not, for its prompts are others."""
        self._best, self._cuts_for_pace = None, 0
        self._forget_window()

    def answered(self, *, sent_at: float, tokens: int, in_flight: int) -> None:
        """Take note of an answer.

        Args:
            sent_at: when its request was sent, by the clock.
            tokens: of the answer; 0 where the endpoint doesn't say.
            in_flight: requests at the endpoint when the answer came, this one included.
        """
        self._grow(sent_at, in_flight)
        if sent_at < self._cut_at:
            return  # its latency is that of the time before
        self._seconds += self._clock() - sent_at
        self._tokens += max(tokens, 1)
        self._in_flight.append(in_flight)
        if len(self._in_flight) >= self._window:
            self._judge_pace()

    def _grow(self, sent_at: float, in_flight: int) -> None:
        """Raise the limit, where it was reached: one that is not reached has not been tried."""
        self._peak = max(self._peak, in_flight)
        if self._limit >= self._threshold:
            self._limit = min(self._limit + (1.0 / self._limit if in_flight >= self.value else 0.0), self.cap)
        # While it doubles, it may run ahead of what was in flight, as in Linux' `tcp_is_cwnd_limited`: answers come in
        # bursts, of which only the first finds all others in flight. What was sent before it doubled last says
        # nothing of how the endpoint bears that.
        elif sent_at >= self._round_at and 2 * self._peak > self.value:
            self._limit = min(self._limit + 1.0, self.cap)
            if self._limit >= 2 * self._round_limit:
                self._begin_round()

    def _begin_round(self) -> None:
        self._round_at, self._round_limit = self._clock(), self._limit

    def congested(self, *, sent_at: float) -> None:
        """Halve the limit: a request was turned away or timed out. One cut answers for all that were in flight."""
        if sent_at >= self._cut_at:
            self._cut(self._limit * DECREASE)

    def collapse(self) -> None:
        """Begin anew with one request: the endpoint was away."""
        self._cut(self._limit * DECREASE)
        self._limit, self._peak = 1.0, 0
        self._begin_round()
        self._best = None

    def _judge_pace(self) -> None:
        pace = _Pace(max(self._seconds, 1e-9) / self._tokens, sum(self._in_flight) / len(self._in_flight))
        self._forget_window()
        if self._best is None or pace.rate > self._best.rate:
            self._best, self._cuts_for_pace = pace, 0
        elif not pace.is_beyond(self._best):
            self._cuts_for_pace = 0
        elif self._cuts_for_pace < MAX_CUTS_FOR_PACE:
            self._cuts_for_pace += 1
            self._cut(self._limit * DECREASE)
        else:
            self._best, self._cuts_for_pace = pace, 0

    def _cut(self, limit: float) -> None:
        self._limit = self._threshold = max(1.0, limit)
        self._cut_at = self._clock()
        self._begin_round()
        self._forget_window()

    def _forget_window(self) -> None:
        self._seconds, self._tokens = 0.0, 0
        self._in_flight = []
        # A round of answers as the limit is now: it may double within the next one.
        self._window = max(MIN_WINDOW, self.value)
