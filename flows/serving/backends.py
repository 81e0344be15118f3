"""What answers behind the endpoint: one loaded model version, as local weights or as a vLLM server."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import itertools
import json
import queue
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from data_catalog import errors
from data_catalog.errors import MachineError, MissingDependency, TeacherError, TrainingError, TutelageError
from flows.processes import ManagedProcess
from flows.serving.wire import (
    ApiError,
    Final,
    Reply,
    chat_body,
    streamed_reply,
    whole_reply,
    with_defaults,
)
from flows.vllm import VllmServer, has_gpu
from generators.specs import TeacherSpec, VllmSpec
from training.compatibility import ADAPTED_TYPE
from training.environment import worker_environment

START_SECONDS = 600.0
"""How long a model may take to load."""
ANSWER_SECONDS = 600.0
"""How long the next piece of an answer may take."""
SHARE_OF_GPU = 0.45
"""Of a GPU's memory that one vLLM server takes: during a switch there are two."""
_Event = Mapping[str, Any]


class Backend(Protocol):
    """One model version that answers. `chat` may be called from several threads at once."""

    def start(self) -> None:
        """Load; return when it answers, or raise a TutelageError."""

    @property
    def running(self) -> bool:
        """Whether its process is there."""

    def chat(self, body: Mapping[str, Any]) -> Reply:
        """Answer a chat completion; raise ApiError where it can't."""

    def stop(self) -> None:
        """End it and everything it started."""


class LocalBackend:
    """Local weights in a process of their own (`training.answering`), which batches what waits."""

    def __init__(self, model: Path, version: str, *, home: Path) -> None:
        self._version = version
        argv = [sys.executable, "-m", "training.answering", str(model), version]
        self.log = home / "logs" / f"serve-{version}.log"
        self._process = ManagedProcess(
            argv, home=home, log=self.log, env=worker_environment(), pipe_output=True, take_orders=True
        )
        self._numbers = itertools.count(1)
        self._sending = threading.Lock()
        self._waiting: dict[int, queue.Queue[_Event | None]] = {}
        self._loaded: queue.Queue[_Event | None] = queue.Queue()
        self._ended = threading.Event()

    def start(self) -> None:
        """Start the process and wait until the weights are loaded.

        Raises:
            TutelageError: what the process said, or that it ended or did not get ready in time.
        """
        self._process.start()
        threading.Thread(target=self._listen, daemon=True, name=f"listen-{self._version}").start()
        try:
            event = self._loaded.get(timeout=START_SECONDS)
        except queue.Empty:
            raise MachineError(
                f"{self._version} was not loaded within {START_SECONDS:.0f} s:\n{self._process.log_tail()}",
                next_step=f"look into {self.log}",
            ) from None
        if event is None:
            raise MachineError(
                f"the process that loads {self._version} ended:\n{self._process.log_tail()}",
                next_step=f"look into {self.log}; `tutelage doctor` checks the installation",
            )
        if event["event"] == "failed":
            kind = getattr(errors, event["error"], TrainingError)
            failure: TutelageError = kind(event["message"], valid=event["valid"], next_step=event["next_step"])
            raise failure

    @property
    def running(self) -> bool:
        """Whether the process is there and listened to."""
        return not self._ended.is_set() and self._process.returncode is None

    def chat(self, body: Mapping[str, Any]) -> Reply:
        """Answer with the process's next batch."""
        asked = chat_body(body)
        number, events = next(self._numbers), queue.Queue[_Event | None]()
        order = {"id": number, "stream": bool(asked.stream), "request": asked.request(self._version).model_dump()}
        self._waiting[number] = events
        pieces = self._pieces(number, events)
        try:
            self._send(json.dumps(order))
            # The first piece is waited for: a refusal must become a status, which a stream that has begun has sent.
            first = next(pieces)
        except BaseException:
            self._waiting.pop(number, None)
            raise
        if asked.stream:
            usage = asked.stream_options is not None and asked.stream_options.include_usage
            return streamed_reply(self._version, itertools.chain([first], pieces), with_usage=usage)
        final = first if isinstance(first, Final) else next(piece for piece in pieces if isinstance(piece, Final))
        return whole_reply(self._version, final)

    def stop(self) -> None:
        """End the process; who still waits gets an error."""
        self._process.stop()

    def _send(self, line: str) -> None:
        if not self.running:
            raise self._lost()
        try:
            with self._sending:  # lines of several threads must not mix
                self._process.send(line)
        except (MachineError, ValueError, OSError) as error:
            raise self._lost() from error

    def _pieces(self, number: int, events: queue.Queue[_Event | None]) -> Iterator[str | Final]:
        try:
            while True:
                try:
                    event = events.get(timeout=ANSWER_SECONDS)
                except queue.Empty:
                    raise ApiError(504, f"no answer within {ANSWER_SECONDS:.0f} s", code="timeout") from None
                if event is None:
                    raise self._lost()
                if event["event"] == "text":
                    yield str(event["text"])
                elif event["event"] == "refused":
                    code = "context_length_exceeded" if event["code"] == "too_long" else "unusable_messages"
                    raise ApiError(400, event["message"], code=code, param="messages")
                else:
                    yield _final(event)
                    return
        finally:
            self._waiting.pop(number, None)

    def _lost(self) -> ApiError:
        return ApiError(502, f"the process that answers for {self._version} has ended; ask again", code="backend_lost")

    def _listen(self) -> None:
        """Hand on what the process says until it ends."""
        try:
            for line in self._process.lines():
                self._hear(line)
        except ValueError:
            pass  # `stop` closed the pipe under us: the end, as below
        self._ended.set()
        self._loaded.put(None)
        for events in list(self._waiting.values()):
            events.put(None)

    def _hear(self, line: str) -> None:
        event = json.loads(line)
        if event["event"] in ("ready", "failed"):
            self._loaded.put(event)
        elif (events := self._waiting.get(event.get("id"))) is not None:
            events.put(event)


