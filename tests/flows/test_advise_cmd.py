"""The command `tutelage advise`: what it prints, asks, refuses and writes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from data_catalog.errors import ConfigError, MachineError, TutelageError
from flows.advising.given import Goal, counted_data, named_machine, read_student
from flows.advising.planning import advise as planned
from flows.cli import cli
from flows.commands.advise import GOALS
from flows.config_file import load_config
from flows.plan import describe
from tests.flows.projects import REPOSITORY, STUDENT, write_documents

ROOM = ("--cpu-gib", "8", "--tflops", "0.1")


def advise(*arguments: str | float | Path) -> Result:
    return CliRunner().invoke(cli, ["advise", "--student", str(STUDENT), *map(str, arguments)])


def refused(*arguments: str | float | Path) -> TutelageError:
    error = advise(*arguments).exception
    assert isinstance(error, TutelageError), error
    return error


def test_the_goals_on_the_command_line_are_the_goals() -> None:
    assert tuple(Goal) == GOALS


def test_the_plan_is_told_with_its_numbers_and_reasons() -> None:
    result = advise("--goal", "knowledge", "--tokens", 5000, *ROOM)
    assert result.exit_code == 0, result.output
    for told in (
        "2,274,240 parameters",
        "8.6 GB of memory",
        "0.1 TFLOP/s",
        "read: pretrain by lora",
        "learn: sft by lora",
    ):
        assert told in result.output
    assert result.output.count("\nmemory      at most") == 2
    assert result.output.count("\ntime        at least") == 2
    assert "(LoRA Without Regret)" in result.output
    assert "--write tutelage.yaml" in result.stderr


@pytest.mark.parametrize("goal", GOALS)
def test_what_is_written_is_what_was_planned(goal: str, tmp_path: Path) -> None:
    documents, target = write_documents(tmp_path), tmp_path / "tutelage.yaml"
    replay = tmp_path / "replay.jsonl"
    replay.write_text('{"text": "General."}\n')
    extra = ("--replay", replay, "--teacher", STUDENT)
    result = advise("--goal", goal, "--documents", documents, "--write", target, *extra, *ROOM)
    assert result.exit_code == 0, result.output
    config = load_config(target)
    said = {line.strip() for line in result.stdout.splitlines()}
    for stage in config.stages:
        assert f"batch_size: {stage.train.batch_size}" in said
        assert f"max_length: {stage.train.max_length}" in said
    assert config.documents.paths == (documents,)
    assert config.documents.chunk_tokens <= min(stage.train.max_length for stage in config.stages) // 2
    assert (config.teacher.model, config.student.model) == (str(STUDENT), STUDENT)
    assert "stage      learn: sft" in describe(config)
    assert target.read_text().count("PLACEHOLDER") == 1  # suites and gates


def test_every_setting_of_a_tight_plan_is_written(tmp_path: Path) -> None:
    target = tmp_path / "tutelage.yaml"
    result = advise("--goal", "preference", "--examples", 500, "--cpu-gib", 0.9, "--write", target)
    assert result.exit_code == 0, result.output
    (tmp_path / "docs").mkdir()
    data = counted_data(500, None, 256)
    advice = planned(read_student(STUDENT), named_machine(None, 0.9, None), data, Goal.PREFERENCE, max_length=1024)
    stages = load_config(target).stages
    assert [stage.train for stage in stages] == [stage.spec for stage in advice.stages]
    assert any(stage.train.gradient_checkpointing for stage in stages)
    assert [stage.data.part for stage in stages] == [(0.0, 0.8), (0.8, 1.0)]


def test_what_only_the_user_knows_is_a_placeholder(tmp_path: Path) -> None:
    target = tmp_path / "Manuals 2" / "tutelage.yaml"
    target.parent.mkdir()
    assert advise("--goal", "behaviour", "--examples", 5000, "--write", target, *ROOM).exit_code == 0
    assert target.read_text().count("PLACEHOLDER") == 3
    with pytest.raises(ConfigError, match="nothing at"):
        load_config(target)  # the documents
    (target.parent / "docs").mkdir()
    config = load_config(target)
    assert (config.project, config.teacher.model) == ("manuals-2", "my-teacher")


def test_a_file_is_replaced_only_when_that_was_said(tmp_path: Path) -> None:
    target = tmp_path / "tutelage.yaml"
    target.write_text("mine: true\n")
    arguments = ("--goal", "behaviour", "--examples", 5000, "--write", target, *ROOM)
    assert "is there already" in refused(*arguments).message
    assert target.read_text() == "mine: true\n"
    assert advise(*arguments, "--overwrite").exit_code == 0
    assert yaml.safe_load(target.read_text())["stages"]
    assert "no folder" in refused("--goal", "tasks", "--tokens", 9, "--write", tmp_path / "no" / "t.yaml").message


def test_where_nothing_fits_nothing_is_written(tmp_path: Path) -> None:
    target = tmp_path / "tutelage.yaml"
    error = refused("--goal", "behaviour", "--examples", 5000, "--cpu-gib", 0.3, "--write", target)
    assert isinstance(error, MachineError)
    assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tokens", "9"), "--goal NAME is missing"),
        (("--goal", "tasks"), "--documents PATH, or --examples N is missing"),
        (("--goal", "tasks", "--documents", "nowhere"), "no documents at nowhere"),
        (("--goal", "tasks", "--documents", "x", "--tokens", "9"), "--documents is counted"),
        (("--goal", "tasks", "--tokens", "9", "--replay", "nowhere"), "no replay file at nowhere"),
        (("--goal", "tasks", "--tokens", "9", "--overwrite"), "--overwrite goes with --write"),
    ],
)
def test_what_is_missing_or_wrong_is_said(arguments: tuple[str, ...], said: str) -> None:
    error = refused(*arguments)
    assert isinstance(error, ConfigError)
    assert said in error.message


@pytest.mark.parametrize("wrong", [("--examples", "0"), ("--cpu-gib", "-1"), ("--gpu-gib", "much"), ("--goal", "fame")])
def test_what_is_no_number_or_goal_is_refused_by_its_option(wrong: tuple[str, str]) -> None:
    result = advise(*wrong)
    assert result.exit_code == 2
    assert f"Invalid value for '{wrong[0]}'" in result.output


@pytest.mark.slow
def test_a_terminal_is_asked_for_what_is_missing() -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"nonsense\ntasks\n")
    arguments = ["advise", "--student", STUDENT, "--examples", "5000", *ROOM]
    result = subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        cwd=REPOSITORY,
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert result.returncode == 0, result.stderr
    assert "Goal (knowledge, behaviour, preference, classification, tasks)" in result.stderr
    assert "'nonsense' is not one of" in result.stderr
    assert "learn: sft by adapter" in result.stdout
