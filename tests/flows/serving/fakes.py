"""A backend without a model and a stage without a registry: what happens when, decided by the test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_catalog.errors import MachineError, RegistryError
from data_catalog.records import Message
from flows.serving.canary import CanaryResult, CanarySet, Probe, ask
from flows.serving.follower import Follower, Pointer
from flows.serving.wire import ApiError, Final, Reply, chat_body, streamed_reply, whole_reply

QUESTION = "What colour is the rotor?"


class FakeBackend:
    """Answers each question with its version, unless the test lets it hang, fail or die."""

    def __init__(self, version: str, *, answer: str = "red", start_error: str = "") -> None:
        self.version = version
        self.answer = answer
        self.start_error = start_error
        self.started = self.stopped = False
        self.go = threading.Event()
        self.go.set()
        self.asked = threading.Event()
        self.broken = False
        self.running = False

    def start(self) -> None:
        self.started = True
        if self.start_error:
            raise MachineError(self.start_error)
        self.running = True

    def chat(self, body: Mapping[str, Any]) -> Reply:
        asked = chat_body(body)
        self.asked.set()
        if not self.running or self.broken:
            raise ApiError(502, "gone", code="backend_lost")
        if asked.stream:
            usage = asked.stream_options is not None and asked.stream_options.include_usage
            return streamed_reply(self.version, self._pieces(), with_usage=usage)
        self.go.wait(10)
        return whole_reply(self.version, self._final())

    def _pieces(self) -> Iterator[str | Final]:
        for word in self.answer.split(" "):
            yield word
            self.go.wait(10)
            if self.broken:
                raise ApiError(502, "gone", code="backend_lost")
        yield self._final()

    def _final(self) -> Final:
        return Final(self.answer, "stop", 7, len(self.answer.split()))

    def stop(self) -> None:
        self.stopped, self.running = True, False


class FakeStage:
    """A stage that the test moves."""

    name = "production"

    def __init__(self, version: str) -> None:
        self.current: Pointer | None = Pointer(version, 1)
        self.altered: set[str] = set()
        self.notes: list[tuple[str, bool, dict[str, Any]]] = []
        self.note_error: Exception | None = None

    def move(self, version: str) -> None:
        assert self.current is not None
        self.current = Pointer(version, self.current.entry + 1)

    def pointer(self) -> Pointer | None:
        return self.current

    def open(self, version: str) -> Path:
        if version in self.altered:
            raise RegistryError(f"{version} is not what was registered")
        return Path("models") / version

    def note(self, version: str, *, switched: bool, details: dict[str, Any]) -> None:
        if self.note_error is not None:
            raise self.note_error
        self.notes.append((version, switched, details))


class World:
    """A follower with fakes on both sides; `backends` are those that it loaded, by version."""

    def __init__(self, version: str = "model-1", *, drain_seconds: float = 60.0) -> None:
        self.stage = FakeStage(version)
        self.made: Callable[[str], FakeBackend] = FakeBackend
        self.backends: dict[str, FakeBackend] = {}
        self.said: list[str] = []
        self.follower = Follower(self.stage, self._load, check, self.said.append, drain_seconds)

    def _load(self, version: str, directory: Path) -> FakeBackend:
        assert directory == Path("models") / version
        self.backends[version] = self.made(version)
        return self.backends[version]

    def stopped(self, version: str) -> bool:
        return self.backends[version].stopped

    @property
    def active(self) -> str | None:
        return self.follower.active.version if self.follower.active else None


def check(version: str, backend: Any) -> CanaryResult:
    """Ask for the colour of the rotor, which is red."""
    probe = Probe((Message(role="user", content=QUESTION),), ("red",))
    return ask(backend, CanarySet((probe,), "the test"))