def _final(event: _Event) -> Final:
    return Final(event["text"], event["finish_reason"], event["prompt_tokens"], event["completion_tokens"])


class VllmBackend:
    """A vLLM server on loopback; its answers are handed on as they come."""

    def __init__(self, model: Path, version: str, *, home: Path, extra_args: tuple[str, ...] = ()) -> None:
        self._model = model
        self._version = version
        if has_gpu() and "--gpu-memory-utilization" not in extra_args:
            extra_args = (*extra_args, "--gpu-memory-utilization", str(SHARE_OF_GPU))
        spec = TeacherSpec(model=str(model), vllm=VllmSpec(extra_args=extra_args))
        log = home / "logs" / f"serve-{version}.log"
        self._server = VllmServer(spec, home=home, served_name=version, log=log)

    def start(self) -> None:
        """Start the server and wait for its first answer.

        Raises:
            MissingDependency: vLLM is not installed.
            MachineError: vLLM can't serve this model, or did not start.
        """
        _refuse_adapted(self._model, self._version)
        if importlib.util.find_spec("vllm") is None:
            raise MissingDependency(
                "--backend vllm: vLLM is not installed",
                next_step="pip install '.[gpu]' on a CUDA machine, `make setup` on a CPU, or use --backend local",
            )
        try:
            self._server.start()
            self._server.wait_ready()
        except TeacherError as error:
            raise MachineError(
                error.message, next_step=f"the whole log is {self._server.log}; or use --backend local"
            ) from error

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._server.running

    def chat(self, body: Mapping[str, Any]) -> Reply:
        """Hand the request to the server and its answer back, byte for byte."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=ANSWER_SECONDS)
        data = json.dumps(with_defaults(body, self._version)).encode()
        try:
            connection.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json"})
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ApiError(502, f"vLLM does not answer: {error}", code="backend_lost") from error
        kind = response.getheader("Content-Type", "application/json")
        return Reply(response.status, kind, _relayed(connection, response))

    def stop(self) -> None:
        """End the server."""
        self._server.stop()


def _relayed(connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> Iterator[bytes]:
    with contextlib.closing(connection):
        try:
            while data := response.read1(65_536):
                yield data
            if response.length:  # what is still missing of a Content-Length; `read1` says nothing of it
                raise http.client.IncompleteRead(b"", response.length)
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(502, f"vLLM broke off: {error}", code="backend_lost") from error


def _refuse_adapted(model: Path, version: str) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") == ADAPTED_TYPE:
        raise MachineError(
            f"{version} keeps a {config['method']['name']} beside its base, which vLLM can't load",
            valid="a model whose method merges (full, lora, qlora, ia3)",
            next_step="serve it with --backend local",
        )
