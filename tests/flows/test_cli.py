"""The command line as a whole: its overview, its errors, and that the README's examples are real."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from flows.cli import COMMANDS, cli
from flows.config_file import load_config
from tests.flows.projects import REPOSITORY, tutelage


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_overview_says_what_the_command_says_of_itself(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.get_short_help_str(200) == COMMANDS[name].summary


def test_every_command_and_option_is_explained() -> None:
    def walk(command: click.Command, path: str) -> list[str]:
        missing = [] if command.help else [path]
        for option in command.params:
            if isinstance(option, click.Option) and not option.help:
                missing.append(f"{path} {option.opts[0]}")
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                missing += walk(child, f"{path} {name}")
        return missing

    assert walk(cli, "tutelage") == []


def test_a_misspelt_command_is_answered_with_the_one_that_was_meant() -> None:
    result = CliRunner().invoke(cli, ["promot"])
    assert result.exit_code == 2
    assert "did you mean `promote`?" in result.output


def test_an_error_is_a_message_and_an_exit_code_without_a_traceback(tmp_path: Path) -> None:
    result = tutelage("run", tmp_path / "none.yaml")
    assert result.returncode == 2
    assert "no configuration file at" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_readme_configuration_is_valid(page: str, tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / page).read_text(encoding="utf-8"), re.DOTALL)
    for directory in ("docs", "teacher", "student"):
        (tmp_path / directory).mkdir()
    (tmp_path / "student" / "config.json").write_text("{}")
    (tmp_path / "gold.jsonl").write_text("")
    text = block.replace("/models/my-teacher-instruct", str(tmp_path / "teacher"))
    path = tmp_path / "tutelage.yaml"
    path.write_text(text.replace("/models/my-student-1b", str(tmp_path / "student")), encoding="utf-8")
    assert load_config(path).project == "manuals"


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_readme_links_to_what_exists(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (REPOSITORY / page).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not link.startswith("http") and not (REPOSITORY / link).exists()] == []
