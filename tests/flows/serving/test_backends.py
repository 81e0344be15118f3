"""The two backends without a model: a worker that is a script, and a server that is not vLLM."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import MachineError, TrainingError
from flows.processes import ManagedProcess
from flows.serving.backends import LocalBackend, VllmBackend
from flows.serving.wire import ApiError, answer_text

BODY: dict[str, Any] = {"model": "production", "messages": [{"role": "user", "content": "?"}]}

WORKER = """
import json, os, sys
def say(**event): print(json.dumps(event), flush=True)
if {failure}: say(**{failure}); sys.exit(5)
say(event="ready", seconds=0.1, positions=8)
for line in os.fdopen(int(sys.argv[-1]), "rb"):
    order = json.loads(line)
    text = order["request"]["messages"][-1]["content"]
    if text == "die": os._exit(9)
    if text == "long": say(event="refused", id=order["id"], code="too_long", message="8 tokens"); continue
    if order["stream"]: say(event="text", id=order["id"], text=text)
    if text == "half": os._exit(9)
    say(event="answered", id=order["id"], text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=2)
"""


def scripted(home: Path, failure: Any = None) -> LocalBackend:
    backend = LocalBackend(home, "model-1", home=home)
    argv = [sys.executable, "-S", "-c", WORKER.format(failure=failure)]
    backend._process = ManagedProcess(argv, home=home, log=backend.log, pipe_output=True, take_orders=True)
    return backend


def asking(text: str, **more: Any) -> dict[str, Any]:
    return {**BODY, "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[LocalBackend]:
    backend = scripted(tmp_path)
    backend.start()
    yield backend
    backend.stop()


def test_answers_find_their_way_back_to_who_asked(worker: LocalBackend) -> None:
    found: dict[str, str] = {}

    def ask(text: str) -> None:
        found[text] = answer_text(worker.chat(asking(text)))

    threads = [threading.Thread(target=ask, args=(f"question {n}",)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {f"question {n}": f"question {n}" for n in range(20)}
    assert not worker._waiting, "nothing is kept of what was answered"


def test_a_prompt_that_is_too_long_is_a_400_also_where_a_stream_was_asked_for(worker: LocalBackend) -> None:
    for more in ({}, {"stream": True}):
        with pytest.raises(ApiError) as error:
            worker.chat(asking("long", **more))
        assert (error.value.status, error.value.code) == (400, "context_length_exceeded")
    assert not worker._waiting


def test_a_worker_that_dies_is_told_to_who_waits_and_to_who_asks_next(worker: LocalBackend) -> None:
    events = b"".join(worker.chat(asking("half", stream=True)).body)
    assert b"backend_lost" in events
    assert events.endswith(b"data: [DONE]\n\n")
    with pytest.raises(ApiError) as error:
        worker.chat(asking("?"))
    assert error.value.status == 502
    assert not worker.running


def test_who_waits_for_a_whole_answer_hears_of_the_death_too(worker: LocalBackend) -> None:
    with pytest.raises(ApiError, match="has ended"):
        worker.chat(asking("die"))


def test_what_the_worker_says_of_its_model_is_the_error(tmp_path: Path) -> None:
    failure = {"event": "failed", "error": "TrainingError", "message": "no tokenizer", "valid": "one", "next_step": ""}
    backend = scripted(tmp_path, failure)
    with pytest.raises(TrainingError, match="no tokenizer"):
        backend.start()
    backend.stop()


def test_a_worker_that_ends_without_a_word_is_an_error_with_its_log(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path, "model-1", home=tmp_path)
    argv = [sys.executable, "-c", "import sys; sys.exit('no such library')"]
    backend._process = ManagedProcess(argv, home=tmp_path, log=backend.log, pipe_output=True, take_orders=True)
    with pytest.raises(MachineError, match="no such library"):
        backend.start()
    backend.stop()


class _NotVllm(BaseHTTPRequestHandler):
    """Remembers what it was asked and answers with events, an error, or half an answer."""

    seen: list[dict[str, Any]] = []  # noqa: RUF012 - one server at a time

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(body)
        text = body["messages"][-1]["content"]
        data = {"long": b'{"error": {"message": "too long"}}', "half": b"data: 1\n\n"}.get(
            text, b"data: 1\n\ndata: 2\n\n"
        )
        self.send_response(400 if text == "long" else 200)
        self.send_header("Content-Type", "application/json" if text == "long" else "text/event-stream")
        self.send_header("Content-Length", str(len(data) + (50 if text == "half" else 0)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def vllm(tmp_path: Path) -> Iterator[VllmBackend]:
    _NotVllm.seen.clear()
    backend = VllmBackend(tmp_path, "model-1", home=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), _NotVllm) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        backend._server.port = server.server_address[1]
        yield backend
        server.shutdown()
        thread.join()


def test_vllm_gets_the_versions_name_and_our_defaults_and_its_answer_comes_back_as_it_is(vllm: VllmBackend) -> None:
    reply = vllm.chat(asking("?", stream=True, logprobs=True, temperature=None))
    assert (reply.status, reply.content_type) == (200, "text/event-stream")
    assert b"".join(reply.body) == b"data: 1\n\ndata: 2\n\n"
    (seen,) = _NotVllm.seen
    assert seen == {
        **asking("?", stream=True, logprobs=True),
        "model": "model-1",
        "temperature": 0.0,
        "max_tokens": 512,
    }
    vllm.chat(asking("?", max_completion_tokens=3, temperature=0.7))
    assert "max_tokens" not in _NotVllm.seen[-1]
    assert _NotVllm.seen[-1]["temperature"] == 0.7


def test_vllms_own_refusals_are_handed_on(vllm: VllmBackend) -> None:
    reply = vllm.chat(asking("long"))
    assert reply.status == 400
    assert b"too long" in b"".join(reply.body)


def test_an_answer_that_vllm_breaks_off_and_a_server_that_is_gone_are_errors(vllm: VllmBackend, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="broke off"):
        b"".join(vllm.chat(asking("half")).body)
    gone = VllmBackend(tmp_path, "model-1", home=tmp_path)
    with pytest.raises(ApiError, match="does not answer"):
        gone.chat(asking("?"))


def test_vllm_is_not_given_a_base_with_an_adapter_beside_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "tutelage_adapted", "method": {"name": "prefix_tuning"}})
    )
    with pytest.raises(MachineError, match="prefix_tuning beside its base, which vLLM can't load") as error:
        VllmBackend(tmp_path, "model-1", home=tmp_path).start()
    assert "--backend local" in error.value.next_step
