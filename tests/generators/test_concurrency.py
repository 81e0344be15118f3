"""The adaptive limit against endpoints whose behaviour is a formula; time is simulated."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from generators.concurrency import START, AdaptiveLimit


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def simulate(
    cap: int,
    requests: int,
    seconds_of: Callable[[int], float],
    capacity: Callable[[float], int] = lambda now: 10**6,
) -> tuple[list[int], int]:
    """Send through the limit; return the limit after every answer, and how many were turned away."""
    clock = Clock()
    limit = AdaptiveLimit(cap, clock=clock)
    flying: list[tuple[float, float]] = []
    course: list[int] = []
    turned_away = 0
    while len(course) < requests:
        while len(flying) < limit.value:
            if len(flying) >= capacity(clock.now):
                turned_away += 1
                limit.congested(sent_at=clock.now)
                clock.now += 0.01
            else:
                heapq.heappush(flying, (clock.now + seconds_of(len(flying) + 1), clock.now))
        clock.now, sent_at = max(flying[0][0], clock.now), flying[0][1]
        limit.answered(sent_at=sent_at, tokens=10, in_flight=len(flying))
        heapq.heappop(flying)
        course.append(limit.value)
    return course, turned_away


def test_it_starts_low_and_reaches_the_cap_of_an_endpoint_that_takes_everything() -> None:
    course, _ = simulate(cap=64, requests=300, seconds_of=lambda in_flight: 1.0)
    assert course[0] <= START + 1
    assert course[-1] == 64
    assert max(course) == 64


def test_it_doubles_with_every_round_though_answers_come_in_bursts() -> None:
    clock = Clock()
    limit = AdaptiveLimit(64, clock=clock)
    course = []
    for _ in range(6):
        clock.now += 1
        for still_there in range(limit.value, 0, -1):  # a whole round at once, before anything new is sent
            limit.answered(sent_at=clock.now - 1, tokens=10, in_flight=still_there)
        course.append(limit.value)
    assert course[0] >= 1.5 * START
    assert course[3:] == [64, 64, 64]


def test_another_job_keeps_the_limit_and_not_the_pace() -> None:
    clock = Clock()
    limit = AdaptiveLimit(64, clock=clock)
    for seconds in (0.1, 30.0):  # the second job's answers take 300 times as long, and are no congestion
        limit.begin()
        for _ in range(200):
            clock.now += 0.1
            limit.answered(sent_at=clock.now - seconds, tokens=10, in_flight=limit.value)
        assert limit.value == 64


def test_latency_that_grows_in_proportion_to_what_is_in_flight_costs_nothing_and_cuts_nothing() -> None:
    course, _ = simulate(cap=64, requests=2000, seconds_of=lambda in_flight: 0.02 * in_flight)
    assert course[-1] == 64
    assert course == sorted(course)


def test_latency_that_grows_faster_is_cut_back() -> None:
    course, _ = simulate(cap=256, requests=3000, seconds_of=lambda in_flight: 0.1 * max(1.0, in_flight / 20) ** 3)
    late = course[1500:]
    assert max(late) < 80, "three times slower than in proportion, at the utmost, and not for long"
    assert min(late) >= 10


def test_an_endpoint_that_turns_away_what_exceeds_its_capacity_is_used_and_not_swamped() -> None:
    course, turned_away = simulate(200, 2000, lambda in_flight: 1.0, capacity=lambda now: 24)
    late = course[1000:]
    assert 12 <= min(late) <= max(late) <= 25
    assert turned_away < 0.05 * 2000


def test_it_grows_again_when_the_capacity_does() -> None:
    course, _ = simulate(64, 3000, lambda in_flight: 1.0, capacity=lambda now: 8 if now < 200 else 64)
    assert max(course[200:600]) <= 10
    assert course[-1] > 40


def test_one_burst_of_refusals_is_one_cut() -> None:
    clock = Clock()
    limit = AdaptiveLimit(64, clock=clock)
    sent_at = clock.now
    clock.now += 1
    for _ in range(16):
        limit.congested(sent_at=sent_at)
    assert limit.value == START // 2
    clock.now += 1
    limit.congested(sent_at=clock.now)
    assert limit.value == START // 4


def test_after_an_absence_it_begins_with_one_request() -> None:
    clock = Clock()
    limit = AdaptiveLimit(64, clock=clock)
    limit.collapse()
    assert limit.value == 1
    for _ in range(20):
        clock.now += 1
        limit.answered(sent_at=clock.now - 0.5, tokens=1, in_flight=limit.value)
    assert limit.value >= START // 2


@given(
    cap=st.integers(1, 300),
    events=st.lists(st.tuples(st.sampled_from(["answer", "refusal", "absence"]), st.floats(0, 10)), max_size=60),
)
def test_the_limit_stays_between_one_and_the_cap(cap: int, events: list[tuple[str, float]]) -> None:
    clock = Clock()
    limit = AdaptiveLimit(cap, clock=clock)
    for event, seconds in events:
        sent_at = clock.now
        clock.now += seconds
        if event == "answer":
            limit.answered(sent_at=sent_at, tokens=3, in_flight=limit.value)
        elif event == "refusal":
            limit.congested(sent_at=sent_at)
        else:
            limit.collapse()
        assert 1 <= limit.value <= cap
