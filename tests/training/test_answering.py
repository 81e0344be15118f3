"""The process that keeps a model loaded: batches of what waits, streamed pieces, refusals that hit one order alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_catalog.records import Completion, Message, Request, Sampling
from tests.training.tiny import Lines
from training.answering import Answerer, Order, batches, read_order
from training.inference import LocalCompleter


def request(text: str, max_tokens: int = 12, index: int = 0) -> Request:
    message = Message(role="user", content=text)
    return Request(model="m", messages=(message,), sampling=Sampling(max_tokens=max_tokens), sample_index=index)


def answerer(base: Path) -> tuple[Answerer, Lines]:
    lines = Lines()
    return Answerer(lines, lambda on_tokens: LocalCompleter(base, "m", on_tokens=on_tokens)), lines


def test_streamed_pieces_add_up_to_the_answer_of_the_ordinary_way(base: Path) -> None:
    asked = [request("What colour is the rotor?", 16), request("Tell me of the valve", 9)]
    plain = {c.request_key: c.text for batch in LocalCompleter(base, "m").complete(asked) for c in batch}
    server, lines = answerer(base)
    server.answer([Order(1, asked[0], stream=True), Order(2, asked[1], stream=False), Order(3, asked[0], stream=True)])
    answered = {event["id"]: event for event in lines.events if event["event"] == "answered"}
    assert {number: event["text"] for number, event in answered.items()} == {
        1: plain[asked[0].key],
        2: plain[asked[1].key],
        3: plain[asked[0].key],
    }
    for number in (1, 3):
        pieces = [event["text"] for event in lines.events if event["event"] == "text" and event["id"] == number]
        assert len(pieces) > 1
        assert "".join(pieces) == answered[number]["text"]
    assert not [event for event in lines.events if event["event"] == "text" and event["id"] == 2]


def test_a_prompt_that_fills_the_context_is_refused_and_the_others_are_answered(base: Path) -> None:
    server, lines = answerer(base)
    server.answer([Order(1, request("rotor " * 600), stream=True), Order(2, request("?"), stream=False)])
    by_id = {event["id"]: event for event in lines.events if event["event"] != "text"}
    assert by_id[1]["event"] == "refused"
    assert by_id[1]["code"] == "too_long"
    assert "512 tokens" in by_id[1]["message"]
    assert by_id[2]["event"] == "answered"


class Moody:
    """A completer that fails on any batch that asks for it."""

    positions = 8

    def complete(self, requests: Sequence[Request]) -> Iterator[list[Completion]]:
        for one in requests:
            if one.messages[0].content == "fail":
                raise ValueError("roles must alternate")
        yield [Completion(request_key=one.key, text="fine", finish_reason="stop") for one in requests]


def test_an_order_that_fails_does_not_take_its_batch_along() -> None:
    lines = Lines()
    load: Callable[[Any], Any] = lambda on_tokens: Moody()  # noqa: E731
    server = Answerer(lines, load)
    server.answer([Order(1, request("a"), False), Order(2, request("fail"), False), Order(3, request("b"), False)])
    assert sorted((event["id"], event["event"]) for event in lines.events) == [
        (1, "answered"),
        (2, "refused"),
        (3, "answered"),
    ]
    (refused,) = [event for event in lines.events if event["event"] == "refused"]
    assert "roles must alternate" in refused["message"]


def test_what_is_no_order_is_told_of_and_left_out() -> None:
    lines = Lines()
    good = {"id": 1, "stream": False, "request": request("?").model_dump()}
    text = [b"nonsense\n", json.dumps({"id": 2}).encode(), json.dumps(good).encode()]
    assert [[order.id for order in batch] for batch in batches(iter(text), lines)] == [[1]]
    assert [event["event"] for event in lines.events] == ["unreadable", "unreadable"]
    assert read_order(json.dumps(good).encode(), lines) == Order(1, request("?"), False)
