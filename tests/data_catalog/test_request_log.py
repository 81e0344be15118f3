"""What was asked, what failed and why: kept with the answers, and gone from the failures once there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.records import FailureKind, Request, RequestFailure
from tests.data_catalog.small_world import completion, request


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def catalogue(tmp_path: Path, clock: Clock) -> Catalogue:
    return Catalogue(tmp_path / "home", clock=clock)


def failure(of: Request, kind: FailureKind = FailureKind.FAILED, reason: str = "HTTP 500: oops") -> RequestFailure:
    return RequestFailure(request_key=of.key, kind=kind, reason=reason, attempts=4)


def test_a_failure_is_kept_until_the_request_is_answered(catalogue: Catalogue) -> None:
    asked = request("why?")
    catalogue.add_request_failures([asked], [failure(asked)])
    catalogue.add_request_failures([asked], [failure(asked, FailureKind.QUARANTINED, "again")])
    assert catalogue.request_failures([asked.key, "req-other"]) == [failure(asked, FailureKind.QUARANTINED, "again")]
    assert catalogue.requests([asked.key]) == [asked]
    catalogue.add_completions([asked], [completion(asked)])
    assert catalogue.request_failures([asked.key]) == []
    assert catalogue.answered_keys() == [asked.key]


def test_only_quarantined_requests_are_released(catalogue: Catalogue) -> None:
    one, other = request("one"), request("other")
    catalogue.add_request_failures([one, other], [failure(one, FailureKind.QUARANTINED), failure(other)])
    assert catalogue.release_requests() == 1
    assert catalogue.request_failures([one.key, other.key]) == [failure(other)]
    assert catalogue.release_requests() == 0


def test_the_log_counts_per_recipe_and_template(catalogue: Catalogue, clock: Clock) -> None:
    answered, cut_off, refused, other = request("1"), request("2"), request("3"), request("4", purpose="judge@1")
    catalogue.add_completions([answered, cut_off], [completion(answered), completion(cut_off, "…", "length")])
    clock.now += 60
    catalogue.add_request_failures([refused], [failure(refused, FailureKind.QUARANTINED)])
    catalogue.add_completions([other], [completion(other)])
    judge, questions = sorted(catalogue.request_log().counts, key=lambda entry: entry.purpose, reverse=True)
    assert (judge.purpose, judge.asked, judge.answered, judge.failed) == ("judge@1", 1, 1, 0)
    assert (questions.asked, questions.answered, questions.truncated) == (3, 2, 1)
    assert (questions.failed, questions.quarantined) == (0, 1)
    assert (questions.prompt_tokens, questions.completion_tokens, questions.seconds) == (14, 6, 0.5)
    assert (questions.first_asked_at, questions.last_heard_at) == (1000.0, 1060.0)


def test_failures_are_told_by_reason_without_the_numbers_that_differ(catalogue: Catalogue, clock: Clock) -> None:
    asked = [request(str(number)) for number in range(4)]
    reasons = ["HTTP 400: 5012 tokens", "HTTP 400: 6,100 tokens", "HTTP 400: 70 tokens", "HTTP 500: 8 tokens"]
    failures = [failure(one, FailureKind.REFUSED, reason) for one, reason in zip(asked, reasons, strict=True)]
    catalogue.add_request_failures(asked, failures)
    first, second = catalogue.request_log().failures
    assert (first.reason, first.count, first.attempts) == ("HTTP 400: … tokens", 3, 12)
    assert (second.reason, second.count) == ("HTTP 500: … tokens", 1)
    assert first.example in {one.key for one in asked}
    assert first.last_failed_at == clock.now
