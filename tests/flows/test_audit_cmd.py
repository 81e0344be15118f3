"""`tutelage audit` on a real catalogue: what is whole, what was tampered with, and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from data_catalog.catalogue import Catalogue
from data_catalog.errors import RegistryError
from data_catalog.records import Stage
from data_catalog.registry import Registry
from flows.commands.audit import audit
from tests.flows.projects import tutelage
from tests.flows.registered import register_model


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A project with a log of four entries."""
    for name in ("one", "two"):
        version = register_model(tmp_path, name)
        Registry(Catalogue(tmp_path)).promote(version.id, Stage.STAGING, actor=name)
    return tmp_path


def tamper(home: Path, sql: str) -> None:
    with Catalogue(home).store.writing() as con:
        con.execute(sql)


def test_a_whole_log_is_said_to_be_whole_with_its_last_hash(home: Path) -> None:
    last = Registry(Catalogue(home)).history()[-1].hash
    result = CliRunner().invoke(audit, ["verify", "--home", str(home)])
    assert result.output == f"4 entries, every hash fits; the last is {last}\n"
    report = json.loads(CliRunner().invoke(audit, ["verify", "--json", "--home", str(home)]).stdout)
    assert report == {"entries": 4, "last_hash": last, "broken": None, "whole": True}


@pytest.mark.parametrize(
    ("sql", "entry", "what"),
    [
        ("UPDATE registry_events SET actor = 'mallory' WHERE seq = 2", 2, "was changed"),
        ("UPDATE registry_events SET details = '[]' WHERE seq = 3", 3, "can't be read"),
        ("UPDATE registry_events SET details = '{' WHERE seq = 3", 3, "can't be read"),
        ("UPDATE registry_events SET stage = 'live' WHERE seq = 1", 1, "can't be read"),
        ("UPDATE registry_events SET hash = repeat('a', 64) WHERE seq = 2", 2, "was changed"),
        ("DELETE FROM registry_events WHERE seq = 2", 2, "is missing"),
        ("DELETE FROM registry_events WHERE seq > 2", 3, "is missing: the log once had 4 entries"),
    ],
)
def test_a_tampered_entry_is_named_with_what_was_expected_and_found(
    home: Path, sql: str, entry: int, what: str
) -> None:
    tamper(home, sql)
    result = CliRunner().invoke(audit, ["verify", "--json", "--home", str(home)])
    assert isinstance(result.exception, RegistryError)
    broken = json.loads(result.stdout)["broken"]
    assert broken["entry"] == entry
    assert what in broken["what"]
    assert broken["expected"] != broken["found"]
    for said in (f"entry {entry} ", broken["expected"], broken["found"]):
        assert said in str(result.exception)


def test_the_exit_code_of_a_tampered_log_is_9_and_there_is_no_traceback(home: Path) -> None:
    tamper(home, "UPDATE registry_events SET model_id = 'model-evil' WHERE seq = 4")
    result = tutelage("audit", "verify", "--home", home)
    assert (result.returncode, result.stdout) == (9, "")
    assert "entry 4 (promote staging model-evil) was changed" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_stage_that_does_not_exist_is_told_by_every_command(home: Path) -> None:
    tamper(home, "UPDATE registry_events SET stage = 'live' WHERE seq = 4")
    with pytest.raises(RegistryError, match="entry 4 moves an unknown stage"):
        Registry(Catalogue(home)).stages()


def test_the_log_is_shown_with_actors_and_moves(home: Path) -> None:
    first, *_, last = CliRunner().invoke(audit, ["show", "--home", str(home)]).output.splitlines()
    assert first.split() == ["entry", "when", "actor", "what", "sha256"]
    version = Registry(Catalogue(home)).resolve("staging").id
    assert f"two    promote: staging is {version} now (was model-" in last
    events = json.loads(CliRunner().invoke(audit, ["show", "--json", "--home", str(home)]).stdout)
    assert [event["action"] for event in events] == ["register", "promote", "register", "promote"]
    assert events[1]["details"]["gates"][0]["outcome"] == "PASS"


def test_an_empty_log_is_whole_and_said_to_be_empty(tmp_path: Path) -> None:
    Catalogue(tmp_path)
    assert "nothing was registered yet" in CliRunner().invoke(audit, ["show", "--home", str(tmp_path)]).output
    assert (
        CliRunner().invoke(audit, ["verify", "--home", str(tmp_path)]).output.startswith("0 entries, every hash fits")
    )
