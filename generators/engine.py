"""Asking once: what was answered is read, what was not is asked, and every batch is kept before it is counted."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

from data_catalog.completer import Completer
from data_catalog.errors import Interrupted
from data_catalog.records import Completion, FailureKind, Request, RequestFailure
from generators.attempts import in_prefix_order


class AnswerStore(Protocol):
    """Where completions are kept; the catalogue is one."""

    def answered(self, keys: Sequence[str]) -> Mapping[str, Completion]:
        """Return the completions of those keys that have been answered."""
        ...

    def add_completions(self, requests: Sequence[Request], completions: Sequence[Completion]) -> object:
        """Keep answered requests with their completions; durable on return. Giving the same again changes nothing."""
        ...

    def request_failures(self, keys: Sequence[str]) -> Sequence[RequestFailure]:
        """Return how those keys failed that have no answer yet."""
        ...

    def add_request_failures(self, requests: Sequence[Request], failures: Sequence[RequestFailure]) -> object:
        """Keep what has no answer, and why; a request that failed before has the newer reason."""
        ...


@runtime_checkable
class KnowsTheJob(Protocol):
    """A completer that is told what became of the same job's requests before, and tells which ones failed now."""

    answered_before: int
    failed_before: Mapping[str, FailureKind]
    failures: list[RequestFailure]


@dataclass(frozen=True)
class AnswerReport:
    """What became of a set of requests; equal requests count once.

    The distinct ones are `len(completions) + failed + quarantined`.
    """

    completions: Mapping[str, Completion]
    """By request key."""
    asked: int
    """Requests that were sent now."""
    cached: int
    """Requests that had been answered before."""
    failed: int
    """Requests without an answer, quarantined ones left out."""
    quarantined: int
    """Requests that will not be asked until they are released, whether they became so now or in an earlier run."""


@dataclass(frozen=True)
class OpenRequests:
    """What is left to ask of a set of requests."""

    answered: Mapping[str, Completion]
    """What was answered before, by request key."""
    failed: Mapping[str, FailureKind]
    """How requests failed in an earlier run, by key."""
    to_ask: tuple[Request, ...]
    """Distinct, in the order in which they are sent: those with a common beginning follow one another, so that a
    server's prefix cache serves them. What is quarantined is not among them."""


def open_requests(requests: Iterable[Request], store: AnswerStore) -> OpenRequests:
    """Return what is left to ask of `requests`."""
    by_key: dict[str, Request] = {}
    for request in requests:
        by_key.setdefault(request.key, request)
    answered = store.answered(list(by_key))
    unanswered = [key for key in by_key if key not in answered]
    failed = {failure.request_key: failure.kind for failure in store.request_failures(unanswered)}
    to_ask = [by_key[key] for key in unanswered if failed.get(key) is not FailureKind.QUARANTINED]
    return OpenRequests(answered, failed, tuple(in_prefix_order(to_ask)))


def answer_all(
    requests: Sequence[Request],
    completer: Completer,
    store: AnswerStore,
    *,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> AnswerReport:
    """Return the completions of all requests, asking only for what `store` does not have.

    Whatever stops it (a signal, an error of the completer), the batches before are kept, and the next call goes on
    there. After a signal, what the completer still hands over is kept too.

    Args:
        requests: in any order; equal keys are asked once.
        completer: who is asked.
        store: what is kept.
        batch_size: completions in one write at most.
        on_progress: called with (answered, all) after every write.
    """
    found = open_requests(requests, store)
    by_key = {request.key: request for request in found.to_ask}
    known = dict(found.answered)
    cached = len(known)
    quarantined = sum(kind is FailureKind.QUARANTINED for kind in found.failed.values())
    total = cached + len(by_key)
    if on_progress is not None:
        on_progress(cached, total)

    def keep(arrived: Sequence[Completion]) -> None:
        for batch in _batches(arrived, batch_size):
            store.add_completions([by_key[completion.request_key] for completion in batch], batch)
            known.update((completion.request_key, completion) for completion in batch)
            if on_progress is not None:
                on_progress(len(known), total)

    failures: Sequence[RequestFailure] = ()
    if by_key:
        failures = _ask(found, completer, keep, by_key, store)
    now_quarantined = sum(failure.kind is FailureKind.QUARANTINED for failure in failures)
    return AnswerReport(
        known,
        asked=len(by_key),
        cached=cached,
        failed=total - len(known) - now_quarantined,
        quarantined=quarantined + now_quarantined,
    )


def _ask(
    found: OpenRequests,
    completer: Completer,
    keep: Callable[[Sequence[Completion]], None],
    by_key: Mapping[str, Request],
    store: AnswerStore,
) -> Sequence[RequestFailure]:
    """Ask, keep every batch, and keep what failed, however it ends; return the failures."""
    if not isinstance(completer, KnowsTheJob):
        _keep_all(completer.complete(found.to_ask), keep)
        return ()
    completer.answered_before = len(found.answered)
    completer.failed_before = found.failed
    earlier = len(completer.failures)
    try:
        _keep_all(completer.complete(found.to_ask), keep)
    finally:
        failures = completer.failures[earlier:]
        store.add_request_failures([by_key[failure.request_key] for failure in failures], failures)
    return failures


def _keep_all(batches: Iterator[Sequence[Completion]], keep: Callable[[Sequence[Completion]], None]) -> None:
    for arrived in batches:
        try:
            keep(arrived)
        except (KeyboardInterrupt, Interrupted) as stop:
            # The signal came while we were writing: the completer, which knows what is in flight, has to hear of it.
            keep(arrived)
            if isinstance(batches, Generator):
                keep(batches.throw(stop))
                for rest in batches:
                    keep(rest)
            raise


def _batches(completions: Sequence[Completion], size: int) -> Iterable[Sequence[Completion]]:
    rest = iter(completions)
    while batch := list(islice(rest, size)):
        yield batch
