"""`tutelage serve-model`: the parts put together, from the registry's stage to the port, until a signal ends it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_catalog.catalogue import Catalogue
from data_catalog.errors import CatalogueBusy, ConfigError, Interrupted
from data_catalog.records import Stage
from data_catalog.registry import Registry
from flows.promotion import actor
from flows.serving.backends import Backend, LocalBackend, VllmBackend
from flows.serving.canary import (
    REQUIRED_SHARE,
    SAMPLES,
    CanaryResult,
    CanarySet,
    ask,
    canary_from_file,
    canary_from_gate,
)
from flows.serving.endpoint import Endpoint
from flows.serving.follower import DRAIN_SECONDS, POLL_SECONDS, Follower, Pointer
from flows.signals import interruptible

BackendName = Literal["local", "vllm"]
STOP_GRACE = 20.0
"""Seconds that requests in flight get when the server is ended."""


@dataclass(frozen=True)
class ServeOptions:
    """What the command line says."""

    stage: Stage = Stage.PRODUCTION
    backend: BackendName = "local"
    host: str = "127.0.0.1"
    port: int = 8000
    canary: Path | None = None
    canary_samples: int = SAMPLES
    canary_share: float = REQUIRED_SHARE
    drain_seconds: float = DRAIN_SECONDS
    api_key_env: str | None = None
    vllm_args: tuple[str, ...] = ()

    def api_key(self) -> str:
        """Return the key that clients must send; empty where none is demanded.

        Raises:
            ConfigError: the variable is not set.
        """
        if self.api_key_env is None:
            return ""
        key = os.environ.get(self.api_key_env, "")
        if not key:
            raise ConfigError(
                f"--api-key-env names {self.api_key_env}, which is not set in this shell",
                next_step=f"export {self.api_key_env}=...",
            )
        return key


class RegistryStage:
    """The stage as the registry keeps it. Looks at the pointer file each time, at the log only when that has changed.

    The log is the truth: a pointer file that says something else is written anew, not followed. Raises RegistryError
    for a stage that is empty.
    """

    def __init__(self, home: Path, stage: Stage, *, backend: str) -> None:
        self.name = stage.value
        self._home = home
        self._stage = stage
        self._backend = backend
        self._catalogue = Catalogue(home)
        self._registry = Registry(self._catalogue)
        self._registry.resolve(stage)
        self._file = self._catalogue.models_dir / f"{stage.value}.json"
        self._seen: tuple[int, int, int] | None = None
        self._pointer: Pointer | None = None

    def pointer(self) -> Pointer | None:
        """Return what the stage points to; while the catalogue is busy, what it pointed to before."""
        seen = self._look()
        if self._pointer is not None and seen is not None and seen == self._seen:
            return self._pointer
        try:
            self._registry.stages()  # writes pointer files anew that the log does not bear out
            found = self._registry.pointer(self._stage)
        except CatalogueBusy:
            return self._pointer
        self._seen = self._look()
        self._pointer = None if found is None else Pointer(found.model_id, found.seq)
        return self._pointer

    def open(self, version: str) -> Path:
        """Return the directory of a version, its bytes verified.

        Raises:
            RegistryError: they are not what was registered.
        """
        return self._home / self._registry.verify(version).path

    def note(self, version: str, *, switched: bool, details: dict[str, Any]) -> None:
        """Append what was done to the registry's log."""
        self._registry.note_serving(
            version, self._stage, switched=switched, actor=actor(), details={"backend": self._backend, **details}
        )

    def canary(self, version: str, samples: int) -> CanarySet:
        """Return the canary set that the version's own gate left."""
        return canary_from_gate(self._catalogue, self._registry.resolve(version), samples)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            stat = self._file.stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def serve_model(home: Path, options: ServeOptions, *, say: Callable[[str], None]) -> None:
    """Serve a stage until SIGINT or SIGTERM; then finish what is in flight and end every process.

    Raises:
        RegistryError: the stage is empty, or its version is altered or fails the canary set, and none is served yet.
        MachineError: the port is taken, or the backend can't be started.
        ConfigError: the key's variable is not set.
        DataError: the canary file can't be used.
    """
    key = options.api_key()
    given = None if options.canary is None else canary_from_file(options.canary, options.canary_samples)
    stage = RegistryStage(home, options.stage, backend=options.backend)

    def check(version: str, backend: Backend) -> CanaryResult:
        return ask(backend, given or stage.canary(version, options.canary_samples), options.canary_share)

    follower = Follower(stage, _loader(home, options), check, say, options.drain_seconds)
    with contextlib.suppress(Interrupted), interruptible("tutelage serve-model"), contextlib.ExitStack() as stack:
        endpoint = Endpoint(follower, host=options.host, port=options.port, api_key=key)
        # Entered before the endpoint runs, so closed after it has stopped listening.
        stack.callback(follower.close, STOP_GRACE)
        url = stack.enter_context(endpoint.running())
        say(f"{url}/v1 answers once {options.stage} is loaded ({options.backend})")
        follower.open_first()
        say(f"ready: {url}/v1, model `{options.stage}`; Ctrl-C ends it")
        while True:
            time.sleep(POLL_SECONDS)
            follower.tick()


def _loader(home: Path, options: ServeOptions) -> Callable[[str, Path], Backend]:
    if options.backend == "vllm":
        return lambda version, model: VllmBackend(model, version, home=home, extra_args=options.vllm_args)
    return lambda version, model: LocalBackend(model, version, home=home)
