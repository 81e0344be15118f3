"""`tutelage chat`: verified bytes answer, greedily, and it is said whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from data_catalog.catalogue import Catalogue
from data_catalog.errors import RegistryError
from data_catalog.records import Completion, Request, Stage
from data_catalog.registry import Registry
from flows.commands.chat import chat
from flows.conversation import answer, open_model
from tests.flows.registered import damage, register_model


class Echo:
    """Answers every request with what was asked, and remembers the requests."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.directory = Path()

    def __call__(self, directory: Path, fingerprint: str, requests: Sequence[Request]) -> Sequence[Completion]:
        self.directory = directory
        self.requests += requests
        return [
            Completion(
                request_key=request.key, text=f" you asked: {request.messages[-1].content}\n", finish_reason="stop"
            )
            for request in reversed(requests)
        ]


def test_answers_come_from_the_stages_directory_in_the_order_of_the_questions(tmp_path: Path) -> None:
    version = register_model(tmp_path, "one")
    Registry(Catalogue(tmp_path)).promote(version.id, Stage.PRODUCTION, actor="test")
    model = open_model(tmp_path, "production")
    echo = Echo()
    texts = answer(model, ["a?", "b?", "a?"], system="Be brief.", max_tokens=9, complete=echo)
    assert texts == ["you asked: a?", "you asked: b?", "you asked: a?"]
    assert echo.directory == tmp_path / version.path
    assert len(echo.requests) == 2, "the same question is asked once"
    request = echo.requests[0]
    assert [(message.role, message.content) for message in request.messages] == [
        ("system", "Be brief."),
        ("user", "a?"),
    ]
    assert (request.sampling.temperature, request.sampling.max_tokens, request.model) == (0.0, 9, version.id)


def test_an_altered_model_does_not_answer(tmp_path: Path) -> None:
    version = register_model(tmp_path, "one")
    damage(tmp_path, version)
    with pytest.raises(RegistryError, match=r"model\.safetensors"):
        open_model(tmp_path, version.id)


def test_an_empty_stage_is_said_before_anything_starts(tmp_path: Path) -> None:
    register_model(tmp_path, "one")
    result = CliRunner().invoke(chat, ["hello?", "--home", str(tmp_path)])
    assert isinstance(result.exception, RegistryError)
    assert "no model in stage `production`" in str(result.exception)
    assert not (tmp_path / "work").exists()


def test_questions_from_a_pipe_are_answered_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import workers

    version = register_model(tmp_path, "one")
    echo = Echo()
    monkeypatch.setattr(workers, "complete", lambda path, name, requests, home: echo(path, name, requests))
    result = CliRunner().invoke(chat, ["--stage", "candidate", "--home", str(tmp_path)], input="a?\n\nb?\n")
    assert result.exception is None, result.exception
    assert result.stdout == "you asked: a?\nyou asked: b?\n"
    assert result.stderr == f"{version.id} (candidate) answers\n"
