"""The generated pages equal the code, every configuration field is described, and the pages say what they should."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import click
import pytest
from pydantic import BaseModel, Field

from flows import reference
from training.method_specs import AnyMethod
from training.specs import TrainSpec


def test_the_committed_pages_equal_the_code() -> None:
    # In a process of its own: click remembers a command's help option from whoever asked for it first.
    result = subprocess.run(
        [sys.executable, "-m", "flows.reference"],
        cwd=reference.DOCS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_configuration_field_is_described() -> None:
    assert reference.undocumented() == []


SOURCED = re.compile(r"\bDefault (from|because) [`\w]")


def unsourced(models: tuple[type[BaseModel], ...]) -> Iterator[str]:
    """Yield the fields with a default that is a number, of which nobody says where it comes from.

    A default that is not that of the class above it needs words of its own.
    """
    for model in models:
        for name, field in model.model_fields.items():
            number = isinstance(field.default, int | float) and not isinstance(field.default, bool)
            said = reference.describe(model, name) or ""
            above = model.__mro__[1]
            inherited = getattr(above, "model_fields", {}).get(name)
            borrowed = (
                inherited is not None and inherited.default != field.default and reference.describe(above, name) == said
            )
            if number and (borrowed or not SOURCED.search(said)):
                yield f"{model.__name__}.{name}"


def test_every_number_that_a_stage_is_trained_with_by_default_has_its_source_or_reason() -> None:
    stages = get_args(get_args(TrainSpec)[0])
    assert len(stages) == 11
    assert list(unsourced((*stages, *get_args(AnyMethod)))) == []


def test_a_number_without_a_source_and_one_with_that_of_another_number_are_found() -> None:
    class Above(BaseModel):
        """Says where its numbers come from, but for one."""

        rate: float = 0.1
        """How fast. Default from a paper."""
        count: int = 3
        """How many."""
        flag: bool = True
        """Whether."""

    class Below(Above):
        """Has another rate, and no words for it."""

        rate: float = 0.2

    assert list(unsourced((Above, Below))) == ["Above.count", "Below.rate", "Below.count"]


class Colour(StrEnum):
    """RED or BLUE, nothing between."""

    RED = "red"
    BLUE = "blue"


class Small(BaseModel):
    """A small one."""

    size: Literal["small"] = "small"
    weight: float = Field(default=0.5, ge=0, lt=1)
    """In kilograms,
    dry."""


class Large(Small):
    """A large one."""

    size: Literal["large"] = "large"  # type: ignore[assignment]
    weight: float = Field(default=2.0, gt=1)


class Shelf(BaseModel):
    """Where they stand."""

    name: str = Field(pattern="^[a-z]+$", description="What it is called.")
    paths: tuple[Path, ...] = ()
    """Where to look."""
    colour: Colour = Colour.RED
    item: Annotated[Small | Large, Field(discriminator="size")] = Small()
    """What stands on it."""
    more: tuple[Small, ...] = (Small(weight=0.25),)
    by_name: dict[str, Large] = Field(default_factory=dict)
    spare: Small | None = None
    undescribed: int | None = Field(default=None, ge=1, le=3)


def test_configuration_page_has_every_section_key_bound_default_and_meaning() -> None:
    page = reference.configuration_page(Shelf)

    assert "| `name` | text, matching `^[a-z]+$` | required | What it is called. |" in page
    assert "| `paths` | list of paths | `[]` | Where to look. |" in page
    assert "| `colour` | `red` or `blue` | `red` | RED or BLUE, nothing between. |" in page
    assert '| `item` | section, `size`: `small` or `large` | `{"size": "small"}` | What stands on it. |' in page
    assert '| `more` | list of sections | `[{"weight": 0.25}]` | A small one. |' in page
    assert "| `by_name` | mapping of names to sections | `{}` | A large one. |" in page
    assert "| `spare` | section or null | `null` | A small one. |" in page
    assert "| `undescribed` | integer or null, >= 1, <= 3 | `null` |  |" in page
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == [
        "## The file",
        "## `item` with `size: small`",
        "## `item` with `size: large`",
        "## `more[]`",
        "## `by_name.<name>`",
        "## `spare`",
    ]


def test_a_description_is_inherited_and_a_missing_one_is_found() -> None:
    assert reference.describe(Large, "weight") == "In kilograms, dry."
    assert reference.undocumented(Shelf) == ["Shelf.undescribed"]


def test_a_type_without_words_is_refused_by_name() -> None:
    class Odd(BaseModel):
        """Holds what YAML can't."""

        what: complex = 1j
        """A number with two parts."""

    with pytest.raises(TypeError, match=r"complex.*PLAIN_KINDS"):
        reference.configuration_page(Odd)


def test_sections_at_one_place_need_a_key_that_chooses() -> None:
    class Left(BaseModel):
        """No key."""

        first: int = 1

    class Right(BaseModel):
        """No key either."""

        second: int = 2

    class Either(BaseModel):
        """One of both."""

        side: Left | Right = Left()

    with pytest.raises(TypeError, match="Left, Right"):
        reference.configuration_page(Either)


@pytest.fixture
def program() -> click.Group:
    @click.group(context_settings={"help_option_names": ["-h", "--help"]})
    def top() -> None:
        """Do things."""

    @top.group()
    def models() -> None:
        """Look at models."""

    @models.command()
    @click.argument("version")
    @click.option("--full", is_flag=True, help="Everything there is.")
    def show(**_: Any) -> None:
        """Show one model."""

    @top.command(hidden=True)
    def secret() -> None:
        """Nobody reads this."""

    return top


def test_cli_page_has_each_visible_command_with_its_full_name(program: click.Group) -> None:
    page = reference.cli_page(program, "thing")

    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == ["## thing", "## thing models", "## thing models show", "## Exit codes"]
    assert "Usage: thing models show [OPTIONS] VERSION" in page
    assert "Everything there is." in page
    assert "-h, --help" in page
    assert "Nobody reads this." not in page


def test_cli_page_lists_the_exit_code_of_every_error() -> None:
    table = reference.exit_codes()

    assert "| 2 | `ConfigError` | What the user wrote can't be used; raised before anything starts. |" in table
    assert "| 130 | `Interrupted` |" in table
    codes = [int(line.split("|")[1]) for line in table.splitlines()[2:]]
    assert codes == sorted(codes)


def test_main_names_a_stale_page_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference, "DOCS", tmp_path / "docs")

    assert reference.main([]) == 1
    assert "docs/cli.md is out of date; run `make docs`" in capsys.readouterr().out

    assert reference.main(["--write"]) == 0
    assert reference.main([]) == 0
    assert (tmp_path / "docs" / "configuration.md").read_text(encoding="utf-8").startswith("<!-- Written by")
