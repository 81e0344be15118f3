"""`tutelage models`, `promote` and `rollback` on a real catalogue."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from data_catalog.errors import ConfigError, RegistryError
from data_catalog.records import Stage
from flows.commands import models as commands
from flows.console import print_table
from flows.promotion import duration
from tests.flows.registered import damage, register_model


def invoke(command: click.Command, home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, "--home", str(home)])


def read(command: click.Command, home: Path, *arguments: str) -> Any:
    result = invoke(command, home, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_offered_stages_are_those_of_the_registry() -> None:
    assert list(commands.STAGES) == [stage.value for stage in Stage]
    assert set(commands.PROMOTABLE) == {Stage.STAGING, Stage.PRODUCTION}


def test_a_gated_candidate_is_promoted_listed_and_remembered(tmp_path: Path) -> None:
    version = register_model(tmp_path, "one")
    change = read(commands.promote, tmp_path, "candidate", "--to", "production")
    assert (change["stage"], change["model"], change["replaced"]) == ("production", version.id, None)
    (row,) = read(commands.models, tmp_path)
    assert row["model"] == version.id
    assert set(row["stages"].split(", ")) == {"candidate", "production"}
    assert row["gates"] == "sft PASS"
    (event,) = read(commands.models, tmp_path, "history", "production")
    assert (event["action"], event["model"]) == ("promote", version.id)
    assert "@" in event["actor"]


def test_rollback_puts_the_earlier_model_back(tmp_path: Path) -> None:
    first, second = register_model(tmp_path, "one"), register_model(tmp_path, "two")
    for version in (first, second):
        assert invoke(commands.promote, tmp_path, version.id, "--to", "production").exit_code == 0
    result = invoke(commands.rollback, tmp_path, "production")
    assert result.output == f"production is {first.id} now (was {second.id})\n"


def test_rollback_of_what_never_was_is_refused(tmp_path: Path) -> None:
    register_model(tmp_path, "one")
    result = invoke(commands.rollback, tmp_path, "production")
    assert isinstance(result.exception, RegistryError)


def test_a_failed_gate_is_refused_and_an_override_is_recorded_with_its_reason(tmp_path: Path) -> None:
    register_model(tmp_path, "one", outcome="FAIL")
    refused = invoke(commands.promote, tmp_path, "candidate", "--to", "staging")
    assert isinstance(refused.exception, RegistryError)
    assert "says FAIL" in str(refused.exception)
    change = read(commands.promote, tmp_path, "candidate", "--to", "staging", "--override", "--reason", "demo day")
    assert change["override"] == "demo day"
    (event,) = read(commands.models, tmp_path, "history", "staging")
    assert event["override"] == "demo day"


def test_an_override_needs_a_reason_and_a_reason_an_override(tmp_path: Path) -> None:
    register_model(tmp_path, "one")
    assert isinstance(
        invoke(commands.promote, tmp_path, "candidate", "--to", "staging", "--override").exception, RegistryError
    )
    assert invoke(commands.promote, tmp_path, "candidate", "--to", "staging", "--reason", "x").exit_code == 2


def needs_approval(home: Path, *stages: str) -> Path:
    """Write a configuration of which only what a promotion reads is there."""
    path = home / "tutelage.yaml"
    path.write_text(json.dumps({"home": str(home), "promotion": {"needs_approval": stages}}))
    return path


def test_production_that_demands_an_approval_opens_with_one(tmp_path: Path) -> None:
    version = register_model(tmp_path, "one")
    config = needs_approval(tmp_path, "production")
    run = CliRunner().invoke
    refused = run(commands.promote, ["candidate", "--to", "production", "-c", str(config)])
    assert isinstance(refused.exception, RegistryError)
    assert f"tutelage approve {version.id} --to production" in str(refused.exception)
    approved = run(commands.approve, ["candidate", "--to", "production", "--by", "ada", "-c", str(config)])
    assert approved.output.startswith(f"{version.id} (sft PASS) is approved for production by ada until 20")
    promoted = run(commands.promote, ["candidate", "--to", "production", "-c", str(config)])
    assert promoted.output == f"production is {version.id} now, approved by ada\n"
    given, moved = read(commands.models, tmp_path, "history", "production")
    assert (given["action"], given["actor"]) == ("approve", "ada")
    assert (moved["action"], moved["approved_by"]) == ("promote", "ada")
    assert " for production until 20" in invoke(commands.models, tmp_path, "show", version.id).output


def test_other_stages_and_other_configurations_demand_none(tmp_path: Path) -> None:
    register_model(tmp_path, "one")
    config = needs_approval(tmp_path, "production")
    staged = CliRunner().invoke(commands.promote, ["candidate", "--to", "staging", "-c", str(config)])
    assert staged.exit_code == 0, staged.output
    config = needs_approval(tmp_path)
    assert CliRunner().invoke(commands.promote, ["staging", "--to", "production", "-c", str(config)]).exit_code == 0


def test_an_approval_says_who_and_until_when(tmp_path: Path) -> None:
    version = register_model(tmp_path, "one")
    given = read(commands.approve, tmp_path, "candidate", "--to", "staging", "--expires", "12h")
    assert (given["model"], given["stage"], given["gates"]) == (version.id, "staging", ["sft PASS"])
    assert "@" in given["approved_by"]
    refused = invoke(commands.approve, tmp_path, "candidate", "--to", "staging", "--expires", "soon")
    assert isinstance(refused.exception, ConfigError)
    assert "such as 7d" in str(refused.exception)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "0d", "-1d", "1.5h", "7 days", "9999999w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no duration"):
        duration(text)


def test_a_promotion_may_expect_what_the_stage_holds(tmp_path: Path) -> None:
    one, two = register_model(tmp_path, "one"), register_model(tmp_path, "two")
    assert invoke(commands.promote, tmp_path, one.id, "--to", "production", "--expect", "none").exit_code == 0
    for wrong in ("none", two.id):
        refused = invoke(commands.promote, tmp_path, two.id, "--to", "production", "--expect", wrong)
        assert isinstance(refused.exception, RegistryError)
        assert f"points to {one.id}" in str(refused.exception)
    assert invoke(commands.promote, tmp_path, two.id, "--to", "production", "--expect", one.id[:14]).exit_code == 0


@pytest.mark.parametrize("extra", [[], ["--override", "--reason", "hurry"]])
def test_altered_bytes_are_refused_even_with_an_override(tmp_path: Path, extra: list[str]) -> None:
    version = register_model(tmp_path, "one")
    damage(tmp_path, version)
    result = invoke(commands.promote, tmp_path, version.id, "--to", "production", *extra)
    assert isinstance(result.exception, RegistryError)
    assert "model.safetensors" in str(result.exception)


def test_show_tells_files_gates_lineage_and_events(tmp_path: Path) -> None:
    version = register_model(tmp_path, "one")
    text = invoke(commands.models, tmp_path, "show", version.id[:12]).output
    for expected in (version.id, "candidate", "gold: 0.81 against 0.07", "model.safetensors", "dataset-1", "by run"):
        assert expected in text
    assert read(commands.models, tmp_path, "show", "candidate")["version"]["id"] == version.id


def test_options_before_the_subcommand_mean_the_same(tmp_path: Path) -> None:
    version = register_model(tmp_path, "one")
    result = CliRunner().invoke(commands.models, ["--home", str(tmp_path), "show", "candidate"])
    assert version.id in result.output


def test_plain_table_is_aligned_and_without_frames(tmp_path: Path) -> None:
    version = register_model(tmp_path, "one")
    header, row = invoke(commands.models, tmp_path).output.splitlines()
    assert header.split() == ["model", "stages", "gates", "registered", "MB"]
    assert row.startswith(version.id)
    assert header.index("stages") == row.index("candidate")


def test_a_terminal_gets_a_framed_table_with_markup_shown_as_it_is() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    print_table(["why"], [["[red]hurry[/red]"], [None]], out)
    assert "[red]hurry[/red]" in out.getvalue()
    assert "━" in out.getvalue() or "─" in out.getvalue()


def test_no_models_yet_is_said(tmp_path: Path) -> None:
    from data_catalog.catalogue import Catalogue

    Catalogue(tmp_path)
    assert invoke(commands.models, tmp_path).output == "no model is registered yet\n"
