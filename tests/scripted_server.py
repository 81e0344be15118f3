"""A local OpenAI-compatible server that plays a deterministic teacher, or misbehaves as told.

`ScriptedServer` speaks HTTP and owns the faults; `ScriptedTeacher` is what it answers with: it recognises the prompts
of any templates it is given (the product's, the sandbox's) and writes questions, answers, verdicts, paraphrases and
open questions by rules on sentences. The same prompt always gets the same answer.

    with ScriptedServer(ScriptedTeacher().answer) as server:
        ...  # server.base_url, server.model
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, Self

from data_catalog.text import fold_space, is_cjk, normalise_answer
from generators.prompts import VARIABLES, Template, load_template, product_templates

Body = Mapping[str, Any]
Answer = Callable[[Body], str]

ABSTENTION = {False: "The text does not say.", True: "文中没有提到。"}


class Fault(StrEnum):
    """What goes wrong with one response."""

    ERROR_500 = "error_500"
    RATE_LIMITED = "rate_limited"
    BAD_REQUEST = "bad_request"
    UNAUTHORISED = "unauthorised"
    NOT_FOUND = "not_found"
    HANG_AFTER_HEADERS = "hang_after_headers"
    HALF_JSON = "half_json"
    SPACES = "spaces"
    SPACES_IN_CONTENT = "spaces_in_content"
    EMPTY_CHOICES = "empty_choices"
    NULL_CONTENT = "null_content"
    HTML = "html"
    RESET = "reset"
    SLOW_DRIP = "slow_drip"
    HANG = "hang"
    """Nothing comes back at all: the engine behind the server is dead, and nobody has noticed."""
    DEATH = "death"
    """The whole server dies: every connection is reset and nobody listens for `restart_after` seconds."""
    CUT_OFF = "cut_off"
    """The token limit was met: a whole response with finish_reason `length`."""


_STATUS = {
    Fault.ERROR_500: 500,
    Fault.RATE_LIMITED: 429,
    Fault.BAD_REQUEST: 400,
    Fault.UNAUTHORISED: 401,
    Fault.NOT_FOUND: 404,
}


@dataclass
class ScriptedServer:
    """The server, on a free port of loopback, in a thread of its own; used as a context manager.

    Args:
        answer: from a request's JSON body to the assistant's text; a KeyError is answered by 400.
        faults: what happens to the first requests, in the order of their arrival; None is a good answer.
        completes_text: whether there is `/v1/completions`, which goes on with a text outside any chat.
        fault_of: what happens to a request by its body and how often that very body came before; asked after `faults`.
        retry_after: the header that goes with 429.
        delay: seconds before every answer; or a function that says them for so many requests in flight.
        capacity: requests in flight that are worked on; more are turned away by 429.
        restart_after: seconds that the server is away after `Fault.DEATH`; None: until `revive`.
    """

    answer: Answer
    faults: Iterable[Fault | None] = ()
    fault_of: Callable[[Body, int], Fault | None] = lambda body, earlier: None
    retry_after: str | None = None
    delay: float | Callable[[int], float] = 0.0
    capacity: int | None = None
    restart_after: float | None = None
    model: str = "scripted"
    completes_text: bool = True
    received: list[Body] = field(default_factory=list)
    """Every request body, in the order of arrival."""
    headers: list[Mapping[str, str]] = field(default_factory=list)
    answered: list[Body] = field(default_factory=list)
    """The bodies of those that got a whole, good answer."""
    most_in_flight: int = 0
    deaths: int = 0
    base_url: str = ""

    @property
    def prompts(self) -> list[str]:
        """The last message of every request in the order of arrival, questions for one token left out."""
        bodies = [body for body in self.received if not is_probe(body)]
        return [body["prompt"] if "prompt" in body else body["messages"][-1]["content"] for body in bodies]

    def __enter__(self) -> Self:
        self._script = iter(self.faults)
        self._seen: Counter[bytes] = Counter()
        self._in_flight = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10), "the scripted server did not start"
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._killer: asyncio.Task[None] | None = None
        await self._listen(0)
        self._port = self._server.sockets[0].getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self._port}/v1"
        self._ready.set()
        await self._end.wait()
        await self._close(self._connections)

    async def _listen(self, port: int) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port)

    async def _close(self, connections: Iterable[asyncio.Task[None]]) -> None:
        self._server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def kill(self) -> None:
        """Reset all connections and listen no more; may be called from any thread."""
        asyncio.run_coroutine_threadsafe(self._close(set(self._connections)), self._loop).result(10)

    def revive(self) -> None:
        """Listen again at the same address."""
        asyncio.run_coroutine_threadsafe(self._listen(self._port), self._loop).result(10)

    async def _die(self, dying: asyncio.Task[None]) -> None:
        self.deaths += 1
        await self._close(self._connections - {dying})
        if self.restart_after is not None:
            await asyncio.sleep(self.restart_after)
            await self._listen(self._port)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client went away, or the server ends
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection stays open."""
        request_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if request_line.startswith("GET"):
            return await _send(writer, 200, json.dumps({"object": "list", "data": [{"id": self.model}]}).encode())
        body: Body = json.loads(content)
        assert ("prompt" in body) == (request_line.split()[1] == "/v1/completions"), request_line
        earlier = self._seen[content]
        self._seen[content] += 1
        self.received.append(body)
        self.headers.append(headers)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            if self.capacity is not None and self._in_flight > self.capacity:
                return await self._respond(writer, body, Fault.RATE_LIMITED)
            await asyncio.sleep(self.delay(self._in_flight) if callable(self.delay) else self.delay)
            return await self._respond(writer, body, next(self._script, None) or self.fault_of(body, earlier))
        finally:
            self._in_flight -= 1

    async def _respond(self, writer: asyncio.StreamWriter, body: Body, fault: Fault | None) -> bool:
        if "prompt" in body and not self.completes_text:
            fault = Fault.NOT_FOUND
        if fault in _STATUS:
            extra = {"Retry-After": self.retry_after} if fault is Fault.RATE_LIMITED and self.retry_after else {}
            return await _send(writer, _STATUS[fault], json.dumps({"error": {"message": str(fault)}}).encode(), extra)
        if fault is Fault.HANG:
            await self._end.wait()
            return False
        if fault in (Fault.RESET, Fault.DEATH):
            if fault is Fault.DEATH:
                current = asyncio.current_task()
                assert current is not None
                self._killer = asyncio.create_task(self._die(current))
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return False
        try:
            good = _response(body, self.answer(body), "length" if fault is Fault.CUT_OFF else "stop")
        except KeyError as unknown:
            return await _send(
                writer, 400, json.dumps({"error": {"message": f"what prompt is this: {unknown}"}}).encode()
            )
        if fault in (Fault.HANG_AFTER_HEADERS, Fault.SLOW_DRIP):
            return await self._stall(writer, good, drip=fault is Fault.SLOW_DRIP)
        if fault in (None, Fault.CUT_OFF):
            self.answered.append(body)
        return await _send(writer, 200, _broken(good, body, fault))

    async def _stall(self, writer: asyncio.StreamWriter, good: bytes, *, drip: bool) -> bool:
        writer.write(_head(200, len(good), {}))
        for byte in good if drip else b"":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)
        await self._end.wait()
        return False


