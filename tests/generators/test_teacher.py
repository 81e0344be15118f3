from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from data_catalog.errors import ConfigError, Interrupted, TeacherError, TeacherUnreachable
from data_catalog.records import Completion, FailureKind, Message, Request, Sampling
from generators.chat_api import retry_after_seconds
from generators.specs import TeacherSpec
from generators.teacher import OpenAITeacher
from tests.scripted_server import Fault, ScriptedServer

SCHEMA = {"type": "object", "properties": {"answer": {"type": "string", "maxLength": 9}}}


def request(text: str = "hello", **values: Any) -> Request:
    return Request.model_validate(
        {
            "model": "fp",
            "messages": (Message(role="user", content=text),),
            "sampling": Sampling(temperature=0.5, top_p=0.9, max_tokens=16),
            **values,
        }
    )


def echo(body: Any) -> str:
    return f"echo {body['messages'][-1]['content']}"


def teacher(server: ScriptedServer | str, *, options: dict[str, Any] | None = None, **spec: Any) -> OpenAITeacher:
    base_url = server if isinstance(server, str) else server.base_url
    settings = TeacherSpec.model_validate({"model": "scripted", "request_timeout": 5.0, **spec})
    return OpenAITeacher(settings, base_url, "scripted", "fp", **{"backoff_seconds": 0.01, **(options or {})})


def ask(client: OpenAITeacher, requests: Sequence[Request]) -> dict[str, Completion]:
    return {completion.request_key: completion for batch in client.complete(requests) for completion in batch}


def drain(client: OpenAITeacher, requests: Sequence[Request], into: list[Completion]) -> None:
    take(client.complete(requests), into)


def take(batches: Iterator[Sequence[Completion]], into: list[Completion]) -> None:
    for batch in batches:
        into.extend(batch)


def test_a_request_is_sent_as_it_is_and_its_answer_comes_back_whole() -> None:
    asked = request("What?", response_schema=SCHEMA)
    with ScriptedServer(echo) as server:
        client = teacher(server, api_key_env="KEY", options={"api_key": "secret"})
        completion = ask(client, [asked])[asked.key]
    assert (completion.text, completion.finish_reason) == ("echo What?", "stop")
    assert (completion.prompt_tokens, completion.completion_tokens) == (7, 11)
    assert completion.seconds > 0
    assert server.received == [
        {
            "model": "scripted",
            "messages": [{"role": "user", "content": "What?"}],
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 16,
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
        }
    ]
    assert server.headers[0]["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    "fault",
    [
        Fault.ERROR_500, Fault.RATE_LIMITED, Fault.HALF_JSON, Fault.SPACES, Fault.SPACES_IN_CONTENT,
        Fault.EMPTY_CHOICES, Fault.NULL_CONTENT, Fault.HTML, Fault.RESET,
    ],
)  # fmt: skip
def test_a_broken_answer_is_asked_again(fault: Fault) -> None:
    with ScriptedServer(echo, faults=[fault, fault]) as server:
        client = teacher(server)
        assert len(ask(client, [request()])) == 1
    assert len(server.received) == 3
    assert client.failures == []


def test_a_chat_endpoint_is_never_asked_how_likely_a_text_is() -> None:
    with ScriptedServer(echo) as server:
        turns = (Message(role="user", content="?"), Message(role="assistant", content="red"))
        asked = request(messages=turns, sampling=Sampling(max_tokens=0))
        with pytest.raises(TeacherError, match="how likely"):
            ask(teacher(server), [asked])
        assert not server.prompts


@pytest.mark.parametrize("fault", [Fault.HANG_AFTER_HEADERS, Fault.SLOW_DRIP])
def test_an_answer_that_never_ends_is_given_up_in_time(fault: Fault) -> None:
    with ScriptedServer(echo, faults=[fault]) as server:
        client = teacher(server, request_timeout=0.5)
        started = time.monotonic()
        assert len(ask(client, [request()])) == 1
    assert server.prompts == ["hello", "hello"]
    assert 0.5 <= time.monotonic() - started < 10


