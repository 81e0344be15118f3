"""Following a stage: the new version is loaded beside the old one, asked the canary set, and only then answers.

States of a version that is served:

    loading ─ canary right ─► active ─ a newer one is active ─► draining ─ nothing in flight ─► ended
       └─ can't be loaded, altered, canary wrong ─► refused: the old one stays active

Two versions are in memory at most: while one drains, no other is loaded.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data_catalog.errors import CatalogueError, MachineError, RegistryError, TutelageError
from flows.serving.backends import Backend
from flows.serving.canary import CanaryResult
from flows.serving.wire import ApiError

POLL_SECONDS = 1.0
DRAIN_SECONDS = 600.0
"""How long requests of a replaced version may go on before it is ended all the same."""
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class Pointer:
    """What a stage points to, and the entry of the registry's log that says so."""

    version: str
    entry: int


class FollowedStage(Protocol):
    """The stage as its server sees it."""

    name: str

    def pointer(self) -> Pointer | None:
        """Return what the stage points to; None where nothing can be read at the moment."""

    def open(self, version: str) -> Path:
        """Return the directory of a version whose bytes have been verified."""

    def note(self, version: str, *, switched: bool, details: dict[str, Any]) -> None:
        """Write down what was done with a version."""


@dataclass
class Replica:
    """A version that is loaded."""

    version: str
    backend: Backend
    in_flight: int = 0


@dataclass(frozen=True)
class Refused:
    """The version that the stage points to and that is not served, and why."""

    version: str
    entry: int
    reason: str


@dataclass
class _Restarts:
    """When to start an ended backend again."""

    tries: int = 0
    not_before: float = 0.0

    def failed(self) -> float:
        """Note a failure; return the pause in seconds."""
        self.tries += 1
        pause = min(_LONGEST_PAUSE, 2.0**self.tries)
        self.not_before = time.monotonic() + pause
        return pause


