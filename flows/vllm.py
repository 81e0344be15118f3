"""A vLLM server of our own: started on loopback, ready after a real answer, paused while others train, always ended."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from data_catalog.errors import MissingDependency, TeacherError
from flows.processes import ManagedProcess
from generators.specs import TeacherSpec

POLL_SECONDS = 0.25
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks without a proxy, whatever the environment says: the server is on loopback."""
SERVED_NAME = "teacher"


def free_port() -> int:
    """Return a TCP port on loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def has_gpu() -> bool:
    """Return whether an NVIDIA device is visible, without importing torch."""
    return Path("/proc/driver/nvidia/gpus").is_dir() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""


class VllmServer:
    """`python -m vllm.entrypoints.openai.api_server` for one model, as a context manager.

    Args:
        spec: the model and how it is served.
        home: the project's home.
        served_name: what its clients call the model.
        log: what the server writes goes there; by default `<home>/logs/vllm.log`. It is begun anew.

    Raises:
        MissingDependency: vLLM is not installed.
        TeacherError: the server ended or did not answer within `spec.vllm.start_timeout`; the message has its log.
    """

    def __init__(
        self, spec: TeacherSpec, *, home: Path, served_name: str = SERVED_NAME, log: Path | None = None
    ) -> None:
        self.spec = spec
        self.port = free_port()
        self.log = log or home / "logs" / "vllm.log"
        self._served_name = served_name
        self._process = ManagedProcess(self._argv(), home=home, log=self.log, env=self._environment())
        self._paused = False

    @property
    def base_url(self) -> str:
        """The OpenAI-compatible endpoint."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process.returncode is None

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server process; returns before it is ready."""
        if importlib.util.find_spec("vllm") is None:
            raise MissingDependency(
                "the teacher is to be served here, but vLLM is not installed",
                next_step="pip install '.[gpu]' on a CUDA machine, `make setup` on a CPU, or set teacher.base_url",
            )
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        self._process.start()

    def stop(self) -> None:
        """End the server and everything it started."""
        self._process.stop()

    def pause(self) -> None:
        """Stop the server's processes without ending them; the next `resume` answers at once."""
        if not self._paused:
            self._process.pause()
            self._paused = True

    def resume(self) -> None:
        """Undo `pause`."""
        if self._paused:
            self._process.resume()
            self._paused = False

    def wait_ready(self, on_wait: Callable[[float], None] | None = None) -> None:
        """Wait for a real one-token answer: `/health` says 200 even when the engine is dead."""
        started = time.monotonic()
        while True:
            if self._process.returncode is not None:
                raise TeacherError(
                    f"vLLM ended with status {self._process.returncode} while it loaded {self.spec.model}:\n"
                    + self._process.log_tail(),
                    next_step=f"the whole log is {self.log}; `tutelage doctor` checks the installation",
                )
            if self._answers():
                return
            waited = time.monotonic() - started
            if waited > self.spec.vllm.start_timeout:
                raise TeacherError(
                    f"vLLM gave no answer within {waited:.0f} s:\n{self._process.log_tail()}",
                    next_step="raise teacher.vllm.start_timeout, or look into the log: " + str(self.log),
                )
            if on_wait is not None:
                on_wait(waited)
            time.sleep(POLL_SECONDS)

    def _answers(self) -> bool:
        body = {"model": self._served_name, "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}
        request = urllib.request.Request(  # noqa: S310 - our own http address on loopback
            f"{self.base_url}/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with _DIRECT.open(request, timeout=60) as response:
                return bool(json.load(response).get("choices"))
        except (urllib.error.URLError, ConnectionError, TimeoutError, json.JSONDecodeError):
            return False  # not there yet; a server that ended is noticed by its exit status

    def _argv(self) -> list[str]:
        argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        argv += ["--model", self.spec.model, "--served-model-name", self._served_name]
        argv += ["--host", "127.0.0.1", "--port", str(self.port)]
        argv += ["--dtype", self.spec.vllm.dtype, "--max-num-seqs", str(self.spec.concurrency)]
        # A line for each request says nothing that the catalogue does not, and the server would wait to write it while
        # the catalogue is synced to the same disk.
        argv += ["--disable-uvicorn-access-log"]
        # A schema alone lets a model write white space until its token limit; the protocol has no field against it.
        argv += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
        if self.spec.vllm.max_model_len is not None:
            argv += ["--max-model-len", str(self.spec.vllm.max_model_len)]
        if not has_gpu():
            argv += ["--enforce-eager"]
        return argv + list(self.spec.vllm.extra_args)

    def _environment(self) -> dict[str, str]:
        environment = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
        if Path(self.spec.model).is_dir():
            environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if not has_gpu():
            environment |= {"VLLM_CPU_KVCACHE_SPACE": str(self.spec.vllm.kv_cache_gib)}
        return environment
