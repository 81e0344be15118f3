"""The teacher: an OpenAI-compatible endpoint as a `Completer`, and the one owner of retries.

Per request: at most `max_attempts` tries on 429, 408, 5xx, timeouts, broken connections and broken answers, with
jittered exponential backoff. A Retry-After is obeyed up to a cap, by all requests: the server asks for a pause, not for
another customer. Any other 4xx is final for its request; 401, 403 and 404 are final for all.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from data_catalog.errors import ConfigError, Interrupted, TeacherError, TeacherUnreachable
from data_catalog.records import Completion, Request
from generators.chat_api import ChatEndpoint, Refused, TryAgain
from generators.engine import RequestFailure
from generators.specs import TeacherSpec

BATCH_SECONDS = 2.0
"""Completions wait no longer than this to be handed over."""
BACKOFF_SECONDS = 0.5
"""Longest first pause before a second try; it doubles with every further one."""
MAX_BACKOFF_SECONDS = 30.0
MAX_QUEUED_BATCHES = 4
"""Nothing more is sent while the caller, who stores them, is this many batches behind."""
MIN_STREAK = 20
"""This many failures in a row (or twice the concurrency, if more) say that the teacher is gone."""

ProgressHook = Callable[[int, int, int], None]
"""Called with (done, failed, total)."""


class OpenAITeacher:
    """Answers requests from an OpenAI-compatible endpoint.

    Args:
        spec: limits on concurrency, time, tries and failures.
        base_url: `http://host:port/v1`.
        model: the name under which the endpoint serves the model.
        fingerprint: which model that is; what requests carry as `model`.
        api_key: sent as a bearer token; needed where `spec.api_key_env` names a variable.
        batch_size: completions handed over at once, at most.
        on_progress: called in the caller's thread before every batch.
        proxy: an HTTP proxy, `http://host:port`; the environment is not looked at.
        backoff_seconds: the longest first pause before a second try.
    """

    def __init__(
        self,
        spec: TeacherSpec,
        base_url: str,
        model: str,
        fingerprint: str,
        *,
        api_key: str = "",
        batch_size: int = 256,
        on_progress: ProgressHook | None = None,
        proxy: str | None = None,
        backoff_seconds: float = BACKOFF_SECONDS,
    ) -> None:
        if spec.api_key_env and not api_key:
            raise ConfigError(
                f"teacher.api_key_env names {spec.api_key_env}, but there is no key",
                next_step=f"export {spec.api_key_env}=...",
            )
        self.spec = spec
        self.base_url = base_url
        self.model = model
        self.api_key = api_key
        self.proxy = proxy
        self.batch_size = batch_size
        self.backoff_seconds = backoff_seconds
        self.failures: list[RequestFailure] = []
        """Requests without an answer, over all calls of `complete`."""
        self.answered_before = 0
        """Requests of the same job that were answered earlier: the share of failures is one of the whole job."""
        self._fingerprint = fingerprint
        self._on_progress = on_progress

    @property
    def fingerprint(self) -> str:
        """Which model answers."""
        return self._fingerprint

    def complete(self, requests: Sequence[Request]) -> Iterator[Sequence[Completion]]:
        """Yield completions in batches as they arrive; requests that failed for good are in `failures`.

        When interrupted (KeyboardInterrupt, Interrupted), what has arrived is yielded once more before the interrupt
        goes on. When TeacherError is raised, everything that arrived has been yielded.

        Raises:
            TeacherUnreachable: nothing ever answered at the address.
            TeacherError: the key or the model's name was refused, or more than `failure_share` of the requests failed.
        """
        if not requests:
            return
        job = _Job(self, requests)
        job.start()
        try:
            yield from self._batches(job)
        finally:
            job.stop()
            job.join()
            self.failures.extend(job.failures)
        if job.error is not None:
            raise job.error

    def _batches(self, job: _Job) -> Iterator[Sequence[Completion]]:
        try:
            while (batch := job.batches.get()) is not None:
                if self._on_progress is not None:
                    self._on_progress(job.done, len(job.failures), len(job.requests))
                if batch:
                    yield batch
        except (KeyboardInterrupt, Interrupted):
            job.stop()
            while (batch := job.batches.get()) is not None:
                if batch:
                    yield batch
            raise


class _Job:
    """One call of `complete`: an event loop in a thread of its own that hands batches to the caller's thread.

    So one batch is written to disk while the next answers arrive.
    """

    def __init__(self, teacher: OpenAITeacher, requests: Sequence[Request]) -> None:
        self.teacher = teacher
        self.requests = requests
        self.batches: queue.SimpleQueue[list[Completion] | None] = queue.SimpleQueue()
        """What arrived; an empty batch is a sign of life, None is the end."""
        self.failures: list[RequestFailure] = []
        self.done = 0
        self.error: BaseException | None = None
        self._waiting = deque(requests)
        self._arrived: list[Completion] = []
        self._streak = 0
        self._resume_at = 0.0
        self._stopped = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="teacher", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def stop(self) -> None:
        """End at once, requests in flight included; may be called from any thread and more than once."""
        self._stopped.set()
        if self._loop is not None and self._main is not None:
            try:
                self._loop.call_soon_threadsafe(self._main.cancel)
            except RuntimeError:
                return  # the loop is closed: it has ended by itself

    def _run(self) -> None:
        try:
            asyncio.run(self._answer_all())
        except asyncio.CancelledError:
            if not self._stopped.is_set():
                raise
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            self.error = error
        finally:
            self._hand_over()
            self.batches.put(None)

    async def _answer_all(self) -> None:
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        if self._stopped.is_set():
            return
        spec, teacher = self.teacher.spec, self.teacher
        async with ChatEndpoint(
            teacher.base_url,
            teacher.model,
            api_key=teacher.api_key,
            concurrency=spec.concurrency,
            request_timeout=spec.request_timeout,
            proxy=teacher.proxy,
        ) as endpoint:
            tasks = [
                asyncio.create_task(self._work(endpoint)) for _ in range(min(spec.concurrency, len(self.requests)))
            ]
            clock = asyncio.create_task(self._hand_over_regularly())
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in (*tasks, clock):
                    task.cancel()
                await asyncio.gather(*tasks, clock, return_exceptions=True)
        self._demand_answers()

    async def _work(self, endpoint: ChatEndpoint) -> None:
        while self._waiting:
            while self.batches.qsize() >= MAX_QUEUED_BATCHES:
                await asyncio.sleep(0.02)
            if not self._waiting:
                return
            request = self._waiting.popleft()
            outcome = await self._answer(endpoint, request)
            if isinstance(outcome, Completion):
                self._keep(outcome)
            else:
                self._fail(outcome)

    async def _answer(self, endpoint: ChatEndpoint, request: Request) -> Completion | RequestFailure:
        """Try one request until it is answered, refused, or out of tries."""
        key, attempts = request.key, self.teacher.spec.max_attempts
        reason = ""
        for attempt in range(1, attempts + 1):
            await self._until_resumed()
            try:
                return await endpoint.ask(request, key)
            except Refused as refused:
                if refused.fatal:
                    raise self._refusal(refused) from refused
                return RequestFailure(key, str(refused), attempt)
            except TryAgain as again:
                reason = str(again)
                if attempt < attempts:
                    await self._pause(attempt, again.retry_after)
        if not endpoint.reached:
            raise self._unreachable(reason)
        return RequestFailure(key, reason, attempts)

    async def _until_resumed(self) -> None:
        while (left := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(left)

    async def _pause(self, attempt: int, retry_after: float | None) -> None:
        if retry_after is not None:
            pause = min(retry_after, self.teacher.spec.retry_after_cap)
            self._resume_at = max(self._resume_at, time.monotonic() + pause)
            return
        longest = min(self.teacher.backoff_seconds * 2 ** (attempt - 1), MAX_BACKOFF_SECONDS)
        # Half of it at random, so that requests that failed together don't come back together.
        await asyncio.sleep(longest * random.uniform(0.5, 1.0))

    def _keep(self, completion: Completion) -> None:
        self._arrived.append(completion)
        self.done += 1
        self._streak = 0
        if len(self._arrived) >= self.teacher.batch_size:
            self._hand_over()

    def _fail(self, failure: RequestFailure) -> None:
        self.failures.append(failure)
        self._streak += 1
        spec = self.teacher.spec
        if spec.failure_share >= 1:
            return
        # One failure alone stops nothing: in a job of three it would be a third of it.
        allowed = max(spec.failure_share * (len(self.requests) + self.teacher.answered_before), 1)
        if len(self.failures) > allowed or self._streak >= max(2 * spec.concurrency, MIN_STREAK):
            raise self._too_many_failures()

    def _hand_over(self) -> None:
        arrived, self._arrived = self._arrived, []
        self.batches.put(arrived)

    async def _hand_over_regularly(self) -> None:
        while True:
            await asyncio.sleep(BATCH_SECONDS)
            self._hand_over()

    def _demand_answers(self) -> None:
        nothing = not self.done and not self.teacher.answered_before
        if nothing and self.failures and self.teacher.spec.failure_share < 1:
            raise self._too_many_failures()

    def _too_many_failures(self) -> TeacherError:
        last = self.failures[-1]
        return TeacherError(
            f"{len(self.failures):,} of {len(self.requests):,} requests got no answer from {self.teacher.base_url}; "
            f"the last one after {last.attempts} tries: {last.reason}",
            valid=f"failures up to teacher.failure_share ({self.teacher.spec.failure_share:g}) of all requests",
            next_step="look at the server's log, then run the same command again: what was answered is kept",
        )

    def _refusal(self, refused: Refused) -> TeacherError:
        return TeacherError(
            f"{self.teacher.base_url} refuses every request for model {self.teacher.model!r}: {refused}",
            next_step="check teacher.model (the name that the endpoint serves), teacher.base_url (it ends in /v1) and "
            "the key in teacher.api_key_env",
        )

    def _unreachable(self, reason: str) -> TeacherUnreachable:
        return TeacherUnreachable(
            f"the teacher at {self.teacher.base_url} never answered: {reason}",
            next_step="check teacher.base_url (host, port, /v1), whether the server runs "
            f"(curl {self.teacher.base_url.rstrip('/')}/models), and proxies and firewalls between",
        )
