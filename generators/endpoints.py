"""One endpoint of a job: what it has in flight, what it may be sent, and whether it still answers.

An endpoint is in doubt when nobody listens, when several different requests crashed one after the other, or when a
request timed out and nothing else was answered since it was sent. Health pages say 200 while the engine behind them is
dead, so doubt is settled by a real answer of one token. An endpoint that does not give it is set aside and asked again
after pauses that grow; what it had in flight goes back to the queue and loses no try.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from data_catalog.records import Completion, Message, Request, Sampling
from generators.attempts import Attempt
from generators.chat_api import ChatEndpoint, Refused, Trouble, TryAgain
from generators.concurrency import AdaptiveLimit

DOUBT_AFTER = 5
"""This many different requests that crashed, with no answer between, put an endpoint in doubt."""
PROBE_SECONDS = 30.0
"""Longest wait for the one token."""
MAX_PAUSE_SECONDS = 60.0
"""Longest pause between two probes."""
PROBE = Request(model="", messages=(Message(role="user", content="?"),), sampling=Sampling(max_tokens=1))
EMBEDDING_PROBE = PROBE.model_copy(update={"sampling": Sampling(max_tokens=0)})
"""What a server of vectors is asked instead."""


class Health(Enum):
    """What is known of an endpoint."""

    UP = "up"
    """Requests are sent."""
    DOUBTED = "doubted"
    """Nothing is sent until a probe has settled it."""
    DEAD = "dead"
    """Set aside; probed again after growing pauses."""


@dataclass
class Flight:
    """A request at an endpoint."""

    task: asyncio.Task[None]
    sent_at: float
    alone: bool


@dataclass(frozen=True)
class ProbeResult:
    """What came of asking for one token: `failure` says what was wrong, and is empty where it was answered."""

    failure: str = ""
    retry_after: float = 0.0


@dataclass
class Endpoint:
    """An endpoint's accounts. All times are those of `clock`, in seconds.

    Args:
        url: as configured.
        api: how it is asked.
        limit: how many requests it may have at once.
        patience: seconds that it may turn everything away (429, 503) before it is in doubt.
        backoff: the first pause between two probes; it doubles.
        question: what it is asked to see whether it still answers.
        clock: seconds that only grow.
    """

    url: str
    api: ChatEndpoint
    limit: AdaptiveLimit
    patience: float
    backoff: float
    question: Request = PROBE
    clock: Callable[[], float] = time.monotonic
    health: Health = Health.UP
    in_flight: dict[Attempt, Flight] = field(default_factory=dict)
    held: dict[Attempt, Flight] = field(default_factory=dict)
    """Requests whose failure is judged when the doubt is settled."""
    proven: bool = False
    """Whether it has answered since it was last away."""
    reason: str = ""
    """Why it is in doubt, or dead."""
    failed_probes: int = 0
    dead_since: float = 0.0
    is_probed: bool = False
    _probe_at: float = 0.0
    _resume_at: float = 0.0
    _answered_at: float = float("-inf")
    _turned_away_since: float | None = None
    _failed: dict[Attempt, None] = field(default_factory=dict)
    """Requests that crashed or timed out here since it answered last."""

    @property
    def has_answered(self) -> bool:
        """Whether it ever answered in this job."""
        return self._answered_at > float("-inf")

    def has_room(self) -> bool:
        """Say whether another request may be sent now."""
        return (
            self.health is Health.UP
            and self._resume_at <= self.clock()
            and len(self.in_flight) < self.limit.value
            and not (len(self.in_flight) == 1 and next(iter(self.in_flight.values())).alone)
        )

    def wants_probe(self) -> bool:
        """Say whether it must be asked for a token now."""
        if self.is_probed or self.health is Health.UP:
            return False
        return self._probe_at <= self.clock()

    def wakes_at(self) -> float:
        """Return the next moment at which one of the two above may change by itself; it may be past."""
        return self._resume_at if self.health is Health.UP else self._probe_at

    def pause(self, seconds: float) -> None:
        """Send nothing for some time: it asked for that."""
        self._resume_at = max(self._resume_at, self.clock() + seconds)

    def answered(self, attempt: Attempt, completion: Completion) -> None:
        """Take note of an answer."""
        flight = self.in_flight[attempt]
        self.limit.answered(sent_at=flight.sent_at, tokens=completion.completion_tokens, in_flight=len(self.in_flight))

    def is_there(self) -> None:
        """Take note that it has spoken for itself."""
        self.health, self.proven = Health.UP, True
        self.failed_probes = 0
        self._answered_at = self.clock()
        self._turned_away_since = None
        self._failed.clear()

    def turned_away(self, attempt: Attempt) -> None:
        """Take note of a 429 or 503."""
        now = self.clock()
        self.limit.congested(sent_at=self.in_flight[attempt].sent_at)
        if self._turned_away_since is None:
            self._turned_away_since = now
        elif now - max(self._turned_away_since, self._resume_at) > self.patience:
            self.doubt(attempt.reason)

    def failed(self, attempt: Attempt, trouble: Trouble) -> None:
        """Take note of a crash or a timeout, which may be the request's fault or the endpoint's."""
        self._failed[attempt] = None
        flight = self.in_flight[attempt]
        stalled = trouble is Trouble.TIMEOUT and self._answered_at < flight.sent_at
        if trouble is Trouble.TIMEOUT:
            self.limit.congested(sent_at=flight.sent_at)
        if flight.alone or stalled or len(self._failed) >= DOUBT_AFTER:
            self.doubt(attempt.reason)

    def doubt(self, reason: str) -> None:
        """Send nothing more until a probe has settled whether it still answers."""
        if self.health is Health.UP:
            self.health, self.reason = Health.DOUBTED, reason
            self._probe_at = self.clock()

    async def probe(self, longest: float) -> ProbeResult:
        """Ask for one token, waiting `longest` seconds at most."""
        seconds = min(longest, PROBE_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                await self.api.ask(self.question, "probe")
        except TimeoutError:
            return ProbeResult(f"not one token within {seconds:g} s")
        except TryAgain as again:
            return ProbeResult(str(again), again.retry_after or 0.0)
        except Refused as refused:
            # Who refuses a question of one character is there, unless it refuses everything.
            return ProbeResult(str(refused)) if refused.fatal else ProbeResult()
        return ProbeResult()

    def dies(self, reason: str) -> None:
        """Set it aside. The last failures here were its doing: those requests get that try back."""
        self.health, self.dead_since, self.proven = Health.DEAD, self.clock(), False
        self.reason = reason
        self.limit.collapse()
        for attempt in self._failed:
            attempt.tries = max(0, attempt.tries - 1)
            attempt.deaths += 1
        self._failed.clear()

    def stays_away(self, retry_after: float) -> None:
        """Take note of a failed probe: the next one comes after a longer pause, of `retry_after` seconds at least."""
        self.failed_probes += 1
        pause = min(self.backoff * 2 ** (self.failed_probes - 1), MAX_PAUSE_SECONDS)
        self._probe_at = self.clock() + max(pause, retry_after)
