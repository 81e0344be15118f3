"""Asking once: what was answered is read, what was not is asked, and every batch is kept before it is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

from data_catalog.completer import Completer
from data_catalog.records import Completion, Request


class AnswerStore(Protocol):
    """Where completions are kept; the catalogue is one."""

    def answered(self, keys: Sequence[str]) -> Mapping[str, Completion]:
        """Return the completions of those keys that have been answered."""
        ...

    def add_completions(self, requests: Sequence[Request], completions: Sequence[Completion]) -> object:
        """Keep answered requests with their completions; durable on return."""
        ...


@runtime_checkable
class CountsEarlierAnswers(Protocol):
    """A completer whose limit on failures is a share of the whole job, earlier answers included."""

    answered_before: int


@dataclass(frozen=True)
class RequestFailure:
    """A request that got no answer, for good."""

    key: str
    reason: str
    attempts: int


@dataclass(frozen=True)
class AnswerReport:
    """What became of a set of requests; equal requests count once: `asked + cached` is the number of distinct ones."""

    completions: Mapping[str, Completion]
    """By request key."""
    asked: int
    """Requests that were sent now."""
    cached: int
    """Requests that had been answered before."""
    failed: int
    """Requests that were sent and got no answer."""


def answer_all(
    requests: Iterable[Request],
    completer: Completer,
    store: AnswerStore,
    *,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> AnswerReport:
    """Return the completions of all requests, asking only for what `store` does not have.

    Whatever stops it (a signal, an error of the completer), the batches before are kept, and the next call goes on
    there. Requests are sent sorted by their prompts, so that those with a common beginning follow one another and a
    server's prefix cache serves them.

    Args:
        requests: in any order; equal keys are asked once.
        completer: who is asked.
        store: what is kept.
        batch_size: completions in one write at most.
        on_progress: called with (answered, all) after every write.
    """
    by_key: dict[str, Request] = {}
    for request in requests:
        by_key.setdefault(request.key, request)
    known = dict(store.answered(list(by_key)))
    cached = len(known)
    open_requests = [request for key, request in by_key.items() if key not in known]
    open_requests.sort(key=_prompt_text)
    if on_progress is not None:
        on_progress(cached, len(by_key))
    if open_requests:
        if isinstance(completer, CountsEarlierAnswers):
            completer.answered_before = cached
        for arrived in completer.complete(open_requests):
            for batch in _batches(arrived, batch_size):
                store.add_completions([by_key[completion.request_key] for completion in batch], batch)
                known.update((completion.request_key, completion) for completion in batch)
                if on_progress is not None:
                    on_progress(len(known), len(by_key))
    asked = len(open_requests)
    return AnswerReport(known, asked=asked, cached=cached, failed=len(by_key) - len(known))


def _prompt_text(request: Request) -> tuple[tuple[str, str], ...]:
    return tuple((message.role, message.content) for message in request.messages)


def _batches(completions: Sequence[Completion], size: int) -> Iterable[Sequence[Completion]]:
    rest = iter(completions)
    while batch := list(islice(rest, size)):
        yield batch
