"""Who is sent what, when, and what a failed try means: the heart of the teacher's client, within one event loop.

A try that fails says nothing of whose fault it was; what happens beside it does:

- turned away (429, 503): the endpoint's limit is halved and the request waits; the try doesn't count;
- nobody listens, or several requests crash with no answer between, or nothing is answered for the time of a timeout:
  the endpoint is probed (`generators.endpoints`), and set aside where it is dead; the others go on;
- one request crashes time and again while others are answered: at the end it is sent alone, and quarantined where it
  fails alone too, or brings the endpoint down.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from data_catalog.errors import TeacherError
from data_catalog.records import Completion, FailureKind, Request, RequestFailure
from generators.attempts import SUSPECT_DEATHS, Attempt, AttemptQueue
from generators.budget import ErrorBudget
from generators.chat_api import NoTextCompletions, Refused, Trouble, TryAgain
from generators.endpoints import Endpoint, Flight, Health
from generators.job_settings import JobSettings

MAX_BACKOFF_SECONDS = 30.0
BACKLOG_SECONDS = 0.02
"""Between two looks at a caller who is behind."""
MAX_TURNED_AWAY = 20
"""Times that one request is turned away while others are answered, before it has failed."""


class Dispatcher:
    """Sends requests until each is answered or has failed for good.

    Args:
        settings: whom to ask, and within which limits.
        requests: distinct ones, in the order in which they are sent.
        keep: takes an answer.
        fail: takes a failure.
        note: takes a line for the user.
        is_behind: says whether the answers' taker is behind; nothing is sent then.
    """

    def __init__(
        self,
        settings: JobSettings,
        requests: Sequence[Request],
        *,
        keep: Callable[[Completion], None],
        fail: Callable[[RequestFailure], None],
        note: Callable[[str], None],
        is_behind: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._spec = settings.spec
        before = settings.failed_before
        suspects = {key for key, kind in before.items() if kind is FailureKind.SUSPECT}
        self._queue = AttemptQueue(requests, suspects=suspects, last=before)
        self._total = len(requests) + settings.answered_before
        self._budget = ErrorBudget(self._spec.failure_share, self._spec.failure_window, self._total, before)
        self._keep, self._fail, self._note, self._is_behind = keep, fail, note, is_behind
        self._endpoints: Sequence[Endpoint] = ()
        self._probes: set[asyncio.Task[None]] = set()
        self._answers = 0
        self._failures = 0
        self._last_failure: RequestFailure | None = None
        self._open: dict[str, Attempt] = {}
        """What was sent and has not ended."""
        self._capped: set[str] = set()
        """Endpoints whose Retry-After was too long, as the user was told."""
        self._fatal: BaseException | None = None
        self._draining = False
        self._ending = False
        self._changed = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Requests that were sent and have not come back."""
        return sum(len(endpoint.in_flight) for endpoint in self._endpoints)

    def drain(self) -> None:
        """Send nothing more, and end when what is in flight has come back."""
        self._draining = True
        self._changed.set()

    def suspects(self) -> list[RequestFailure]:
        """Return the requests without an answer that were in flight when an endpoint died."""
        return [
            RequestFailure(request_key=key, kind=FailureKind.SUSPECT, reason=attempt.reason, attempts=attempt.sent)
            for key, attempt in self._open.items()
            if attempt.deaths
        ]

    async def run(self, endpoints: Sequence[Endpoint]) -> None:
        """Do the whole job.

        Raises:
            TeacherUnreachable: no endpoint ever answered.
            TeacherError: every endpoint is dead, everything is refused, or the error budget is spent.
        """
        self._endpoints = endpoints
        try:
            while not self._is_over():
                self._changed.clear()
                before = endpoints[0].clock()
                self._send_what_fits()
                await self._something_happens(before)
        finally:
            self._ending = True
            flights = [flight.task for endpoint in endpoints for flight in endpoint.in_flight.values()]
            for task in (*flights, *self._probes):
                task.cancel()
            await asyncio.gather(*flights, *self._probes, return_exceptions=True)
        if self._fatal is not None:
            raise self._fatal
        nothing = not self._answers and not self._settings.answered_before
        if nothing and self._failures and self._spec.failure_share < 1:
            raise self._too_many_failures(f"{self._failures:,} of {self._total:,} requests")

    def _is_over(self) -> bool:
        if self._fatal is not None:
            return True
        if any(endpoint.in_flight for endpoint in self._endpoints):
            return False
        held = any(endpoint.held for endpoint in self._endpoints)
        return self._draining or (self._queue.is_empty and not held)

    # Sending -------------------------------------------------------------------------------------------------------

    def _send_what_fits(self) -> None:
        if self._draining or self._is_behind():
            return
        while with_room := [endpoint for endpoint in self._endpoints if endpoint.has_room()]:
            endpoint = min(with_room, key=lambda one: len(one.in_flight))
            attempt = self._queue.take(endpoint.url, endpoint.clock())
            if attempt is None:
                self._send_suspects(with_room)
                break
            self._send(endpoint, attempt)
        for endpoint in self._endpoints:
            if endpoint.wants_probe():
                endpoint.is_probed = True
                self._start(self._probe(endpoint), self._probes)

    def _send_suspects(self, with_room: Sequence[Endpoint]) -> None:
        for endpoint in with_room:
            if endpoint.in_flight:
                continue
            suspect = self._queue.take_suspect()
            if suspect is None:
                return
            if endpoint.proven:
                self._send(endpoint, suspect, alone=True)
            else:
                # Whether it dies of the request can only be told of one that was alive.
                self._queue.put_back(suspect, endpoint.clock())
                endpoint.doubt("not asked yet")

    def _send(self, endpoint: Endpoint, attempt: Attempt, *, alone: bool = False) -> None:
        attempt.sent += 1
        if attempt.answers_before is None:
            attempt.answers_before = self._answers
        self._open[attempt.key] = attempt
        task = self._start(self._try(endpoint, attempt, alone=alone))
        endpoint.in_flight[attempt] = Flight(task, endpoint.clock(), alone)

    def _start(
        self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]] | None = None
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        if among is not None:
            among.add(task)
            task.add_done_callback(among.discard)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fatal = self._fatal or error
        self._changed.set()

    async def _something_happens(self, looked_at: float) -> None:
        """Wait until a try comes back, or for the first moment after `looked_at`, when all that was due was done."""
        now = self._endpoints[0].clock()
        moments = [self._queue.next_ready() or 0.0, *(endpoint.wakes_at() for endpoint in self._endpoints)]
        if self._is_behind():
            moments.append(now + BACKLOG_SECONDS)
        to_come = [moment for moment in moments if moment > looked_at]
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(to_come) - now) if to_come else None):
                await self._changed.wait()

    # What came of it -----------------------------------------------------------------------------------------------

    async def _try(self, endpoint: Endpoint, attempt: Attempt, *, alone: bool) -> None:
        try:
            completion = await endpoint.api.ask(attempt.request, attempt.key)
        except NoTextCompletions as refused:
            raise self._settings.no_text_completions(endpoint.api.text_url, str(refused)) from refused
        except Refused as refused:
            if refused.fatal:
                raise self._settings.refusal(endpoint.url, str(refused)) from refused
            self._is_alive(endpoint)
            self._give_up(attempt, FailureKind.REFUSED, str(refused))
        except TryAgain as again:
            self._in_trouble(endpoint, attempt, again, alone=alone)
        except asyncio.CancelledError:
            if self._ending:
                raise
            self._lose(attempt, endpoint)
        else:
            self._open.pop(attempt.key, None)
            self._answers += 1
            endpoint.answered(attempt, completion)
            self._is_alive(endpoint)
            self._budget.ended(attempt.key, failed=False)
            self._keep(completion)
        finally:
            endpoint.in_flight.pop(attempt, None)

    def _in_trouble(self, endpoint: Endpoint, attempt: Attempt, again: TryAgain, *, alone: bool) -> None:
        attempt.reason = str(again)
        if again.retry_after is not None:
            self._obey(endpoint, again.retry_after)
        if again.trouble is Trouble.UNCONNECTED:
            endpoint.doubt(attempt.reason)
            self._queue.put_back(attempt, endpoint.clock())
        elif again.trouble is Trouble.THROTTLED:
            attempt.turned_away += 1
            endpoint.turned_away(attempt)
            if attempt.turned_away >= MAX_TURNED_AWAY:
                self._give_up(attempt, FailureKind.FAILED, attempt.reason)
            else:
                self._put_back(endpoint, attempt, attempt.turned_away, again.retry_after)
        else:
            attempt.tries += 1
            attempt.crashes_only = attempt.crashes_only and again.trouble is Trouble.CRASH
            if again.trouble in (Trouble.CRASH, Trouble.TIMEOUT):
                endpoint.failed(attempt, again.trouble)
            if attempt.tries >= self._spec.max_attempts and attempt.answers_before == self._answers:
                # Nothing else was answered meanwhile, so it may as well be the endpoint.
                endpoint.doubt(attempt.reason)
            if endpoint.health is Health.DOUBTED and (alone or attempt.tries >= self._spec.max_attempts):
                endpoint.held[attempt] = endpoint.in_flight[attempt]
            else:
                self._count(endpoint, attempt, again.retry_after)

    def _count(self, endpoint: Endpoint, attempt: Attempt, retry_after: float | None = None) -> None:
        """Try again, or not: the request had its chance at an endpoint that is alive."""
        if attempt.tries < self._spec.max_attempts:
            self._put_back(endpoint, attempt, attempt.tries, retry_after)
        elif not attempt.crashes_only or attempt.answers_before == self._answers:
            self._give_up(attempt, FailureKind.FAILED, attempt.reason)
        elif attempt.is_suspect:
            why = f"fails alone as well, while others are answered: {attempt.reason}"
            self._give_up(attempt, FailureKind.QUARANTINED, why)
        else:
            attempt.deaths, attempt.tries = SUSPECT_DEATHS, 0
            self._put_back(endpoint, attempt, 1, retry_after)

    def _put_back(self, endpoint: Endpoint, attempt: Attempt, times: int, retry_after: float | None = None) -> None:
        longest = min(self._settings.backoff_seconds * 2 ** (times - 1), MAX_BACKOFF_SECONDS)
        # Half of it at random, so that requests that failed together don't come back together.
        pause = longest * random.uniform(0.5, 1.0) if retry_after is None else 0.0
        if attempt.is_suspect:
            endpoint.pause(pause)
        self._queue.put_back(attempt, endpoint.clock() + pause)

    def _obey(self, endpoint: Endpoint, retry_after: float) -> None:
        """Pause the endpoint for all requests: it asks for a pause, not for another customer."""
        cap = self._spec.retry_after_cap
        if retry_after > cap and endpoint.url not in self._capped:
            self._capped.add(endpoint.url)
            self._note(
                f"{endpoint.url} asks for a pause of {retry_after:,.0f} s (Retry-After); it gets {cap:g} s, "
                "the longest that teacher.retry_after_cap allows"
            )
        endpoint.pause(min(retry_after, cap))

    def _give_up(self, attempt: Attempt, kind: FailureKind, reason: str) -> None:
        self._open.pop(attempt.key, None)
        failure = RequestFailure(request_key=attempt.key, kind=kind, reason=reason, attempts=attempt.sent)
        self._last_failure = failure
        self._failures += 1
        self._fail(failure)
        if kind is FailureKind.QUARANTINED:
            self._note(f"quarantined {attempt.key}: {reason}")
        if spent := self._budget.ended(attempt.key, failed=True):
            self._fatal = self._fatal or self._too_many_failures(spent)

    # Life and death of endpoints -----------------------------------------------------------------------------------

    async def _probe(self, endpoint: Endpoint) -> None:
        result = await endpoint.probe(self._spec.request_timeout)
        endpoint.is_probed = False
        if not result.failure or endpoint.health is Health.UP:  # an answer may have come while we asked
            self._is_alive(endpoint)
        else:
            self._is_dead(endpoint, result.failure)
            endpoint.stays_away(min(result.retry_after, self._spec.retry_after_cap))
            self._demand_life()

    def _is_alive(self, endpoint: Endpoint) -> None:
        if endpoint.health is Health.DEAD:
            self._note(f"{endpoint.url} answers again")
        endpoint.is_there()
        held = list(endpoint.held)
        endpoint.held.clear()
        for attempt in held:
            self._count(endpoint, attempt)

    def _is_dead(self, endpoint: Endpoint, reason: str) -> None:
        if endpoint.health is Health.DEAD:
            return
        was_proven = endpoint.proven
        self._note(f"{endpoint.url} does not answer and is set aside: {reason}")
        endpoint.dies(reason)
        for attempt, flight in endpoint.held.items():
            if flight.alone and was_proven:
                why = f"brought {endpoint.url} down, sent alone: {attempt.reason}"
                self._give_up(attempt, FailureKind.QUARANTINED, why)
            else:
                self._queue.put_back(attempt, endpoint.clock())
        endpoint.held.clear()
        for flight in endpoint.in_flight.values():
            flight.task.cancel()

    def _lose(self, attempt: Attempt, endpoint: Endpoint) -> None:
        """Take back a request that was in flight when its endpoint died."""
        attempt.deaths += 1
        attempt.reason = f"in flight when {endpoint.url} died: {endpoint.reason}"
        self._queue.put_back(attempt, endpoint.clock())

    def _demand_life(self) -> None:
        """Stop when every endpoint is dead and has had its time to come back."""
        endpoints = self._endpoints
        if any(one.health is not Health.DEAD or one.failed_probes < self._spec.max_attempts for one in endpoints):
            return
        reasons = {endpoint.url: endpoint.reason for endpoint in endpoints}
        waited = endpoints[0].clock() - max(endpoint.dead_since for endpoint in endpoints)
        if not any(endpoint.api.reached for endpoint in endpoints):
            self._fatal = self._fatal or self._settings.unreachable(reasons)
        elif not any(endpoint.has_answered for endpoint in endpoints):
            self._fatal = self._fatal or self._settings.never_answers(reasons)
        elif waited > self._spec.request_timeout:
            self._fatal = self._fatal or self._settings.all_dead(reasons)

    def _too_many_failures(self, what: str) -> TeacherError:
        assert self._last_failure is not None, "only a failure spends the budget"
        return self._settings.too_many_failures(what, self._last_failure)