def test_a_request_that_stays_broken_fails_and_the_others_are_answered() -> None:
    def fault_of(body: Any, earlier: int) -> Fault | None:
        return Fault.HALF_JSON if body["messages"][0]["content"] == "bad" else None

    requests = [request("bad"), *(request(f"good {number}") for number in range(5))]
    with ScriptedServer(echo, fault_of=fault_of) as server:
        client = teacher(server, max_attempts=3)
        assert ask(client, requests).keys() == {asked.key for asked in requests[1:]}
    (failure,) = client.failures
    assert failure.request_key == requests[0].key
    assert failure.kind is FailureKind.FAILED
    assert failure.attempts == 3
    assert "the answer is no JSON" in failure.reason


def test_a_request_that_the_server_refuses_is_not_repeated() -> None:
    with ScriptedServer(echo, faults=[Fault.BAD_REQUEST]) as server:
        client = teacher(server, concurrency=1)
        answers = ask(client, [request("1"), request("2")])
    assert len(answers) == 1
    assert len(server.received) == 2
    assert client.failures[0].reason.startswith("HTTP 400")


@pytest.mark.parametrize("fault", [Fault.UNAUTHORISED, Fault.NOT_FOUND])
def test_a_wrong_key_or_model_stops_at_the_first_answer(fault: Fault) -> None:
    with (
        ScriptedServer(echo, fault_of=lambda body, earlier: fault) as server,
        pytest.raises(TeacherError, match="refuses every request for model 'scripted'"),
    ):
        ask(teacher(server, concurrency=2), [request(str(number)) for number in range(50)])
    assert len(server.received) <= 2


def test_a_cut_off_answer_is_an_answer_and_is_never_asked_again() -> None:
    with ScriptedServer(echo, faults=[Fault.CUT_OFF]) as server:
        (completion,) = ask(teacher(server), [request()]).values()
    assert completion.finish_reason == "length"
    assert len(server.received) == 1


@pytest.mark.parametrize(("retry_after", "cap", "least"), [("1", 60.0, 1.0), ("3600", 0.2, 0.2)])
def test_retry_after_is_obeyed_up_to_the_cap(retry_after: str, cap: float, least: float) -> None:
    with ScriptedServer(echo, faults=[Fault.RATE_LIMITED], retry_after=retry_after) as server:
        started = time.monotonic()
        ask(teacher(server, retry_after_cap=cap), [request()])
    assert least <= time.monotonic() - started < 30


def test_retry_after_may_be_a_date() -> None:
    now = datetime(2026, 11, 5, 12, 0, 0, tzinfo=UTC)
    assert retry_after_seconds("Thu, 05 Nov 2026 12:00:30 GMT", now) == 30.0
    assert retry_after_seconds("Thu, 05 Nov 2026 11:00:00 GMT", now) == 0.0
    assert retry_after_seconds("soon", now) is None
    assert retry_after_seconds("nan", now) is None
    assert retry_after_seconds(None, now) is None


def test_a_server_that_only_fails_is_an_error_that_says_so() -> None:
    with (
        ScriptedServer(echo, fault_of=lambda body, earlier: Fault.ERROR_500) as server,
        pytest.raises(TeacherError, match="got no answer") as caught,
    ):
        ask(teacher(server, max_attempts=2), [request()])
    assert not isinstance(caught.value, TeacherUnreachable)
    assert "HTTP 500" in str(caught.value)
    assert caught.value.exit_code == 4


def test_too_many_failures_stop_early_and_keep_what_was_answered() -> None:
    def fault_of(body: Any, earlier: int) -> Fault | None:
        return None if body["messages"][0]["content"].endswith("0") else Fault.BAD_REQUEST

    requests = [request(str(number)) for number in range(200)]
    kept: list[Completion] = []
    with ScriptedServer(echo, fault_of=fault_of) as server:
        client = teacher(server, concurrency=1, failure_share=0.1)
        with pytest.raises(TeacherError, match="of 200 requests got no answer"):
            drain(client, requests, kept)
    assert len(client.failures) == 21
    assert [completion.text for completion in kept] == ["echo 0", "echo 10", "echo 20"]
    assert len(server.received) < 40


def test_the_share_of_failures_counts_what_was_answered_before() -> None:
    # Otherwise a run that repeats the two requests which fail for good could never end well.
    with ScriptedServer(echo, fault_of=lambda body, earlier: Fault.BAD_REQUEST) as server:
        client = teacher(server, failure_share=0.1)
        client.answered_before = 98
        assert ask(client, [request("1"), request("2")]) == {}
    assert len(client.failures) == 2


