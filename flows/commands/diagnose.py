"""`tutelage diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.project import Project, project_options

if TYPE_CHECKING:
    from flows.diagnosis import Diagnosis


@click.command()
@click.argument("model")
@click.option("--suite", default="gold", show_default=True, help="The suite whose failures are looked into.")
@click.option(
    "--write-target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write what was failed to a new file for `generate.targets`: a run then asks about that alone.",
)
@click.option(
    "--samples",
    type=click.IntRange(1, 64),
    help="With --write-target: completions per prompt; by default as many as each recipe asks for.",
)
@project_options
@click.option("--json", "as_json", is_flag=True, help="Print every failure as JSON.")
def diagnose(
    model: str,
    suite: str,
    write_target: Path | None,
    samples: int | None,
    config: Path | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Say why a model failed what it failed.

    For every failed sample: which document it is about, under which headings, and where the fact was lost: never
    generated, rejected by a check, not trained on, or trained on and not learned. MODEL is an id, the beginning of one,
    or a stage.
    """
    from flows.console import print_json
    from flows.diagnosis import diagnose as diagnose_model
    from flows.project import run_project

    if samples is not None and write_target is None:
        raise click.UsageError("--samples goes with --write-target")
    project = run_project(config, home)
    found = diagnose_model(project.home, model, suite)
    if write_target is not None:
        _write_target(project, found, model, samples, write_target)
    if as_json:
        print_json(
            [
                {
                    "question": failure.score.question,
                    "answers": list(failure.score.answers),
                    "said": failure.score.completion,
                    "document": failure.document,
                    "topic": failure.topic,
                    "cause": failure.cause.value,
                    "check": failure.check,
                }
                for failure in found.failures
            ]
        )
        return
    for line in found.lines():
        click.echo(line)


def _write_target(project: Project, found: Diagnosis, model: str, samples: int | None, path: Path) -> None:
    from data_catalog.catalogue import Catalogue
    from data_catalog.errors import ConfigError
    from data_catalog.registry import Registry
    from flows.config_file import load_config
    from flows.target_file import find_failure_target, write_new

    if project.config is None:
        raise ConfigError(
            "--write-target needs the project's configuration, whose recipes are what is asked with",
            next_step="name it with --config",
        )
    catalogue = Catalogue(project.home)
    version = Registry(catalogue).show(model).version.id
    target = find_failure_target(catalogue, load_config(project.config), found, version, samples)
    write_new(path, target.lines())
    failed = target.failed
    click.echo(
        f"{path}: {len(failed.chunks):,} chunks and {len(failed.unknown):,} documents state what {failed.failures:,} "
        f"failed samples ask ({failed.elsewhere:,} are stated nowhere). Name it under generate.targets and run again.",
        err=True,
    )
