"""The teacher: OpenAI-compatible endpoints as one `Completer`, and the one owner of retries.

Per request: at most `max_attempts` tries on 5xx, timeouts, broken connections and broken answers, with jittered
exponential backoff, and as many once more alone for one that crashes while others are answered. A Retry-After is obeyed
up to a cap, by all requests to that endpoint. Any other 4xx is final for its request; 401, 403 and 404 are final for
all. `generators.dispatch` has the rules.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from data_catalog.errors import ConfigError, Interrupted, TeacherError
from data_catalog.records import Completion, FailureKind, Request, RequestFailure
from generators.concurrency import AdaptiveLimit
from generators.job import Job
from generators.job_settings import JobSettings
from generators.specs import TeacherSpec, endpoint_urls

BACKOFF_SECONDS = 0.5
"""Longest first pause before a second try; it doubles with every further one."""
DRAIN_SECONDS = 20.0
"""How long an interrupt waits for the requests in flight; supervisors kill after 30 s or more."""

ProgressHook = Callable[[int, int, int], None]
"""Called with (done, failed, total)."""


class OpenAITeacher:
    """Answers requests from one OpenAI-compatible endpoint, or from several that serve the same model.

    Args:
        spec: limits on concurrency, time, tries and failures.
        base_url: `http://host:port/v1`, or several of them.
        model: the name under which the endpoints serve the model.
        fingerprint: which model that is; what requests carry as `model`.
        api_key: sent as a bearer token; needed where `spec.api_key_env` names a variable.
        batch_size: completions handed over at once, at most.
        on_progress: called in the caller's thread before every batch.
        on_note: called in the caller's thread with a line that the user should see: an endpoint that is set aside or
            is back, a pause that is too long, a request that is quarantined.
        proxy: an HTTP proxy, `http://host:port`; the environment is not looked at.
        backoff_seconds: the longest first pause before a second try.
        drain_seconds: how long an interrupt waits for the requests in flight.
    """

    def __init__(
        self,
        spec: TeacherSpec,
        base_url: str | Sequence[str],
        model: str,
        fingerprint: str,
        *,
        api_key: str = "",
        batch_size: int = 256,
        on_progress: ProgressHook | None = None,
        on_note: Callable[[str], None] | None = None,
        proxy: str | None = None,
        backoff_seconds: float = BACKOFF_SECONDS,
        drain_seconds: float = DRAIN_SECONDS,
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
        self.drain_seconds = drain_seconds
        self.failures: list[RequestFailure] = []
        """Requests without an answer, over all calls of `complete`."""
        self.answered_before = 0
        """Requests of the same job that were answered earlier: the share of failures is one of the whole job."""
        self.failed_before: Mapping[str, FailureKind] = {}
        """How requests failed in an earlier run: those are sent last, and suspects alone."""
        self._limits: dict[str, AdaptiveLimit] = {}
        self._fingerprint = fingerprint
        self._on_progress = on_progress
        self._on_note = on_note

    @property
    def fingerprint(self) -> str:
        """Which model answers."""
        return self._fingerprint

    def complete(self, requests: Sequence[Request]) -> Iterator[Sequence[Completion]]:
        """Yield completions in batches as they arrive; requests that failed for good are in `failures`.

        When interrupted (KeyboardInterrupt, Interrupted), nothing more is sent, what is in flight may come back for
        `drain_seconds`, and all that has arrived is yielded before the interrupt goes on. When TeacherError is raised,
        everything that arrived has been yielded.

        Raises:
            TeacherUnreachable: nothing ever answered at any address.
            TeacherError: the key or the model's name was refused, more than `failure_share` of the requests failed, or
                every endpoint has died.
        """
        if not requests:
            return
        if any(request.of_likelihood for request in requests):
            raise TeacherError(
                "a chat endpoint was asked how likely a text is, which its API can't say",
                valid="requests of likelihood to local weights",
                next_step="choose another scorer for what a served model is asked",
            )
        job = Job(self._settings(), requests)
        job.start()
        try:
            yield from self._batches(job)
        finally:
            job.stop()
            job.join()
            self.failures.extend(job.failures)
            self._tell_notes(job)
        if job.error is not None:
            raise job.error

    def _settings(self) -> JobSettings:
        return JobSettings(
            spec=self.spec,
            urls=endpoint_urls(self.base_url),
            model=self.model,
            api_key=self.api_key,
            proxy=self.proxy,
            batch_size=self.batch_size,
            limits=self._limits,
            backoff_seconds=self.backoff_seconds,
            answered_before=self.answered_before,
            failed_before=self.failed_before,
        )

    def _batches(self, job: Job) -> Iterator[Sequence[Completion]]:
        try:
            while (batch := job.batches.get()) is not None:
                self._tell_notes(job)
                if self._on_progress is not None:
                    self._on_progress(job.done, len(job.failures), job.total)
                if batch:
                    yield batch
        except (KeyboardInterrupt, Interrupted):
            yield from self._rest(job)
            raise

    def _rest(self, job: Job) -> Iterator[Sequence[Completion]]:
        """Yield what arrives until nothing is in flight any more, or the time for that is over."""
        job.drain()
        self._tell(
            f"stopping: waiting {self.drain_seconds:g} s at most for {job.in_flight:,} requests in flight; "
            "a second signal ends at once"
        )
        deadline = time.monotonic() + self.drain_seconds
        while True:
            try:
                batch = job.batches.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                job.stop()
                batch = job.batches.get()
            if batch is None:
                return
            if batch:
                yield batch

    def _tell_notes(self, job: Job) -> None:
        while job.notes:
            self._tell(job.notes.popleft())

    def _tell(self, line: str) -> None:
        if self._on_note is not None:
            self._on_note(line)