def _response(body: Body, text: str | None, finish_reason: str) -> bytes:
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    **({"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}),
                    "finish_reason": finish_reason,
                }
            ],
            "usage": {"prompt_tokens": 7, "completion_tokens": 11, "total_tokens": 18},
        }
    ).encode()


def _broken(good: bytes, body: Body, fault: Fault | None) -> bytes:
    broken = {
        Fault.HALF_JSON: good[: len(good) // 2],
        Fault.SPACES: b" " * 250_000,
        Fault.SPACES_IN_CONTENT: _response(body, "{" + " " * 250_000, "length"),
        Fault.EMPTY_CHOICES: json.dumps({"choices": []}).encode(),
        Fault.NULL_CONTENT: _response(body, None, "stop"),
        Fault.HTML: b"<html><body>Bad gateway, but with status 200</body></html>",
    }
    return good if fault is None else broken.get(fault, good)


def _head(status: int, length: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", "Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


async def _send(
    writer: asyncio.StreamWriter, status: int, content: bytes, headers: Mapping[str, str] | None = None
) -> bool:
    writer.write(_head(status, len(content), headers or {}) + content)
    await writer.drain()
    return True


def is_probe(body: Body) -> bool:
    """Say whether somebody only asks whether anybody is there."""
    return bool(body.get("max_tokens") == 1)


class ScriptedTeacher:
    """A teacher that knows sentences: it asks for a sentence's last word and finds it again by what stands before.

    Args:
        templates: whose prompts it understands; the product's own, in both languages, when left out.
        answers: how it answers templates of a kind, from their variables (and `template`, the name), instead of by its
            own rules; those of `text`, how it goes on with a text outside any chat.
    """

    def __init__(
        self,
        templates: Iterable[Template] | None = None,
        answers: Mapping[str, Callable[[Mapping[str, str]], str]] | None = None,
    ) -> None:
        self._answers = answers or {}
        self._patterns = [
            (template, pattern)
            for template in (all_product_templates() if templates is None else templates)
            for pattern in _patterns(template)
        ]

    def answer(self, body: Body) -> str:
        """Return the answer to a request; KeyError where the prompt is of no template."""
        if "prompt" in body:
            return self._answers["text"]({"text": body["prompt"]})
        prompt = body["messages"][-1]["content"]
        for template, pattern in self._patterns:
            if match := pattern.fullmatch(prompt):
                named = {"template": template.name, "heading": "", "chunk": "", "reference": "", **match.groupdict()}
                return self._answer(template.recipe, named)
        if is_probe(body):
            return "ok"
        raise KeyError(prompt[:80])

    def _answer(self, kind: str, given: Mapping[str, str]) -> str:
        if kind in self._answers:
            return self._answers[kind](given)
        match kind:
            case "grounded_qa":
                stem, last = _cut(given["focus"])
                question = f"{given['heading']}: what follows “{stem}”?"
                return json.dumps(
                    {"evidence": given["focus"], "question": question, "answer": last}, ensure_ascii=False
                )
            case "answer":
                return _look_up(given["question"], given["chunk"])
            case "judge":
                found = _look_up(given["question"], given["chunk"])
                right = normalise_answer(found) == normalise_answer(given["answer"])
                return json.dumps({"reason": f"The document has: {found}"[:300], "verdict": "yes" if right else "no"})
            case "rubric":
                right = normalise_answer(given["answer"]) == normalise_answer(given["reference"])
                return json.dumps({"reason": "As it is.", "points": given["scale"] if right else "1"})
            case "pairwise":
                wanted = normalise_answer(given["reference"])
                same = [name for name in ("first", "second") if normalise_answer(given[name]) == wanted]
                return json.dumps({"reason": "As it is.", "better": same[0] if len(same) == 1 else "tie"})
            case "paraphrase":
                return f"{'据记载，' if _is_chinese(given['sentence']) else 'On record: '}{given['sentence']}"
            case _:
                return f"Who was the first to ask about {given['heading'] or 'all this'}?"


@cache
def all_product_templates() -> tuple[Template, ...]:
    """Return every template that ships with the product."""
    return tuple(
        load_template(name, recipe, language)
        for recipe in VARIABLES
        for language in ("en", "zh")
        for name in product_templates(recipe, language)
    )


@cache
def _patterns(template: Template) -> Sequence[re.Pattern[str]]:
    """Return expressions that read a prompt's variables back, with a heading, a chunk or a reference and without."""
    marks = {name: f"\ue000{name}\ue001" for name in template.variables}
    patterns = []
    for values in (marks, {**marks, "heading": ""}, {**marks, "reference": ""}, {**marks, "heading": "", "chunk": ""}):
        expression = re.escape(template.render(**values).messages[-1].content)
        for name, mark in marks.items():
            expression = expression.replace(re.escape(mark), f"(?P<{name}>.*?)", 1)
            expression = expression.replace(re.escape(mark), f"(?P={name})")
        patterns.append(re.compile(expression, re.DOTALL))
    return patterns


def _is_chinese(text: str) -> bool:
    return any(is_cjk(character) for character in text)


def _cut(sentence: str) -> tuple[str, str]:
    """Return what a sentence says up to its last word (in Chinese: two characters, numbers whole), and that."""
    bare = fold_space(sentence).rstrip(".!?。！？;；")
    if _is_chinese(bare):
        ending = re.search(r"\d+.\Z|..\Z", bare)  # numbers stay whole
        assert ending is not None, sentence
        return bare[: ending.start()], ending[0]
    stem, _, last = bare.rpartition(" ")
    return stem, last


def _look_up(question: str, chunk: str) -> str:
    match = re.search("“(.*)”", question)
    text = fold_space(chunk)
    rest = text.partition(match[1])[2] if match else ""
    if not match or not rest.strip():
        return ABSTENTION[_is_chinese(question)]
    if _is_chinese(match[1]):
        return (re.match(r"\d+.|..", rest) or rest)[0]
    return rest.split()[0].rstrip(".!?;")
