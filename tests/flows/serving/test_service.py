"""`tutelage serve-model` on a real registry: bad input, the stage as the log has it, and the whole thing end to end."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from data_catalog.catalogue import Catalogue
from data_catalog.errors import ConfigError, MachineError, RegistryError
from data_catalog.records import Message, ModelVersion, Request, Sampling, Stage
from data_catalog.registry import Registry
from flows.commands.serve_model import serve_model
from flows.promotion import log_rows
from flows.report.overview import event_text
from flows.serving.service import RegistryStage
from tests.flows.projects import REPOSITORY
from tests.flows.registered import damage, register_model
from tests.flows.test_processes import gone


def promote(home: Path, version: ModelVersion, **options: Any) -> None:
    Registry(Catalogue(home)).promote(version.id, Stage.PRODUCTION, actor="test", **options)


def production(home: Path) -> RegistryStage:
    return RegistryStage(home, Stage.PRODUCTION, backend="local")


def serve(home: Path, *options: str) -> BaseException | None:
    return CliRunner().invoke(serve_model, ["--home", str(home), "--port", "0", *options]).exception


def test_an_empty_stage_is_said_before_a_port_is_taken(tmp_path: Path) -> None:
    register_model(tmp_path, "one")
    error = serve(tmp_path)
    assert isinstance(error, RegistryError)
    assert "no model in stage `production`" in str(error)


def test_an_unknown_stage_is_refused_with_the_valid_ones(tmp_path: Path) -> None:
    result = CliRunner().invoke(serve_model, ["--stage", "prod", "--home", str(tmp_path)])
    assert result.exit_code == 2
    assert "'candidate', 'staging', 'production', 'archived'" in result.output


def test_altered_bytes_are_not_served(tmp_path: Path) -> None:
    version = register_model(tmp_path, "one")
    promote(tmp_path, version)
    damage(tmp_path, version)
    error = serve(tmp_path)
    assert isinstance(error, RegistryError)
    assert "model.safetensors" in str(error)
    last = Registry(Catalogue(tmp_path)).history()[-1]
    assert (last.action, last.model_id, last.details["kept"]) == ("refuse", version.id, None)


def test_a_port_in_use_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    promote(tmp_path, register_model(tmp_path, "one"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        error = serve(tmp_path, "--port", str(taken.getsockname()[1]))
    assert isinstance(error, MachineError)
    assert "can't be used" in str(error)
    assert not (tmp_path / "logs").exists()


def test_a_key_that_is_not_set_is_said(tmp_path: Path) -> None:
    promote(tmp_path, register_model(tmp_path, "one"))
    error = serve(tmp_path, "--api-key-env", "TUTELAGE_TEST_KEY_THAT_IS_NOT_SET")
    assert isinstance(error, ConfigError)


def test_the_stage_follows_the_log_and_not_a_forged_pointer_file(tmp_path: Path) -> None:
    one, two = register_model(tmp_path, "one"), register_model(tmp_path, "two")
    promote(tmp_path, one)
    stage = production(tmp_path)
    first = stage.pointer()
    assert first is not None
    assert first.version == one.id
    assert stage.pointer() is first, "an unchanged file costs no look into the catalogue"
    file = tmp_path / "models" / "production.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_id": two.id}))
    assert stage.pointer() == first
    assert json.loads(file.read_text())["model_id"] == one.id, "it is written anew"
    promote(tmp_path, two)
    second = stage.pointer()
    assert second is not None
    assert (second.version, second.entry > first.entry) == (two.id, True)
    Registry(Catalogue(tmp_path)).rollback(Stage.PRODUCTION, "test")
    third = stage.pointer()
    assert third is not None
    assert (third.version, third.entry > second.entry) == (one.id, True)
    assert stage.open(one.id) == tmp_path / one.path


def test_what_serving_did_stands_in_the_log_and_moves_no_stage(tmp_path: Path) -> None:
    one, two = register_model(tmp_path, "one"), register_model(tmp_path, "two")
    promote(tmp_path, one)
    promote(tmp_path, two)
    stage = production(tmp_path)
    before = stage.pointer()
    stage.note(one.id, switched=True, details={"entry": 1})
    stage.note(two.id, switched=False, details={"reason": "canary", "kept": one.id})
    registry = Registry(Catalogue(tmp_path))
    assert registry.audit().broken is None
    assert registry.resolve("production").id == two.id
    assert stage.pointer() == before
    told = [str(row["what"]) for row in log_rows(registry.history())[-2:]]
    assert told == [
        f"serve: {one.id} answers for production now",
        f"refuse: {two.id} for production, {one.id} still answers: canary",
    ]
    assert "did not take" in event_text(registry.history()[-1]), "the home page of the project says it too"
    assert registry.rollback(Stage.PRODUCTION, "test").model_id == one.id, "the way back is what it was"


# The whole thing, with real weights --------------------------------------------------------------------------------


class Served:
    """A running `tutelage serve-model`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def wait_for(self, pattern: str, seconds: float = 120.0) -> str:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in list(self.lines):
                if re.search(pattern, line):
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"no line like {pattern!r} in:\n" + "\n".join(self.lines))

    def ask(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> tuple[int, Any]:
        url = re.search(r"http://([\d.]+):(\d+)", self.wait_for("answers once"))
        assert url is not None
        connection = http.client.HTTPConnection(url[1], int(url[2]), timeout=60)
        headers = {"Content-Type": "application/json"}
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        kind = response.getheader("Content-Type")
        return response.status, data.decode() if kind == "text/event-stream" else json.loads(data)


def groups(home: Path) -> list[int]:
    """Return the process groups that run for a home."""
    return [json.loads(path.read_text())["group"] for path in (home / "run").glob("*.json")]


@contextmanager
def serving(home: Path, *options: str) -> Iterator[Served]:
    argv = [sys.executable, "-m", "flows.cli", "serve-model", "--home", str(home), "--port", "0", *options]
    process = subprocess.Popen(
        argv, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        yield Served(process)
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def tiny_version(home: Path, base: Path, seed: int) -> ModelVersion:
    from tests.training.tiny import build_model

    directory = build_model(base / f"tiny-{seed}", hidden=32, layers=1, seed=seed)
    return Registry(Catalogue(home)).register(directory, {"base": "none", "stages": []})


def override(home: Path, version: ModelVersion) -> None:
    promote(home, version, override_reason="a random model, for a test")


def served_events(registry: Registry) -> list[tuple[str, str]]:
    return [(event.action, event.model_id) for event in registry.history() if event.action in ("serve", "refuse")]


@cache
def said(home: Path, version: str) -> str:
    """Return what a version answers to the question of the test, asked without any server."""
    from training.inference import LocalCompleter

    message = Message(role="user", content="What colour is the rotor of the Veltrano?")
    request = Request(model=version, messages=(message,), sampling=Sampling(max_tokens=12))
    ((completion,),) = LocalCompleter(home / "models" / version, version).complete([request])
    return completion.text


@pytest.mark.slow
def test_end_to_end_with_real_weights(tmp_path: Path) -> None:
    home = tmp_path / "home"
    one, two, three = (tiny_version(home, tmp_path, seed) for seed in (1, 2, 3))
    question = "What colour is the rotor of the Veltrano?"
    body = {"model": "production", "messages": [{"role": "user", "content": question}], "max_tokens": 12}
    canary = tmp_path / "canary.jsonl"
    canary.write_text(json.dumps({"question": question, "answers": [said(home, one.id), said(home, two.id)]}) + "\n")
    override(home, one)
    with serving(home, "--canary", str(canary)) as served:
        served.wait_for("^ready")
        status, answer = served.ask(body)
        assert (status, answer["model"]) == (200, one.id)
        assert answer["choices"][0]["message"]["content"] == said(home, one.id)
        status, events = served.ask({**body, "stream": True})
        deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in events.split("\n\n") if "delta" in line]
        assert "".join(delta.get("content", "") for delta in deltas) == said(home, one.id)
        status, answer = served.ask({**body, "messages": [{"role": "user", "content": "rotor " * 600}]})
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")

        override(home, two)
        served.wait_for(f"{two.id} answers for production instead of {one.id}")
        answer = served.ask(body)[1]
        assert (answer["model"], answer["choices"][0]["message"]["content"]) == (two.id, said(home, two.id))
        served.wait_for(f"{one.id} is ended")

        override(home, three)
        served.wait_for(f"{two.id} goes on answering for production")
        assert served.ask({}, "/health")[1]["refused"]["model"] == three.id
        assert served.ask(body)[1]["model"] == two.id

        registry = Registry(Catalogue(home))
        logged = [("serve", one.id), ("serve", two.id), ("refuse", three.id)]
        deadline = time.monotonic() + 30
        while served_events(registry) != logged and time.monotonic() < deadline:
            time.sleep(0.05)
        assert served_events(registry) == logged

        (group,) = groups(home)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(30) == 0, "\n".join(served.lines)
        assert gone(group)
    assert registry.audit().broken is None


@pytest.mark.slow
def test_a_killed_server_leaves_nothing_behind(tmp_path: Path) -> None:
    override(tmp_path / "home", tiny_version(tmp_path / "home", tmp_path, 1))
    with serving(tmp_path / "home") as served:
        served.wait_for("is loaded for production")
        deadline = time.monotonic() + 30
        while not groups(tmp_path / "home") and time.monotonic() < deadline:
            time.sleep(0.05)
        (group,) = groups(tmp_path / "home")
        served.process.kill()
        served.process.wait()
        assert gone(group, 15)
