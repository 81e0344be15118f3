"""The teacher of a run: nothing is started before a request lacks an answer, and nothing is started twice.

`LazyTeacher` is the `Completer` that the pipeline asks. Behind it stands a managed vLLM server, or endpoints.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from data_catalog.errors import ConfigError
from data_catalog.records import Completion, FailureKind, Request, RequestFailure
from flows.fingerprints import teacher_fingerprint
from flows.progress import Reporter
from flows.vllm import SERVED_NAME, VllmServer, has_gpu
from generators.specs import TeacherSpec
from generators.teacher import OpenAITeacher


class LazyTeacher:
    """A `Completer` that starts its server at the first unanswered request; ended as a context manager.

    Between two uses the server is paused on a CPU (its memory stays, the processors are free for training) and ended
    where it would hold a GPU's memory.
    """

    def __init__(self, spec: TeacherSpec, *, home: Path, reporter: Reporter, section: str = "teacher") -> None:
        self.spec = spec
        self.section = section
        """The key of the configuration that describes it, for messages."""
        self.fingerprint = teacher_fingerprint(spec.model, endpoint=spec.base_url is not None, home=home)
        self.failures: list[RequestFailure] = []
        self.answered_before = 0
        """Requests of the same job that were answered earlier; `generators.engine.answer_all` says how many."""
        self.failed_before: Mapping[str, FailureKind] = {}
        """How requests of the same job failed in an earlier run."""
        self._home = home
        self._reporter = reporter
        self._server: VllmServer | None = None
        self._ready = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def prepare(self) -> None:
        """Start the server without waiting for it: it loads while something else is done."""
        if self.spec.base_url is None and self._server is None:
            self._server = VllmServer(self.spec, home=self._home)
            self._ready = False
            self._server.start()

    def wait(self) -> None:
        """Wait until it answers, for who measures the time of the answers alone."""
        self._endpoint()

    def complete(self, requests: Sequence[Request]) -> Iterator[Sequence[Completion]]:
        """Yield the answers in batches; see `data_catalog.completer.Completer`."""
        base_url, model = self._endpoint()
        client = OpenAITeacher(
            self.spec,
            base_url=base_url,
            model=model,
            fingerprint=self.fingerprint,
            api_key=self.api_key(),
            on_note=self._reporter.note,
            section=self.section,
        )
        client.answered_before, client.failed_before = self.answered_before, self.failed_before
        try:
            yield from client.complete(requests)
        finally:
            self.failures.extend(client.failures)

    def rest(self) -> None:
        """Free the processors (or the GPU) for training."""
        if self._server is None:
            return
        if has_gpu():
            self.end()
        elif self._ready:
            self._server.pause()

    def end(self) -> None:
        """End the managed server, if there is one."""
        if self._server is not None:
            self._server.stop()
            self._server = None
            self._ready = False

    def api_key(self) -> str:
        """Return the key from the environment variable that the configuration names."""
        name = self.spec.api_key_env
        if name is None:
            return ""
        if name not in os.environ:
            raise ConfigError(
                f"{self.section}.api_key_env names {name}, which is not set in this shell",
                next_step=f"export {name}=...",
            )
        return os.environ[name]

    def _endpoint(self) -> tuple[str | tuple[str, ...], str]:
        if self.spec.base_url is not None:
            return self.spec.base_url, self.spec.model
        self.prepare()
        assert self._server is not None, "prepare() starts it"
        if not self._ready:
            self._reporter.step_started("teacher", f"vLLM loads {Path(self.spec.model).name}")
            self._server.wait_ready()
            self._ready = True
            self._reporter.step_done("teacher", f"vLLM answers on {self._server.base_url}")
        self._server.resume()
        return self._server.base_url, SERVED_NAME
