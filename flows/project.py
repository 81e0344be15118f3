"""Which project does a command mean? The options `--config` and `--home`, and the search when neither is given.

Commands that look after a promoted model must work when the documents or the teacher are gone, so only the `home` key,
the `promotion` section and the student's path are read here; the rest is the business of `flows.config_file`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from data_catalog.errors import ConfigError

CONFIG_NAME = "tutelage.yaml"
HOME_NAME = ".tutelage"
CATALOGUE_NAME = "catalogue.duckdb"
CommandT = TypeVar("CommandT", bound=Callable[..., Any])


@dataclass(frozen=True)
class Project:
    """Where a project keeps what it has, and the configuration that says so (None when only a home is known)."""

    home: Path
    config: Path | None


def project_options(command: CommandT) -> CommandT:
    """Add `--config/-c` and `--home` to a click command; it receives them as `config` and `home`."""
    home = click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        help=f"The project's home; by default what the configuration says, or ./{HOME_NAME}.",
    )
    config = click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help=f"The project's configuration; by default ./{CONFIG_NAME}.",
    )
    return config(home(command))


def find_project(config: Path | None = None, home: Path | None = None, *, directory: Path | None = None) -> Project:
    """Return the project that `--config` and `--home` name, or the one in `directory` (default: the current one).

    Raises:
        ConfigError: nothing is there, or the configuration can't be read.
    """
    here = directory or Path.cwd()
    if config is None and home is None and (here / CONFIG_NAME).is_file():
        config = here / CONFIG_NAME
    if config is not None:
        config = config.resolve()
        configured = _configured_home(config)
        return Project(home.resolve() if home is not None else configured, config)
    if home is None and not (here / HOME_NAME).is_dir():
        raise ConfigError(
            f"no project here: {here} has neither {CONFIG_NAME} nor {HOME_NAME}/",
            next_step="name one with --config PATH or --home DIR",
        )
    return Project((home or here / HOME_NAME).resolve(), None)


def run_project(config: Path | None = None, home: Path | None = None, *, directory: Path | None = None) -> Project:
    """Return the project that is named or is here, and that has been run at least once.

    Raises:
        ConfigError: there is no project, or it has no catalogue yet.
    """
    project = find_project(config, home, directory=directory)
    if not (project.home / CATALOGUE_NAME).is_file():
        raise ConfigError(
            f"no catalogue at {project.home / CATALOGUE_NAME}: the project has not been run yet",
            next_step=f"tutelage run {project.config or CONFIG_NAME}",
        )
    return project


def catalogue_home(config: Path | None = None, home: Path | None = None, *, directory: Path | None = None) -> Path:
    """Return the home of a project that has been run at least once, for the commands that only look.

    Raises:
        ConfigError: there is no project, or it has no catalogue yet.
    """
    return run_project(config, home, directory=directory).home


def stages_needing_approval(project: Project) -> tuple[str, ...]:
    """Return the stages that the project's configuration opens only with an approval; none without a configuration.

    Raises:
        ConfigError: the section `promotion` can't be read.
    """
    from pydantic import ValidationError

    from flows.config import PromotionSpec

    if project.config is None:
        return ()
    section = _content(project.config).get("promotion", {})
    try:
        return PromotionSpec.model_validate(section).needs_approval
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(["promotion", *map(str, first["loc"])])
        raise ConfigError(
            f"{project.config}: `{where}`: {first['msg']} (got {first['input']!r})",
            valid=f"keys of promotion: {', '.join(PromotionSpec.model_fields)}",
            next_step="edit that section; docs/configuration.md lists every key",
        ) from error


def configured_student(project: Project) -> Path | None:
    """Return the model directory that the project's configuration names as its student, if it does."""
    if project.config is None:
        return None
    student = _content(project.config).get("student")
    model = student.get("model") if isinstance(student, dict) else None
    return (project.config.parent / Path(model).expanduser()).resolve() if isinstance(model, str) else None


def configured_recipe_files(project: Project) -> list[Path]:
    """Return the files of the user's own recipes that the project's configuration names."""
    if project.config is None:
        return []
    generate = _content(project.config).get("generate")
    entries = generate.get("recipes") if isinstance(generate, dict) else None
    named = [entry.get("recipe") for entry in entries or () if isinstance(entry, dict)]
    base = project.config.parent
    return [(base / name).resolve() for name in named if isinstance(name, str) and name.endswith(".py")]


def known_home(config: Path | None = None, home: Path | None = None) -> Path | None:
    """Return the home of the project that is named or is here; None when none was named and none is here."""
    if config is None and home is None and not any(Path(name).exists() for name in (CONFIG_NAME, HOME_NAME)):
        return None
    return find_project(config, home).home


def _configured_home(config: Path) -> Path:
    from flows.config import Config

    home = _content(config).get("home", str(Config.model_fields["home"].default))
    if not isinstance(home, str):
        raise ConfigError(f"{config}: `home` is {home!r}", valid="a path", next_step="edit that line")
    return (config.parent / Path(home).expanduser()).resolve()


def _content(config: Path) -> dict[str, Any]:
    """Return what the file holds, without judging it; nothing where it is no mapping."""
    import yaml

    from flows.config_file import load_config

    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        load_config(config)  # says what is wrong, with the place
        raise
    return content if isinstance(content, dict) else {}
