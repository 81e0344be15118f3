"""`tutelage inspect-batch`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flows.commands.run import CONFIG


@click.command("inspect-batch")
@CONFIG
@click.option("--stage", required=True, help="The stage whose batches are looked at.")
@click.option("-n", "rows", type=click.IntRange(0), default=4, show_default=True, help="How many rows are shown.")
@click.option(
    "--rows",
    "file",
    type=click.Path(path_type=Path),
    help="Rows of this file instead: .jsonl, .json or .parquet in any format that `tutelage data convert` reads.",
)
@click.option("--dataset", help="A dataset version by id or name; by default the stage's newest.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def inspect_batch(config: Path, stage: str, rows: int, file: Path | None, dataset: str | None, as_json: bool) -> None:
    """Show a stage's tokens, roles and loss mask, and check them.

    Encodes, orders and lays out the rows with the code that trains on them, shows the first ones, and checks all:
    every answer ends in a supervised EOS, no doubled BOS, the prompt is a token prefix, padding is not EOS, the chat
    template is the base's, something carries loss, few enough rows are lost. Asks no teacher, loads no weights, trains
    nothing. Exit code 5 where a check fails.
    """
    from data_catalog.errors import ConfigError, TrainingError
    from flows.batch_view import inspect_batch as look
    from flows.batch_view import inspection_lines, wants_colour
    from flows.config_file import load_config
    from flows.console import print_json
    from flows.signals import interruptible

    if file is not None and dataset is not None:
        raise ConfigError("--rows and --dataset both name the rows", valid="one of them")
    loaded = load_config(config)
    with interruptible(f"tutelage inspect-batch {config}"):
        result = look(loaded, stage, rows=rows, file=file, dataset=dataset)
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        colour = wants_colour(sys.stdout)
        for line in inspection_lines(result, colour=colour):
            click.echo(line, color=colour)
    failed = [check for check in result.checks if not check.passed]
    if failed:
        raise TrainingError(
            f"{len(failed)} of {len(result.checks)} checks fail: {', '.join(check.name for check in failed)}",
            next_step=failed[0].fix,
        )
