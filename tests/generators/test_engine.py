from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest

from data_catalog.errors import Interrupted
from data_catalog.records import Completion, FailureKind, Message, Request, RequestFailure, Sampling
from generators.engine import answer_all


def request(text: str, index: int = 0) -> Request:
    return Request(model="m", messages=(Message(role="user", content=text),), sampling=Sampling(), sample_index=index)


class Store:
    """Keeps completions; tells in which order things happened."""

    def __init__(self, log: list[str]) -> None:
        self.kept: dict[str, Completion] = {}
        self.writes: list[int] = []
        self.log = log
        self.failed: dict[str, RequestFailure] = {}

    def answered(self, keys: Sequence[str]) -> Mapping[str, Completion]:
        return {key: self.kept[key] for key in keys if key in self.kept}

    def add_completions(self, requests: Sequence[Request], completions: Sequence[Completion]) -> None:
        assert [asked.key for asked in requests] == [completion.request_key for completion in completions]
        self.kept.update((completion.request_key, completion) for completion in completions)
        self.writes.append(len(completions))
        self.log.append("kept")

    def request_failures(self, keys: Sequence[str]) -> Sequence[RequestFailure]:
        return [self.failed[key] for key in keys if key in self.failed]

    def add_request_failures(self, requests: Sequence[Request], failures: Sequence[RequestFailure]) -> None:
        assert [asked.key for asked in requests] == [failure.request_key for failure in failures]
        self.failed.update((failure.request_key, failure) for failure in failures)


class Echo:
    """Answers with the prompt; breaks before request number `breaks_at`, never answers those of `silent_on`."""

    fingerprint = "m"

    def __init__(self, *, batch: int = 3, breaks_at: int | None = None, silent_on: str = "") -> None:
        self.batch, self.breaks_at, self.silent_on = batch, breaks_at, silent_on
        self.seen: list[str] = []
        self.answered_before = -1
        self.failed_before: Mapping[str, FailureKind] = {}
        self.failures: list[RequestFailure] = []

    def complete(self, requests: Sequence[Request]) -> Iterator[Sequence[Completion]]:
        batch = []
        for number, asked in enumerate(requests):
            if number == self.breaks_at:
                raise KeyboardInterrupt
            text = asked.messages[-1].content
            self.seen.append(text)
            if text != self.silent_on:
                batch.append(Completion(request_key=asked.key, text=text, finish_reason="stop"))
            if len(batch) == self.batch:
                yield batch
                batch = []
        if batch:
            yield batch


def test_equal_requests_are_asked_once_and_common_beginnings_stand_together() -> None:
    store, echo = Store([]), Echo()
    requests = [request("b 2"), request("a 1"), request("b 1"), request("a 1"), request("a 1", index=1)]
    report = answer_all(requests, echo, store, batch_size=100)
    assert echo.seen == ["a 1", "a 1", "b 1", "b 2"]
    assert (report.asked, report.cached, report.failed) == (4, 0, 0)
    assert {key: completion.text for key, completion in report.completions.items()} == {
        asked.key: asked.messages[0].content for asked in requests
    }


def test_after_an_interrupt_only_the_rest_is_asked() -> None:
    store = Store([])
    requests = [request(f"{number:02}") for number in range(10)]
    with pytest.raises(KeyboardInterrupt):
        answer_all(requests, Echo(breaks_at=7), store, batch_size=100)
    assert len(store.kept) == 6
    again = Echo()
    report = answer_all(requests, again, store, batch_size=100)
    assert again.seen == ["06", "07", "08", "09"]
    assert again.answered_before == 6
    assert (report.asked, report.cached) == (4, 6)
    assert len(report.completions) == 10
    idle = Echo()
    assert answer_all(requests, idle, store, batch_size=100).asked == 0
    assert idle.seen == []


def test_a_batch_is_kept_before_it_is_counted_and_is_never_too_large() -> None:
    log: list[str] = []
    store = Store(log)
    answer_all(
        [request(str(number)) for number in range(7)],
        Echo(batch=5),
        store,
        batch_size=2,
        on_progress=lambda done, total: log.append(f"{done}/{total}"),
    )
    assert store.writes == [2, 2, 1, 2]
    assert log == ["0/7", "kept", "2/7", "kept", "4/7", "kept", "5/7", "kept", "7/7"]


def test_requests_without_an_answer_are_counted_and_asked_again_next_time() -> None:
    store = Store([])
    requests = [request("good"), request("silent")]
    report = answer_all(requests, Echo(silent_on="silent"), store, batch_size=10)
    assert (report.asked, report.failed) == (2, 1)
    again = Echo()
    assert answer_all(requests, again, store, batch_size=10).failed == 0
    assert again.seen == ["silent"]


class BreaksOff(Store):
    """Is interrupted in the middle of its first write, as a signal handler would do it."""

    def add_completions(self, requests: Sequence[Request], completions: Sequence[Completion]) -> None:
        if not self.log:
            self.log.append("broken off")
            raise Interrupted("stopped by SIGTERM")
        super().add_completions(requests, completions)


class InFlight(Echo):
    """Hands over what was in flight when it hears of an interrupt, and nothing else."""

    def complete(self, requests: Sequence[Request]) -> Iterator[Sequence[Completion]]:
        answers = [Completion(request_key=asked.key, text="late", finish_reason="stop") for asked in requests]
        try:
            yield answers[:2]
            yield answers[2:]
        except Interrupted:
            yield answers[2:4]
            raise


def test_a_signal_in_the_middle_of_a_write_loses_neither_that_batch_nor_what_is_in_flight() -> None:
    store = BreaksOff([])
    with pytest.raises(Interrupted):
        answer_all([request(str(number)) for number in range(9)], InFlight(), store, batch_size=100)
    assert len(store.kept) == 4
    assert store.log == ["broken off", "kept", "kept"]


def test_how_requests_failed_is_kept_and_told_to_the_next_run() -> None:
    store, requests = Store([]), [request(str(number)) for number in range(4)]

    class Fails(Echo):
        def complete(self, requests: Sequence[Request]) -> Iterator[Sequence[Completion]]:
            kinds = (FailureKind.FAILED, FailureKind.QUARANTINED)
            self.failures += [
                RequestFailure(request_key=asked.key, kind=kind, reason="no", attempts=1)
                for asked, kind in zip(requests, kinds, strict=False)
            ]
            yield from super().complete(requests[2:])

    report = answer_all(requests, Fails(), store, batch_size=10)
    assert (report.asked, report.failed, report.quarantined, len(report.completions)) == (4, 1, 1, 2)
    again = Echo()
    report = answer_all(requests, again, store, batch_size=10)
    assert set(again.failed_before.values()) == {FailureKind.FAILED, FailureKind.QUARANTINED}
    assert again.seen == ["0"], "what is quarantined is not asked"
    assert (report.asked, report.cached, report.failed, report.quarantined) == (1, 2, 0, 1)
