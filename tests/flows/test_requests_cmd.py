"""`tutelage requests` and `tutelage reparse` on a small project whose teacher is scripted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from data_catalog.catalogue import Catalogue
from data_catalog.errors import ConfigError
from data_catalog.records import FailureKind, Item, Request
from flows.commands.requests import reparse, requests
from flows.config_file import load_config
from flows.pipeline import RefreshSummary, refresh
from flows.progress import RecordingReporter, SilentReporter
from generators.recipes.answers import Answer, ParseFailure
from generators.recipes.paraphrase import Paraphrase
from tests.flows.projects import write_project
from tests.scripted_server import Body, Fault, ScriptedServer, ScriptedTeacher


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(ScriptedTeacher().answer) as running:
        yield running


def refreshed(config: Path) -> tuple[RefreshSummary, list[str]]:
    reporter = RecordingReporter(SilentReporter())
    return refresh(load_config(config), reporter), reporter.notes


def invoke(command: object, *arguments: str | Path) -> str:
    result = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_poison_request_is_shown_with_its_reason_not_asked_again_and_can_be_released(tmp_path: Path) -> None:
    crash = {"now": True}
    poison: list[str] = []

    def fault_of(body: Body, earlier: int) -> Fault | None:
        prompt = body["messages"][-1]["content"]
        if "pressure of 30 bar" in prompt and not poison:
            poison.append(prompt)
        return Fault.ERROR_500 if crash["now"] and prompt in poison else None

    with ScriptedServer(ScriptedTeacher().answer, fault_of=fault_of) as server:
        config = write_project(tmp_path, server.base_url, count=2)
        _, notes = refreshed(config)
        assert any("quarantined and not asked again" in note for note in notes)
        (row,) = [line for line in invoke(requests, config).splitlines() if "HTTP 500" in line]
        assert "@1" in row, "the recipe"
        assert "quarantined" in row
        log = json.loads(invoke(requests, config, "--json"))
        assert sum(entry["quarantined"] for entry in log["counts"]) >= 1
        assert all(entry["kind"] == FailureKind.QUARANTINED for entry in log["failures"])
        before = len(server.received)
        again, _ = refreshed(config)
        assert (again.asked, len(server.received)) == (0, before)
        crash["now"] = False
        assert "released" in CliRunner().invoke(requests, [str(config), "--release"]).stderr
        last, notes = refreshed(config)
        assert last.asked > 0
        assert not any("quarantined" in note for note in notes)
    assert json.loads(invoke(requests, config, "--json"))["failures"] == []


def test_reparse_asks_nobody_and_says_what_a_changed_parser_makes_of_the_answers(
    tmp_path: Path, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_project(tmp_path, server.base_url, count=2)
    refreshed(config)
    sent = len(server.received)
    unchanged = json.loads(invoke(reparse, config, "--json"))
    assert (unchanged["answers"], unchanged["stored"]) == ([], 0)
    assert {row["recipe"] for row in unchanged["recipes"]} == {"grounded_qa", "paraphrase", "unanswerable"}

    read = Paraphrase.read

    def changed_read(self: Paraphrase, request: Request, answer: Answer) -> Item | ParseFailure:
        if "weighs" in answer:
            return ParseFailure("says what it weighs")
        return read(self, request, Answer(answer.removeprefix("On record: ")))

    monkeypatch.setattr(Paraphrase, "read", changed_read)
    before = {item.id for item in Catalogue(tmp_path / ".tutelage").items()}
    shown = invoke(reparse, config)
    assert "says what it weighs" in shown
    assert f"next  tutelage refresh {config}" in shown
    fresh = [item for item in Catalogue(tmp_path / ".tutelage").items() if item.id not in before]
    assert fresh
    assert all("On record" not in json.dumps(item.payload) for item in fresh)
    again = json.loads(invoke(reparse, config, "--json"))
    counts = {row["recipe"]: row["changes"] for row in again["recipes"]}
    assert counts["paraphrase"]["changed"] == 0, "they are in the catalogue now"
    assert counts["paraphrase"]["lost"] > 0
    assert counts["grounded_qa"]["same"] == sum(counts["grounded_qa"].values())
    assert len(server.received) == sent, "nobody was asked"
    summary, _ = refreshed(config)
    assert summary.asked == 0


def test_answers_about_withdrawn_documents_are_left_out(tmp_path: Path, server: ScriptedServer) -> None:
    config = write_project(tmp_path, server.base_url, count=2)
    refreshed(config)
    all_answers = sum(row["answers"] for row in json.loads(invoke(reparse, config, "--json"))["recipes"])
    (tmp_path / "docs" / "brixal.md").unlink()
    refreshed(config)
    fewer = sum(row["answers"] for row in json.loads(invoke(reparse, config, "--json"))["recipes"])
    assert 0 < fewer < all_answers


@pytest.mark.parametrize("command", [requests, reparse])
def test_a_project_that_was_never_run_is_an_error_that_says_how_to_run_it(tmp_path: Path, command: object) -> None:
    config = write_project(tmp_path, "http://127.0.0.1:9/v1")
    result = CliRunner().invoke(command, [str(config)])  # type: ignore[arg-type]
    assert isinstance(result.exception, ConfigError)
    assert "tutelage run" in str(result.exception)
