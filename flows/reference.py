"""The two generated pages: docs/cli.md from the command tree, docs/configuration.md from the configuration's types.

    python -m flows.reference            # print which page is out of date; exit 1 if one is
    python -m flows.reference --write    # write both; `make docs`

A test compares both pages with the code, so that neither can drift.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from data_catalog import errors
from flows.cli import cli
from flows.config import Config

DOCS = Path(__file__).resolve().parent.parent / "docs"
WIDTH = 100
"""Columns that command help is laid out for."""

NOTICE = "<!-- Written by `make docs` from the code; change the code instead. -->"

CLI_INTRODUCTION = """\
Every command takes `--help`. Errors go to standard error and say what was got, what is valid and what to do next; the
exit code tells a script which kind of error it was (see [Exit codes](#exit-codes))."""

CONFIGURATION_INTRODUCTION = """\
A project is one YAML file. Keys that are not listed here are refused, all errors are reported at once with file and
line, and relative paths are relative to the file. `list of` means a YAML list, `section` a mapping with the keys of the
heading named; `[]` in a heading stands for every entry of a list, `<name>` for a name of your choice."""


# --- The command line -------------------------------------------------------------------------------------------------


def cli_page(command: click.Command, program: str = "tutelage") -> str:
    """Return docs/cli.md: the help text of every command, as a terminal shows it, then the exit codes."""
    parts = [NOTICE, "# Command line", CLI_INTRODUCTION]
    for name, text in command_help(command, program):
        parts += [f"## {name}", f"```text\n{text}\n```"]
    parts += ["## Exit codes", exit_codes()]
    return "\n\n".join(parts) + "\n"


def command_help(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Yield (full name, help text) of a command and of everything below it that is not hidden."""
    layout = {"terminal_width": WIDTH, "max_content_width": WIDTH, "color": False}
    context = click.Context(command, parent=parent, info_name=name, **{**command.context_settings, **layout})
    yield context.command_path, "\n".join(line.rstrip() for line in command.get_help(context).strip().splitlines())
    if not isinstance(command, click.Group):
        return
    for child_name in command.list_commands(context):
        child = command.get_command(context, child_name)
        if child is not None and not child.hidden:
            yield from command_help(child, child_name, context)


def exit_codes() -> str:
    """Return the table of exit codes, from the error tree."""
    rows = [(0, "", "Done, or nothing was left to do."), (1, "", "An error that Tutelage did not foresee: a defect.")]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    rows += [
        (kind.exit_code, f"`{kind.__name__}`", _first_line(kind.__doc__))
        for kind in kinds
        if issubclass(kind, errors.TutelageError) and kind is not errors.TutelageError
    ]
    rows.sort(key=lambda row: row[0])
    return _table(("code", "error", "meaning"), [(str(code), name, text) for code, name, text in rows])


# --- The configuration ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """One mapping of the configuration file: where it stands and the type that reads it."""

    path: str
    model: type[BaseModel]
    chosen_by: str = ""
    """`stage: dpo` where several types can stand at the same place."""

    @property
    def title(self) -> str:
        """The section's heading."""
        if not self.path:
            return "The file"
        return f"`{self.path}` with `{self.chosen_by}`" if self.chosen_by else f"`{self.path}`"


def configuration_page(model: type[BaseModel] = Config) -> str:
    """Return docs/configuration.md: a table for every section, in the order of the file."""
    parts = [NOTICE, "# Configuration", CONFIGURATION_INTRODUCTION]
    for section in sections(Section("", model)):
        rows = [
            (f"`{name}`", kind_of(field), default_of(field), describe(section.model, name) or "")
            for name, field in section.model.model_fields.items()
        ]
        parts += [f"## {section.title}", inspect.cleandoc(section.model.__doc__ or "")]
        parts.append(_table(("key", "type", "default", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def sections(root: Section) -> Iterator[Section]:
    """Yield a section and all sections below it, each place and type once."""
    seen: set[Section] = set()
    waiting = [root]
    while waiting:
        section = waiting.pop(0)
        if section in seen:
            continue
        seen.add(section)
        yield section
        below = [
            child for name, field in section.model.model_fields.items() for child in _children(section, name, field)
        ]
        waiting = below + waiting


def _children(section: Section, name: str, field: FieldInfo) -> Iterator[Section]:
    path = f"{section.path}.{name}" if section.path else name
    for suffix, models in _models_in(field.annotation):
        chooser = _chooser(models)
        for model in models:
            chosen_by = f"{chooser}: {_only_literal(model.model_fields[chooser])}" if chooser else ""
            yield Section(path + suffix, model, chosen_by)


def _models_in(annotation: Any) -> Iterator[tuple[str, list[type[BaseModel]]]]:
    """Yield (path suffix, models that can stand there) for the sections inside a type."""
    options = _options(annotation)
    models = [option for option in options if _is_model(option)]
    if models:
        yield "", models
    for option in options:
        arguments = [argument for argument in get_args(option) if argument is not Ellipsis]
        if get_origin(option) in (tuple, list):
            yield from ((f"[]{suffix}", inner) for suffix, inner in _models_in(arguments[0]))
        elif get_origin(option) in (dict, Mapping):
            yield from ((f".<name>{suffix}", inner) for suffix, inner in _models_in(arguments[1]))


def kind_of(field: FieldInfo) -> str:
    """Return a field's type and bounds in a user's words, such as `integer, >= 1`."""
    limits = []
    for constraint in field.metadata:
        for attribute, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
            if (bound := getattr(constraint, attribute, None)) is not None:
                limits.append(f"{sign} {bound}")
        if (least := getattr(constraint, "min_length", None)) is not None:
            limits.append(f"at least {least}")
        if (most := getattr(constraint, "max_length", None)) is not None:
            limits.append(f"at most {most}")
        if (pattern := getattr(constraint, "pattern", None)) is not None:
            limits.append(f"matching `{pattern}`")
    return ", ".join([_kind(field.annotation), *limits])


def _kind(annotation: Any) -> str:
    options = _options(annotation)
    if models := [option for option in options if _is_model(option)]:
        chooser = _chooser(models)
        names = [f"`{_only_literal(model.model_fields[chooser])}`" for model in models] if chooser else []
        text = f"section, `{chooser}`: {' or '.join(names)}" if chooser else "section"
        kinds = [text, *(_kind(option) for option in options if not _is_model(option))]
    else:
        kinds = [_plain_kind(option) for option in options]
    return " or ".join(dict.fromkeys(kinds))


PLAIN_KINDS: Mapping[Any, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    Any: "any value",
    Path: "path",
    type(None): "null",
}


def _plain_kind(option: Any) -> str:
    if option in PLAIN_KINDS:
        return PLAIN_KINDS[option]
    arguments = get_args(option)
    if get_origin(option) is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if isinstance(option, type) and issubclass(option, Enum):
        return " or ".join(f"`{member.value}`" for member in option)
    if get_origin(option) in (tuple, list):
        return f"list of {_plural(_kind(arguments[0]))}"
    if get_origin(option) in (dict, Mapping):
        return f"mapping of names to {_plural(_kind(arguments[1]))}"
    raise TypeError(f"flows/reference.py has no words for the type {option!r}; give it some in PLAIN_KINDS")


def _plural(kind: str) -> str:
    return {"path": "paths", "section": "sections", "integer": "integers", "number": "numbers"}.get(kind, kind)


def default_of(field: FieldInfo) -> str:
    """Return a field's default as it would be written in the file."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        changed = _changed(default)
        return f"`{_flow_style(changed)}`" if changed else "its own defaults"
    if isinstance(default, tuple | list):
        several = any(len(models) > 1 for _, models in _models_in(field.annotation))
        entries = [_changed(entry, several) if isinstance(entry, BaseModel) else entry for entry in default]
        return f"`{_flow_style(entries)}`"
    return f"`{_flow_style(default)}`"


def _changed(default: BaseModel, chosen: bool = True) -> dict[str, Any]:
    """Return the keys that a section must have in the file to say the same: what it changes, and what chooses it."""
    literals = {name: _only_literal(field) for name, field in type(default).model_fields.items() if chosen}
    said = {name: value for name, value in literals.items() if value is not None}
    return {**said, **default.model_dump(mode="json", exclude_defaults=True)}


def _flow_style(value: Any) -> str:
    """Return a value as one line of YAML; JSON is YAML, short of enums and paths."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, Path):
        value = value.as_posix()
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def describe(model: type[BaseModel], name: str) -> str | None:
    """Return what a field means, or None where nobody has said it.

    That is its `description`, the string below it in the class that declares it or in one that it inherits from, or
    what its own type (a section, an enum) says of itself.
    """
    field = model.model_fields[name]
    if field.description:
        return field.description
    if (value := _only_literal(field)) is not None:
        return f"Always `{value}` here."
    for owner in model.__mro__:
        if owner is not BaseModel and _is_model(owner) and (text := _attribute_docstrings(owner).get(name)):
            return _one_line(text)
    options = _options(field.annotation)
    enums = [option for option in options if isinstance(option, type) and issubclass(option, Enum)]
    nested = [model for _, models in _models_in(field.annotation) if len(models) == 1 for model in models]
    if enums:
        return _one_line(inspect.cleandoc(enums[0].__doc__ or ""))
    return _first_line(nested[0].__doc__) if nested else None


def undocumented(root: type[BaseModel] = Config) -> list[str]:
    """Return the fields, as `section.key`, that nobody has described."""
    return [
        f"{section.model.__name__}.{name}"
        for section in sections(Section("", root))
        for name in section.model.model_fields
        if describe(section.model, name) is None
    ]


@cache
def _attribute_docstrings(owner: type) -> dict[str, str]:
    """Return the strings that stand right below annotated names in a class body."""
    definition = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for statement, below in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[statement.target.id] = below.value.value
    return found


def _options(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of a type without its `Annotated` wrappers."""
    while get_origin(annotation) is typing.Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(option for argument in get_args(annotation) for option in _options(argument))
    return (annotation,)


def _is_model(option: Any) -> bool:
    return isinstance(option, type) and issubclass(option, BaseModel)


def _chooser(models: Sequence[type[BaseModel]]) -> str:
    """Return the key that tells several models at one place apart, or nothing where there is only one model."""
    if len(models) < 2:
        return ""
    shared = [
        name
        for name in models[0].model_fields
        if all(name in model.model_fields and _only_literal(model.model_fields[name]) is not None for model in models)
    ]
    if len(shared) != 1:
        names = ", ".join(model.__name__ for model in models)
        raise TypeError(f"{names} stand at one place of the configuration and need one Literal key that chooses")
    return shared[0]


def _only_literal(field: FieldInfo) -> Any:
    """Return the one value that a `Literal["x"]` field allows, or None."""
    values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return values[0] if len(values) == 1 else None


# --- The pages --------------------------------------------------------------------------------------------------------


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _first_line(docstring: str | None) -> str:
    return inspect.cleandoc(docstring or "").split("\n", 1)[0]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def pages() -> dict[Path, str]:
    """Return what each generated page must hold."""
    return {DOCS / "cli.md": cli_page(cli), DOCS / "configuration.md": configuration_page()}


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or name those that are out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the pages instead of comparing them")
    write = parser.parse_args(arguments).write
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if write:
            path.parent.mkdir(exist_ok=True)
            path.write_text(pages()[path], encoding="utf-8")
        print(f"{path.relative_to(DOCS.parent)} {'written' if write else 'is out of date; run `make docs`'}")
    return 1 if stale and not write else 0


if __name__ == "__main__":
    sys.exit(main())
