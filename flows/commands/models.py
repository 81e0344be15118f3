"""`tutelage models`, `approve`, `promote` and `rollback`: what is registered, and which stage names it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.project import project_options

if TYPE_CHECKING:
    from flows.promotion import StageChange

STAGES = ("candidate", "staging", "production", "archived")
"""The values of `data_catalog.records.Stage`, which a test compares: importing it would slow `--help` down."""
PROMOTABLE = ("staging", "production")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


@click.group(invoke_without_command=True)
@project_options
@json_option
@click.pass_context
def models(context: click.Context, config: Path | None, home: Path | None, as_json: bool) -> None:
    """List model versions and the stages they hold."""
    context.obj = (config, home, as_json)
    if context.invoked_subcommand is None:
        from flows.project import catalogue_home
        from flows.promotion import list_models

        _print_rows(list_models(catalogue_home(config, home)), as_json, "no model is registered yet")


@models.command()
@click.argument("model")
@project_options
@json_option
@click.pass_context
def show(context: click.Context, model: str, config: Path | None, home: Path | None, as_json: bool) -> None:
    """Show one MODEL: its files, gates and lineage. MODEL is an id, the beginning of one, or a stage."""
    from flows.console import print_json
    from flows.project import catalogue_home
    from flows.promotion import describe_model, description_lines

    config, home, as_json = _inherited(context, config, home, as_json)
    details = describe_model(catalogue_home(config, home), model)
    if as_json:
        print_json(details.model_dump(mode="json"))
    else:
        click.echo("\n".join(description_lines(details)))


@models.command()
@click.argument("stage", type=click.Choice(STAGES))
@project_options
@json_option
@click.pass_context
def history(context: click.Context, stage: str, config: Path | None, home: Path | None, as_json: bool) -> None:
    """Show every event of a STAGE, oldest first: who let it point where, when, and why."""
    from data_catalog.records import Stage
    from flows.project import catalogue_home
    from flows.promotion import stage_history

    config, home, as_json = _inherited(context, config, home, as_json)
    _print_rows(
        stage_history(catalogue_home(config, home), Stage(stage)), as_json, f"nothing has happened to {stage} yet"
    )


@click.command()
@click.argument("version")
@click.option("--to", required=True, type=click.Choice(PROMOTABLE), help="The stage that shall point to VERSION.")
@click.option("--override", is_flag=True, help="Promote although the gates did not pass; needs --reason.")
@click.option("--reason", default="", help="Why the gates are overridden; kept in the log for ever.")
@click.option("--expect", help="Refuse unless the stage points to this model now: an id, its beginning, or `none`.")
@project_options
@json_option
def promote(
    version: str,
    to: str,
    override: bool,
    reason: str,
    expect: str | None,
    config: Path | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Let a stage name point to a model version.

    VERSION is an id, the beginning of one, or a stage such as `candidate`. Refused unless the gates passed, the files
    are, byte for byte, those that were gated, and, where `promotion.needs_approval` names the stage, an approval is in
    force, which --override does not replace.
    """
    from data_catalog.records import Stage
    from flows.project import run_project, stages_needing_approval
    from flows.promotion import actor, promote_model

    if reason and not override:
        raise click.UsageError("--reason goes with --override")
    project = run_project(config, home)
    change = promote_model(
        project.home,
        version,
        Stage(to),
        override_reason=reason if override else None,
        expected=expect,
        needs_approval=stages_needing_approval(project),
        actor=actor(),
    )
    _print_change(change, as_json)


@click.command()
@click.argument("version")
@click.option("--to", required=True, type=click.Choice(PROMOTABLE), help="The stage that VERSION may enter.")
@click.option("--expires", default="7d", show_default=True, help="How long it holds: a number and s, m, h, d or w.")
@click.option("--by", help="Who approves; by default the user and machine that run the command.")
@project_options
@json_option
def approve(
    version: str, to: str, expires: str, by: str | None, config: Path | None, home: Path | None, as_json: bool
) -> None:
    """Approve a model version for a stage, until a time.

    Binds the approval to the files of VERSION and to what its gates say: any change of either voids it. It moves
    nothing; `tutelage promote` does. Stages that demand it stand in `promotion.needs_approval` of the configuration.
    """
    from dataclasses import asdict

    from data_catalog.records import Stage
    from flows.console import print_json
    from flows.project import catalogue_home
    from flows.promotion import actor, approve_model

    name = actor() if by is None else by
    given = approve_model(catalogue_home(config, home), version, Stage(to), actor=name, expires=expires)
    if as_json:
        print_json(asdict(given))
    else:
        click.echo(given.sentence)


@click.command()
@click.argument("stage", type=click.Choice(PROMOTABLE))
@project_options
@json_option
def rollback(stage: str, config: Path | None, home: Path | None, as_json: bool) -> None:
    """Put back what a stage held before."""
    from data_catalog.records import Stage
    from flows.project import catalogue_home
    from flows.promotion import actor, roll_back

    _print_change(roll_back(catalogue_home(config, home), Stage(stage), actor=actor()), as_json)


def _inherited(
    context: click.Context, config: Path | None, home: Path | None, as_json: bool
) -> tuple[Path | None, Path | None, bool]:
    """Let `tutelage models --home X show …` mean the same as `tutelage models show … --home X`."""
    outer_config, outer_home, outer_json = context.obj
    return config or outer_config, home or outer_home, as_json or outer_json


def _print_rows(rows: list[dict[str, object]], as_json: bool, empty: str) -> None:
    from flows.console import print_json, print_table

    if as_json:
        print_json(rows)
    elif rows:
        print_table([key.replace("_", " ") for key in rows[0]], [list(row.values()) for row in rows])
    else:
        click.echo(empty)


def _print_change(change: StageChange, as_json: bool) -> None:
    from dataclasses import asdict

    from flows.console import print_json

    if as_json:
        print_json(asdict(change))
    else:
        click.echo(change.sentence)