def test_an_address_where_nobody_listens_says_what_to_check() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        client = teacher(f"http://127.0.0.1:{port}/v1", max_attempts=2)
        with pytest.raises(TeacherUnreachable, match="never answered: no connection") as caught:
            ask(client, [request(str(number)) for number in range(20)])
    assert f"curl http://127.0.0.1:{port}/v1/models" in str(caught.value)


def test_no_more_requests_are_in_flight_than_allowed() -> None:
    with ScriptedServer(echo, delay=0.02) as server:
        assert len(ask(teacher(server, concurrency=3), [request(str(number)) for number in range(30)])) == 30
    assert server.most_in_flight == 3


def test_answers_are_handed_over_in_batches_with_progress() -> None:
    said: list[tuple[int, int, int]] = []
    options = {"batch_size": 4, "on_progress": lambda *counts: said.append(counts)}
    with ScriptedServer(echo) as server:
        client = teacher(server, options=options, concurrency=1)
        sizes = [len(batch) for batch in client.complete([request(str(number)) for number in range(10)])]
    assert sizes == [4, 4, 2]
    assert said[-1] == (10, 0, 10)
    assert [done for done, _, _ in said] == sorted(done for done, _, _ in said)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Interrupted])
def test_an_interrupt_hands_over_what_has_arrived_and_then_goes_on(stop: type[BaseException]) -> None:
    def interrupt(signum: int, frame: object) -> None:
        raise stop("stopped by a signal")

    slow = threading.Event()

    def answer(body: Any) -> str:
        if body["messages"][-1]["content"] == "5":
            slow.set()
        return echo(body)

    before = signal.signal(signal.SIGUSR1, interrupt)
    received: list[Completion] = []
    try:
        with ScriptedServer(answer, fault_of=lambda body, earlier: _hang_from_six(body)) as server:
            client = teacher(server, options={"drain_seconds": 0.3}, concurrency=1, request_timeout=60.0)
            killer = threading.Thread(target=_signal_after, args=(slow,))
            killer.start()
            with pytest.raises(stop):
                drain(client, [request(str(number)) for number in range(10)], received)
            killer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert sorted(completion.text for completion in received) == [f"echo {number}" for number in range(6)]
    assert not [thread for thread in threading.enumerate() if thread.name == "teacher"]


def test_an_interrupt_waits_for_what_is_in_flight_and_sends_nothing_more() -> None:
    asked = [request(str(number)) for number in range(40)]
    notes: list[str] = []
    with ScriptedServer(echo, delay=0.3) as server:
        client = teacher(server, options={"batch_size": 4, "on_note": notes.append}, concurrency=4)
        batches = client.complete(asked)
        received = list(next(iter(batches)))
        received += batches.throw(Interrupted("stopped"))  # type: ignore[attr-defined]
        with pytest.raises(Interrupted):
            take(batches, received)
    assert len(received) == len(server.received) == len(server.answered)
    assert len(received) < 20
    assert any("requests in flight" in note for note in notes)


def _hang_from_six(body: Any) -> Fault | None:
    return Fault.HANG_AFTER_HEADERS if body["messages"][0]["content"] >= "6" else None


def _signal_after(event: threading.Event) -> None:
    event.wait(20)
    time.sleep(0.2)  # the answer that set the event is still on its way
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def test_a_caller_that_stops_reading_ends_the_sending() -> None:
    with ScriptedServer(echo, delay=0.01) as server:
        batches = teacher(server, concurrency=1, options={"batch_size": 1}).complete(
            [request(str(number)) for number in range(1000)]
        )
        next(iter(batches))
        batches.close()  # type: ignore[attr-defined]
        assert len(server.received) < 100
    assert not [thread for thread in threading.enumerate() if thread.name == "teacher"]


def test_what_no_store_accepts_is_replaced_at_the_door() -> None:
    with ScriptedServer(lambda body: "half \ud83d, nul \0, whole \U0001f600") as server:
        (completion,) = ask(teacher(server), [request()]).values()
    assert completion.text == "half ?, nul \ufffd, whole \U0001f600"


def test_a_configured_key_that_is_missing_is_an_error_before_anything_is_sent() -> None:
    with pytest.raises(ConfigError, match="names TEACHER_KEY"):
        teacher("http://127.0.0.1:1/v1", api_key_env="TEACHER_KEY")


def test_no_request_needs_no_teacher() -> None:
    assert list(teacher("http://127.0.0.1:1/v1").complete([])) == []
