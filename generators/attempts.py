"""What is still to be asked, in which order: neighbours stay together, retries go first, suspects go last and alone.

Requests with a common beginning (the same template and chunk) are a group, and a group goes to one endpoint, whose
prefix cache has that beginning. An endpoint that has nothing left takes the next group, and at the end the rest of
another's.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, groupby

from data_catalog.records import Request

SUSPECT_DEATHS = 2
"""A request that was in flight this often when an endpoint died is a suspect."""


@dataclass(eq=False)
class Attempt:
    """One request on its way."""

    request: Request
    key: str
    sent: int = 0
    """Times that it was sent."""
    tries: int = 0
    """Failures of its own."""
    turned_away: int = 0
    """Times that an endpoint asked to slow down."""
    deaths: int = 0
    """Times that an endpoint died while it had this request."""
    crashes_only: bool = True
    """Whether all of `tries` were crashes (5xx, broken connections)."""
    reason: str = ""
    """Why the last try failed."""
    answers_before: int | None = None
    """Answers of the whole job when it was first sent; None before that."""

    @property
    def is_suspect(self) -> bool:
        """Whether it is sent alone: it may be what kills the endpoints."""
        return self.deaths >= SUSPECT_DEATHS


@dataclass
class AttemptQueue:
    """What is waiting. Requests are taken in the order given, group by group.

    Args:
        requests: distinct ones.
        suspects: keys of those that were in flight when an endpoint died in an earlier run.
        last: keys of those that come after all others, since they failed in an earlier run.
    """

    requests: Sequence[Request]
    suspects: Collection[str] = ()
    last: Collection[str] = ()
    _groups: deque[deque[Attempt]] = field(init=False)
    _current: dict[Hashable, deque[Attempt]] = field(init=False, default_factory=dict)
    _again: list[tuple[float, int, Attempt]] = field(init=False, default_factory=list)
    _alone: deque[Attempt] = field(init=False, default_factory=deque)

    def __post_init__(self) -> None:
        self._number = count()
        attempts = [Attempt(request, request.key) for request in self.requests]
        for attempt in attempts:
            if attempt.key in self.suspects:
                attempt.deaths = SUSPECT_DEATHS
                self._alone.append(attempt)
        rest = [attempt for attempt in attempts if not attempt.is_suspect]
        rest.sort(key=lambda attempt: attempt.key in self.last)
        self._groups = deque(
            deque(group) for _, group in groupby(rest, key=lambda attempt: prefix_group(attempt.request))
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not (self._again or self._alone or self._has_fresh)

    @property
    def _has_fresh(self) -> bool:
        return bool(self._groups) or any(self._current.values())

    def next_ready(self) -> float | None:
        """Return when the first retry's pause is over, by the clock of `put_back`; None where no retry waits."""
        return self._again[0][0] if self._again else None

    def take(self, endpoint: Hashable, now: float) -> Attempt | None:
        """Return what `endpoint` is to be sent next; None where nothing is due. Suspects are not among it."""
        while self._again and self._again[0][0] <= now:
            attempt = heapq.heappop(self._again)[2]
            if not attempt.is_suspect:
                return attempt
            self._alone.append(attempt)  # its endpoint was found dead while it waited
        mine = self._current.get(endpoint)
        if not mine:
            mine = self._groups.popleft() if self._groups else max(self._current.values(), key=len, default=None)
            if not mine:
                return None
            self._current[endpoint] = mine
        return mine.popleft()

    def take_suspect(self) -> Attempt | None:
        """Return a request that must be sent alone, once everything else is done."""
        if self._alone and not self._again and not self._has_fresh:
            return self._alone.popleft()
        return None

    def put_back(self, attempt: Attempt, ready_at: float) -> None:
        """Let `attempt` be tried again from `ready_at` on; a suspect waits for the end."""
        if attempt.is_suspect:
            self._alone.append(attempt)
        else:
            heapq.heappush(self._again, (ready_at, next(self._number), attempt))


def prefix_group(request: Request) -> Hashable:
    """Return what requests with a common beginning share: template and chunk, or else the whole prompt."""
    chunk = request.origin.get("chunk_id")
    return (request.template, chunk) if chunk else request.messages


def in_prefix_order(requests: Iterable[Request]) -> list[Request]:
    """Sort requests so that each group stands together, next to those that begin alike, whatever order they came in."""
    groups: dict[Hashable, list[Request]] = {}
    for request in requests:
        groups.setdefault(prefix_group(request), []).append(request)
    in_order = [sorted(group, key=_text_of) for group in groups.values()]
    in_order.sort(key=lambda group: _text_of(group[0]))
    return list(chain.from_iterable(in_order))


def _text_of(request: Request) -> tuple[tuple[tuple[str, str], ...], int]:
    return tuple((message.role, message.content) for message in request.messages), request.sample_index
