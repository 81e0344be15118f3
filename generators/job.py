"""One job of the teacher: an event loop in a thread of its own that hands batches to the caller's thread.

So one batch is written to disk while the next answers arrive. What is sent when, and what a failure means, is decided
in `generators.dispatch`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress

from data_catalog.records import Completion, Request, RequestFailure
from generators.chat_api import ChatEndpoint
from generators.concurrency import AdaptiveLimit
from generators.dispatch import Dispatcher
from generators.endpoints import Endpoint
from generators.job_settings import JobSettings

BATCH_SECONDS = 4.0
"""Completions wait no longer than this to be handed over."""
MAX_QUEUED_BATCHES = 4
"""Nothing more is sent while the caller, who stores them, is this many batches behind."""


class Job:
    """One call of `OpenAITeacher.complete`; the public methods are for the caller's thread.

    Args:
        settings: whom to ask, and within which limits.
        requests: distinct ones.
    """

    def __init__(self, settings: JobSettings, requests: Sequence[Request]) -> None:
        self.total = len(requests)
        self.batches: queue.SimpleQueue[list[Completion] | None] = queue.SimpleQueue()
        """What arrived; an empty batch is a sign of life, None is the end."""
        self.notes: deque[str] = deque()
        """What the user should know."""
        self.failures: list[RequestFailure] = []
        self.done = 0
        self.error: BaseException | None = None
        self._settings = settings
        self._arrived: list[Completion] = []
        self._dispatcher = Dispatcher(
            settings,
            requests,
            keep=self._keep,
            fail=self.failures.append,
            note=self.notes.append,
            is_behind=lambda: self.batches.qsize() >= MAX_QUEUED_BATCHES,
        )
        self._stopped = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="teacher", daemon=True)

    @property
    def in_flight(self) -> int:
        """Requests that were sent and have not come back."""
        return self._dispatcher.in_flight

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def drain(self) -> None:
        """Send nothing more, and end when what is in flight has come back."""
        if self._loop is None:
            self.stop()
        else:
            self._tell(self._dispatcher.drain)

    def stop(self) -> None:
        """End at once, requests in flight included; may be called more than once."""
        self._stopped.set()
        if self._main is not None:
            self._tell(self._main.cancel)

    def _tell(self, what: Callable[[], object]) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: it has ended by itself
                self._loop.call_soon_threadsafe(what)

    # The loop's thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._answer_all())
        except asyncio.CancelledError:
            if not self._stopped.is_set():
                raise
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            self.error = error
        finally:
            self.failures += self._dispatcher.suspects()
            self._hand_over()
            self.batches.put(None)

    async def _answer_all(self) -> None:
        self._main, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        if self._stopped.is_set():
            return
        settings = self._settings
        async with AsyncExitStack() as stack:
            endpoints = []
            for url in settings.urls:
                api = ChatEndpoint(
                    url,
                    settings.model,
                    api_key=settings.api_key,
                    connections=settings.spec.concurrency + 1,  # a probe must not wait for the others
                    request_timeout=settings.spec.request_timeout,
                    proxy=settings.proxy,
                )
                await stack.enter_async_context(api)
                limit = settings.limits.setdefault(url, AdaptiveLimit(settings.spec.concurrency))
                limit.begin()
                endpoints.append(
                    Endpoint(
                        url,
                        api,
                        limit,
                        patience=settings.spec.request_timeout,
                        backoff=settings.backoff_seconds,
                    )
                )
            clock = asyncio.create_task(self._hand_over_regularly())
            try:
                await self._dispatcher.run(endpoints)
            finally:
                clock.cancel()
                await asyncio.gather(clock, return_exceptions=True)

    def _keep(self, completion: Completion) -> None:
        self._arrived.append(completion)
        self.done += 1
        if len(self._arrived) >= self._settings.batch_size:
            self._hand_over()

    def _hand_over(self) -> None:
        arrived, self._arrived = self._arrived, []
        self.batches.put(arrived)

    async def _hand_over_regularly(self) -> None:
        while True:
            await asyncio.sleep(BATCH_SECONDS)
            self._hand_over()