@dataclass
class Follower:
    """Keeps a backend running for whatever the stage points to.

    One thread calls `open_first`, `tick` and `close`; any number of others take a `lease` on the active version.

    Args:
        stage: what is followed.
        load: makes a backend for a version and its directory; it is started here.
        check: asks a loaded backend the canary set.
        say: is told what happens, a line at a time.
        drain_seconds: how long a replaced version may finish what it has begun.
    """

    stage: FollowedStage
    load: Callable[[str, Path], Backend]
    check: Callable[[str, Backend], CanaryResult]
    say: Callable[[str], None]
    drain_seconds: float = DRAIN_SECONDS
    active: Replica | None = None
    draining: Replica | None = None
    loading: str | None = None
    refused: Refused | None = None
    _drain_until: float = 0.0
    _candidate: Backend | None = None
    _lost: str | None = None
    """The version that was active until its process ended."""
    _restarts: _Restarts = field(default_factory=_Restarts)
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # What requests need -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lease(self) -> Iterator[Replica]:
        """Yield the active version and keep it loaded until the block ends.

        Raises:
            ApiError: none is active.
        """
        with self._lock:
            replica = self.active
            if replica is None or self._closed:
                what = "the server is stopping" if self._closed else f"no version of {self.stage.name} is loaded yet"
                raise ApiError(503, f"{what}; ask again in a moment", code="not_ready")
            replica.in_flight += 1
        try:
            yield replica
        finally:
            with self._lock:
                replica.in_flight -= 1

    @property
    def in_flight(self) -> int:
        """Requests that are being answered."""
        with self._lock:
            return sum(replica.in_flight for replica in (self.active, self.draining) if replica is not None)

    # What the following thread does -------------------------------------------------------------------------------

    def open_first(self) -> None:
        """Load what the stage points to now.

        Raises:
            TutelageError: it can't be loaded or did not pass the canary set; there is no older one to stay with.
        """
        pointer = self.stage.pointer()
        if pointer is None:
            raise RegistryError(
                f"no model in stage `{self.stage.name}`",
                valid="a stage that was promoted to",
                next_step="list what there is (tutelage models), then: tutelage promote VERSION --to STAGE",
            )
        error = self._try(pointer)
        if error is not None:
            raise error

    def tick(self) -> None:
        """Look once: end what has drained, start again what has ended, take on what the stage points to now."""
        self._drain()
        self._restart()
        if self.draining is not None:
            return
        pointer = self.stage.pointer()
        if pointer is None or (self.refused is not None and self.refused.entry == pointer.entry):
            return
        if pointer.version == self._lost:
            return  # `_restart` goes on with it, after growing pauses
        if self.active is None or pointer.version != self.active.version:
            self._try(pointer)
        elif self.refused is not None:
            self.say(f"{self.stage.name} points to {pointer.version} again, which is the version that answers")
            self.refused = None

    def close(self, grace: float) -> None:
        """Take no more requests, give those in flight `grace` seconds, and end every backend."""
        with self._lock:
            self._closed = True
        deadline = time.monotonic() + grace
        while self.in_flight and time.monotonic() < deadline:
            time.sleep(0.02)
        for replica in (self.active, self.draining):
            if replica is not None:
                replica.backend.stop()
        if self._candidate is not None:
            self._candidate.stop()

    def _try(self, pointer: Pointer) -> TutelageError | None:
        """Load a version, ask the canary set, switch; return why not, where the old one stays."""
        began = time.monotonic()
        self.say(f"{pointer.version} (entry {pointer.entry} of the log) is loaded for {self.stage.name}")
        self.loading = pointer.version
        try:
            directory = self.stage.open(pointer.version)
            backend = self._candidate = self.load(pointer.version, directory)
            backend.start()
            result = self.check(pointer.version, backend)
            if not result.passed:
                raise RegistryError(
                    f"{pointer.version} failed the canary set: {result.sentence}",
                    valid=f"{result.required:.0%} right",
                    next_step=f"tutelage rollback {self.stage.name}, or promote another version",
                )
        except TutelageError as error:
            self._end_candidate()
            self._refuse(pointer, error)
            return error
        except BaseException:
            self._end_candidate()
            raise
        finally:
            self.loading = None
        self._switch(pointer, backend, result, time.monotonic() - began)
        return None

    def _end_candidate(self) -> None:
        if self._candidate is not None:
            self._candidate.stop()
            self._candidate = None

    def _switch(self, pointer: Pointer, backend: Backend, result: CanaryResult, seconds: float) -> None:
        with self._lock:
            old, self.active, self._candidate = self.active, Replica(pointer.version, backend), None
            self.draining, self._drain_until = old, time.monotonic() + self.drain_seconds
        self.refused, self._lost, self._restarts = None, None, _Restarts()
        after = f" instead of {old.version}" if old else ""
        self.say(f"{pointer.version} answers for {self.stage.name}{after}: {result.sentence}, {seconds:.0f} s")
        details = {"entry": pointer.entry, "canary": {"asked": result.asked, "right": result.right}}
        self._note(pointer.version, switched=True, details={**details, "replaced": old.version if old else None})

    def _refuse(self, pointer: Pointer, error: TutelageError) -> None:
        kept = self.active.version if self.active else None
        self.refused = Refused(pointer.version, pointer.entry, error.message)
        if kept is not None:
            self.say(f"✗ {error}\n  {kept} goes on answering for {self.stage.name}")
        self._note(
            pointer.version,
            switched=False,
            details={"entry": pointer.entry, "reason": error.message, "kept": kept},
        )

    def _note(self, version: str, *, switched: bool, details: dict[str, Any]) -> None:
        try:
            self.stage.note(version, switched=switched, details=details)
        except (CatalogueError, MachineError) as error:
            # Answering matters more than the note: a run may hold the catalogue, the disk may be full.
            self.say(f"the registry's log has no entry of this: {error.message}")

    def _drain(self) -> None:
        old = self.draining
        if old is None:
            return
        late = time.monotonic() > self._drain_until
        with self._lock:
            left = old.in_flight
        if left and not late:
            return
        why = f"{left} requests cut off after {self.drain_seconds:.0f} s" if left else "nothing in flight"
        self.say(f"{old.version} is ended: {why}")
        old.backend.stop()
        self.draining = None

    def _restart(self) -> None:
        """Load the active version again where its process has ended."""
        lost = self.active
        if lost is not None and not lost.backend.running:
            self.say(f"✗ the process of {lost.version} has ended; it is started again")
            lost.backend.stop()
            with self._lock:
                self.active = None
            self._lost = lost.version
        elif lost is not None or self._lost is None or time.monotonic() < self._restarts.not_before:
            return
        version = self._lost
        try:
            backend = self._candidate = self.load(version, self.stage.open(version))
            backend.start()
        except TutelageError as error:
            self._end_candidate()
            self.say(f"✗ {error}\n  next try in {self._restarts.failed():.0f} s")
            return
        with self._lock:
            self.active, self._candidate = Replica(version, backend), None
        self._lost, self._restarts = None, _Restarts()
        self.say(f"{version} answers again")
