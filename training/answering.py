"""A process that keeps one model loaded and answers: `python -m training.answering MODEL FINGERPRINT DESCRIPTOR`.

Orders come as lines on the open descriptor, JSON: `{"id": 1, "stream": false, "request": {...Request...}}`. Lines out
(stdout), JSON: `{"event": "ready", "seconds", "positions"}` once the weights are loaded; then for each order, if it
streams, `{"event": "text", "id", "text"}` per new piece, and one of

    {"event": "answered", "id", "text", "finish_reason", "prompt_tokens", "completion_tokens"}
    {"event": "refused", "id", "code", "message"}      code: `too_long` or `unusable`

A model that can't be loaded is told by `{"event": "failed", ...JobFailure...}` and that error's exit code. The end of
the orders ends the process. Orders that came while a batch ran make the next batch: nothing joins a running one.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from data_catalog.errors import ConfigError, Interrupted, TutelageError
from data_catalog.records import Completion, Request
from training.environment import apply_late
from training.process import Progress, StopRequest, end_with_parent
from training.specs import JobFailure
from training.worker import import_libraries

if TYPE_CHECKING:
    from training.inference import LocalCompleter

MOST_AT_ONCE = 64
"""Orders that make one batch at most."""
_HALF_A_CHARACTER = "\ufffd"


@dataclass
class Order:
    """One request on its way; `told` characters of its answer have been streamed."""

    id: int
    request: Request
    stream: bool
    told: int = 0


class Answerer:
    """Answers orders in batches and tells of each through `progress`."""

    def __init__(self, progress: Progress, load: Callable[[Callable[[str, Sequence[int]], None]], LocalCompleter]):
        self._progress = progress
        self._orders: dict[str, list[Order]] = {}
        self._completer = load(self._on_tokens)

    @property
    def positions(self) -> int:
        """Tokens of prompt and answer together at most."""
        return self._completer.positions

    def answer(self, orders: Sequence[Order]) -> None:
        """Answer a batch. A request that can't be rendered or computed is refused by itself; the others go on."""
        self._orders = {}
        for order in orders:
            self._orders.setdefault(order.request.key, []).append(order)
        try:
            for batch in self._completer.complete([same[0].request for same in self._orders.values()]):
                for completion in batch:
                    self._tell(completion)
        except Interrupted:
            raise
        except Exception as error:  # noqa: BLE001 - a chat template may raise anything for one caller's messages
            self._one_by_one(error)
        for order in self._left():
            message = f"the prompt leaves no room for an answer within the model's {self.positions} tokens"
            self._progress.write("refused", id=order.id, code="too_long", message=message)
        self._orders = {}

    def _one_by_one(self, error: Exception) -> None:
        left = self._left()
        if len({order.request.key for order in left}) > 1:
            for order in left:
                self.answer([order])
            return
        for order in left:
            message = f"the model's chat template or weights can't do it: {error}"
            self._progress.write("refused", id=order.id, code="unusable", message=message)
        self._orders = {}

    def _left(self) -> list[Order]:
        return [order for same in self._orders.values() for order in same]

    def _tell(self, completion: Completion) -> None:
        for order in self._orders.pop(completion.request_key):
            if order.stream and len(completion.text) > order.told:
                self._progress.write("text", id=order.id, text=completion.text[order.told :])
            self._progress.write(
                "answered",
                id=order.id,
                text=completion.text,
                finish_reason=completion.finish_reason,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
            )

    def _on_tokens(self, key: str, tokens: Sequence[int]) -> None:
        streaming = [order for order in self._orders.get(key, ()) if order.stream]
        if not streaming:
            return
        text = self._completer.text(tokens)
        if text.endswith(_HALF_A_CHARACTER):
            return  # a character of several bytes whose rest is yet to come
        for order in streaming:
            if len(text) > order.told:
                self._progress.write("text", id=order.id, text=text[order.told :])
                order.told = len(text)


def batches(lines: Iterator[bytes], progress: Progress) -> Iterator[list[Order]]:
    """Yield what has been ordered since the last batch, at least one order at a time, until the lines end."""
    waiting: queue.Queue[Order | None] = queue.Queue()

    def read() -> None:
        for line in lines:
            order = read_order(line, progress)
            if order is not None:
                waiting.put(order)
        waiting.put(None)

    # Reading apart from answering: a full pipe must not hold up who orders.
    threading.Thread(target=read, daemon=True, name="orders").start()
    while (order := waiting.get()) is not None:
        batch = [order]
        while len(batch) < MOST_AT_ONCE and not waiting.empty():
            further = waiting.get()
            if further is None:
                yield batch
                return
            batch.append(further)
        yield batch


def read_order(line: bytes, progress: Progress) -> Order | None:
    """Return the order on a line; what is none is told of and left out."""
    try:
        content: Mapping[str, Any] = json.loads(line)
        request = Request.model_validate(content["request"])
        return Order(id=int(content["id"]), request=request, stream=bool(content["stream"]))
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        progress.write("unreadable", line=line.decode("utf-8", "replace")[:200], reason=repr(error))
        return None


def main(arguments: Sequence[str]) -> int:
    """Load, say `ready`, and answer until the orders end; return the exit code."""
    parent = os.getppid()
    if len(arguments) != 3:
        sys.stderr.write("usage: python -m training.answering MODEL FINGERPRINT DESCRIPTOR\n")
        return ConfigError.exit_code
    model, fingerprint, descriptor = Path(arguments[0]), arguments[1], int(arguments[2])
    progress = Progress.take_stdout()
    StopRequest().install()
    end_with_parent(parent)
    apply_late()
    began = time.monotonic()
    import_libraries(for_training=False)
    from training.inference import LocalCompleter

    try:
        answerer = Answerer(progress, lambda on_tokens: LocalCompleter(model, fingerprint, on_tokens=on_tokens))
    except TutelageError as error:
        failure = JobFailure(
            error=type(error).__name__, message=error.message, valid=error.valid, next_step=error.next_step
        )
        progress.write("failed", **failure.model_dump())
        return error.exit_code
    progress.write("ready", seconds=round(time.monotonic() - began, 3), positions=answerer.positions)
    try:
        with os.fdopen(descriptor, "rb") as lines:
            for batch in batches(iter(lines.readline, b""), progress):
                answerer.answer(batch)
    except Interrupted as error:
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
