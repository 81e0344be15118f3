"""Endpoints that slow down, die, hang and come back, and requests that bring them down, over real HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from data_catalog.errors import TeacherError
from data_catalog.records import Completion, FailureKind, Message, Request, Sampling
from generators.concurrency import START
from generators.specs import TeacherSpec
from generators.teacher import OpenAITeacher
from tests.scripted_server import Body, Fault, ScriptedServer, is_probe


def requests(count: int, prefix: str = "q") -> list[Request]:
    return [
        Request(
            model="fp", messages=(Message(role="user", content=f"{prefix} {n:04}"),), sampling=Sampling(max_tokens=9)
        )
        for n in range(count)
    ]


def text_of(body: Body) -> str:
    text: str = body["messages"][-1]["content"]
    return text


def echo(body: Body) -> str:
    return f"echo {text_of(body)}"


class Asked:
    """What a teacher was asked through, and what came of it."""

    def __init__(self, *servers: ScriptedServer, **spec: Any) -> None:
        settings = TeacherSpec.model_validate({"model": "scripted", "request_timeout": 5.0, **spec})
        urls = [server.base_url for server in servers]
        self.notes: list[str] = []
        self.teacher = OpenAITeacher(
            settings, urls, "scripted", "fp", backoff_seconds=0.02, batch_size=8, on_note=self.notes.append
        )
        self.answers: dict[str, Completion] = {}

    def all(self, asked: Sequence[Request], on_batch: Callable[[int], None] = lambda count: None) -> Asked:
        for batch in self.teacher.complete(asked):
            for completion in batch:
                assert completion.request_key not in self.answers, "answered twice"
                self.answers[completion.request_key] = completion
            on_batch(len(self.answers))
        return self

    def kinds(self) -> dict[str, FailureKind]:
        return {failure.request_key: failure.kind for failure in self.teacher.failures}


@contextmanager
def running(*servers: ScriptedServer) -> Iterator[None]:
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        yield


# Concurrency ----------------------------------------------------------------------------------------------------------


def test_a_server_that_turns_away_what_is_too_much_answers_everything_in_the_end() -> None:
    with ScriptedServer(echo, delay=0.02, capacity=4) as server:
        asked = Asked(server, concurrency=64).all(requests(150))
    assert len(asked.answers) == 150
    assert asked.teacher.failures == []
    turned_away = len(server.received) - len(server.answered)
    assert 0 < turned_away < 150, "it does not go on knocking"


def test_a_server_that_grows_too_slow_is_sent_less() -> None:
    with ScriptedServer(echo, delay=lambda in_flight: 0.01 * max(1.0, in_flight / 16) ** 3) as server:
        asked = Asked(server, concurrency=256, request_timeout=60.0).all(requests(400))
    assert len(asked.answers) == 400
    assert server.most_in_flight < 200, "the cap is not tried when half of it is too much"


def test_a_server_that_takes_everything_is_sent_the_cap() -> None:
    with ScriptedServer(echo, delay=0.05) as server:
        Asked(server, concurrency=40).all(requests(300))
    assert START < server.most_in_flight <= 40


# Several endpoints ----------------------------------------------------------------------------------------------------


def test_two_endpoints_share_the_work_by_what_they_have_in_flight() -> None:
    fast, slow = ScriptedServer(echo, delay=0.01), ScriptedServer(echo, delay=0.05)
    with running(fast, slow):
        asked = Asked(fast, slow, concurrency=4).all(requests(120))
    assert len(asked.answers) == 120
    assert len(fast.answered) + len(slow.answered) == 120
    assert len(fast.answered) > len(slow.answered) > 5
    assert max(fast.most_in_flight, slow.most_in_flight) == 4, "the cap is one for each"


def test_an_endpoint_that_dies_is_set_aside_and_comes_back_while_the_other_goes_on() -> None:
    one, other = ScriptedServer(echo, delay=0.02), ScriptedServer(echo, delay=0.02)
    answered_at_revival: list[int] = []

    def at(count: int) -> None:
        if count >= 24 and not one.deaths:
            one.deaths += 1
            one.kill()
        if count >= 64 and not answered_at_revival:
            answered_at_revival.append(len(one.answered))
            one.revive()

    with running(one, other):
        asked = Asked(one, other, concurrency=4, max_attempts=2).all(requests(200), at)
    assert len(asked.answers) == 200
    assert asked.teacher.failures == []
    assert len(one.answered) > answered_at_revival[0], "it works again after it is back"
    aside, back = [note for note in asked.notes if one.base_url in note]
    assert "set aside" in aside
    assert "answers again" in back


def test_an_endpoint_that_was_never_there_does_not_stop_the_others() -> None:
    absent, present = ScriptedServer(echo), ScriptedServer(echo, delay=0.01)
    with running(absent, present):
        absent.kill()
        asked = Asked(absent, present, concurrency=4).all(requests(60))
    assert len(asked.answers) == 60
    assert asked.teacher.failures == []


def test_a_dead_engine_is_noticed_by_lack_of_progress_not_by_its_health_page() -> None:
    dead = ScriptedServer(echo, fault_of=lambda body, earlier: Fault.HANG if len(dead.received) > 20 else None)
    alive = ScriptedServer(echo, delay=0.02)
    with running(dead, alive):
        started = time.monotonic()
        asked = Asked(dead, alive, concurrency=4, request_timeout=1.0).all(requests(100))
    assert len(asked.answers) == 100
    assert asked.teacher.failures == [], "no request pays for the endpoint with its tries"
    assert time.monotonic() - started < 30
    assert len(dead.received) < 40, "what hangs there and a few probes, and nothing more"


def test_when_all_are_dead_the_run_stops_says_so_and_keeps_what_was_answered() -> None:
    with ScriptedServer(echo, delay=0.01) as server:
        asked = Asked(server, concurrency=4, request_timeout=0.5, max_attempts=2)
        with pytest.raises(TeacherError, match=r"stopped answering.*no connection") as caught:
            asked.all(requests(500), lambda count: server.kill() if count == 40 else None)
    assert "run the same command again" in str(caught.value)
    assert 40 <= len(asked.answers) < 500
    assert set(asked.kinds().values()) <= {FailureKind.SUSPECT}
    assert not asked.kinds().keys() & asked.answers.keys()


def test_an_endpoint_that_restarts_in_time_costs_nothing() -> None:
    with ScriptedServer(echo, delay=0.01) as server:

        def at(count: int) -> None:
            if count >= 40 and not server.deaths:
                server.deaths += 1
                server.kill()
                threading.Timer(0.5, server.revive).start()

        asked = Asked(server, concurrency=4, max_attempts=2).all(requests(80), at)
    assert len(asked.answers) == 80
    assert asked.teacher.failures == []


# Failures -------------------------------------------------------------------------------------------------------------


def poison(body: Body) -> bool:
    return text_of(body) == "q 0010"


def test_a_request_that_always_crashes_is_quarantined_and_the_others_are_answered() -> None:
    with ScriptedServer(echo, fault_of=lambda body, earlier: Fault.ERROR_500 if poison(body) else None) as server:
        asked = Asked(server, concurrency=4, max_attempts=3).all(requests(60))
    assert len(asked.answers) == 59
    (failure,) = asked.teacher.failures
    assert (failure.request_key, failure.kind) == (requests(60)[10].key, FailureKind.QUARANTINED)
    assert failure.attempts == 6, "three among others, three alone"
    assert "alone" in failure.reason
    assert "HTTP 500" in failure.reason
    assert any(failure.request_key in note for note in asked.notes)


def test_a_request_that_kills_the_endpoint_is_found_out_and_the_others_are_answered() -> None:
    with ScriptedServer(
        echo, fault_of=lambda body, earlier: Fault.DEATH if poison(body) else None, delay=0.01, restart_after=0.4
    ) as server:
        asked = Asked(server, concurrency=6, max_attempts=2).all(requests(60))
    assert len(asked.answers) == 59
    (failure,) = asked.teacher.failures
    assert (failure.request_key, failure.kind) == (requests(60)[10].key, FailureKind.QUARANTINED)
    assert server.deaths <= 4


def test_what_was_in_flight_at_a_death_is_asked_last_and_alone_by_the_next_run() -> None:
    asked_for = requests(30)
    with ScriptedServer(
        echo, delay=0.03, fault_of=lambda body, earlier: Fault.DEATH if poison(body) else None
    ) as server:
        first = Asked(server, concurrency=4, request_timeout=0.5, max_attempts=1)
        with pytest.raises(TeacherError, match="stopped answering"):
            first.all(asked_for)
    suspects = first.kinds()
    assert asked_for[10].key in suspects
    assert set(suspects.values()) == {FailureKind.SUSPECT}
    rest = [request for request in asked_for if request.key not in first.answers]
    with ScriptedServer(
        echo, delay=0.03, fault_of=lambda body, earlier: Fault.DEATH if poison(body) else None
    ) as server:
        second = Asked(server, concurrency=4, request_timeout=0.5, max_attempts=1)
        second.teacher.failed_before = suspects
        with pytest.raises(TeacherError, match="stopped answering"):
            second.all(rest)
    assert second.kinds()[asked_for[10].key] is FailureKind.QUARANTINED
    others = [request.messages[0].content for request in rest if request.key not in suspects]
    assert set(server.prompts[: len(others)]) == set(others), "everybody else first"
    assert len(first.answers) + len(second.answers) >= 30 - len(suspects)


def test_a_pause_without_end_is_capped_and_said() -> None:
    with ScriptedServer(echo, faults=[Fault.RATE_LIMITED], retry_after="1000000000") as server:
        started = time.monotonic()
        asked = Asked(server, retry_after_cap=0.3, concurrency=2).all(requests(5))
    assert len(asked.answers) == 5
    assert 0.3 <= time.monotonic() - started < 30
    (note,) = asked.notes
    assert "1,000,000,000 s" in note
    assert "teacher.retry_after_cap" in note


def test_a_server_that_only_turns_away_is_given_up() -> None:
    with ScriptedServer(echo, capacity=0) as server:
        with pytest.raises(TeacherError, match=r"not even one token.*HTTP 429"):
            Asked(server, request_timeout=1.0, max_attempts=2, concurrency=2).all(requests(10))
        assert len(server.received) < 200


def test_an_outbreak_of_failures_stops_the_run_though_most_of_the_job_went_well() -> None:
    asked_for = requests(1000)
    with ScriptedServer(
        echo, fault_of=lambda body, earlier: Fault.BAD_REQUEST if text_of(body) > "q 0100" else None
    ) as server:
        asked = Asked(server, failure_share=0.2, failure_window=50, concurrency=4)
        with pytest.raises(TeacherError, match="of the last 50 requests got no answer"):
            asked.all(asked_for)
    assert len(asked.answers) >= 100, "everything done is kept"
    assert len(server.received) < 130
    assert {failure.kind for failure in asked.teacher.failures} == {FailureKind.REFUSED}
    assert not any(is_probe(body) for body in server.received)
