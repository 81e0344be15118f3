"""`tutelage data`: dataset versions seen, compared, sampled, and taken to and from other programs' formats."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.project import project_options

if TYPE_CHECKING:
    from data_catalog.catalogue import Catalogue

FORMATS = ("text", "messages", "sharegpt", "alpaca", "prompt_completion", "preference", "label")
"""The values of `data_catalog.row_formats.RowFormat`, which a test compares: importing it would slow `--help` down."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
format_option = click.option(
    "--format", "shape", type=click.Choice(FORMATS), help="How a row looks; by default as it is kept: its own kind."
)
VERSION_HELP = "VERSION is an id, the beginning of one, or a name (its newest version; NAME~1 is the one before)."


@click.group()
def data() -> None:
    """Look at dataset versions, compare, sample and export them."""


@data.command("list")
@project_options
@json_option
def list_(config: Path | None, home: Path | None, as_json: bool) -> None:
    """List dataset versions, the newest first."""
    from flows.console import print_json, print_table
    from flows.data_views import list_rows

    rows = list_rows(_open(config, home))
    if as_json:
        print_json(rows)
    elif rows:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        click.echo("no dataset version has been written yet")


@data.command(epilog=VERSION_HELP)
@click.argument("version")
@project_options
@json_option
def show(version: str, config: Path | None, home: Path | None, as_json: bool) -> None:
    """Show one VERSION: its recipes, documents, file, and the models trained on it."""
    from data_catalog.dataset_lookup import resolve_dataset
    from flows.console import print_json
    from flows.data_views import describe_dataset, description_lines

    catalogue = _open(config, home)
    told = describe_dataset(catalogue, resolve_dataset(catalogue, version))
    if as_json:
        print_json(told)
    else:
        _echo(description_lines(told))


@data.command(epilog=VERSION_HELP)
@click.argument("first", metavar="VERSION")
@click.argument("second", metavar="VERSION")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=0), help="Rows that are shown.")
@project_options
@json_option
def diff(first: str, second: str, limit: int, config: Path | None, home: Path | None, as_json: bool) -> None:
    """Show the rows that differ between two versions, each with its cause.

    The version that was written first is the older one, whichever is named first. A cause is what the catalogue has on
    record: a document, its chunks or their split changed, a template or model changed, a verdict changed, the stage
    selects otherwise, or the item is new.
    """
    from data_catalog.dataset_diff import diff_datasets
    from data_catalog.dataset_lookup import resolve_dataset
    from flows.console import print_json
    from flows.data_views import diff_lines

    catalogue = _open(config, home)
    found = diff_datasets(catalogue, resolve_dataset(catalogue, first), resolve_dataset(catalogue, second))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _echo(diff_lines(found, most=limit))


@data.command(epilog=VERSION_HELP)
@click.argument("version", required=False)
@project_options
@json_option
def funnel(version: str | None, config: Path | None, home: Path | None, as_json: bool) -> None:
    """Show what became of every request, check by check.

    With a VERSION, of the recipes that it has items of; without, of all. Verdicts are those that stand now.
    """
    from data_catalog.dataset_lookup import resolve_dataset
    from flows.console import print_json
    from flows.data_views import funnel_lines, funnel_of

    catalogue = _open(config, home)
    table = funnel_of(catalogue, resolve_dataset(catalogue, version) if version else None)
    if as_json:
        print_json(table.model_dump(mode="json"))
    elif table.rows:
        _echo(funnel_lines(table))
    else:
        click.echo("no items yet")


@data.command(epilog=VERSION_HELP)
@click.argument("version")
@click.option("-n", "--count", default=5, show_default=True, type=click.IntRange(min=1), help="Rows that are drawn.")
@click.option("--seed", default=0, show_default=True, type=int, help="Of the draw; equal seeds give equal rows.")
@project_options
@json_option
def sample(version: str, count: int, seed: int, config: Path | None, home: Path | None, as_json: bool) -> None:
    """Draw rows of a VERSION, beside their source and what the checks said."""
    from data_catalog.dataset_lookup import resolve_dataset
    from flows.console import print_json
    from flows.data_views import draw_sample, sample_lines

    catalogue = _open(config, home)
    drawn = draw_sample(catalogue, resolve_dataset(catalogue, version), count, seed)
    if as_json:
        print_json(drawn)
    else:
        _echo(sample_lines(drawn))


@data.command(epilog=VERSION_HELP)
@click.argument("version")
@click.argument("target", type=click.Path(path_type=Path))
@format_option
@project_options
def export(version: str, target: Path, shape: str | None, config: Path | None, home: Path | None) -> None:
    """Write a VERSION to TARGET in another program's format.

    TARGET ends in .jsonl, .json or .parquet; without an ending it becomes a directory with a card that
    `datasets.load_dataset` reads. Every row is written, in the order of the version, or none.
    """
    from data_catalog.dataset_export import export_dataset
    from data_catalog.dataset_lookup import resolve_dataset
    from data_catalog.row_formats import RowFormat

    catalogue = _open(config, home)
    known = resolve_dataset(catalogue, version)
    path = export_dataset(catalogue, known.version, target, RowFormat(shape) if shape else None)
    click.echo(f"{known.version.rows:,} rows of {known.version.id} written to {path}")


@data.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--from", "given", type=click.Choice(FORMATS), help="How SOURCE's rows look; by default what they say.")
@format_option
def convert(source: Path, target: Path, given: str | None, shape: str | None) -> None:
    """Read rows of another program and write them in another format, such as a `replay` file.

    SOURCE is a .jsonl, .json or .parquet file or a directory of `datasets`; TARGET as in `tutelage data export`. The
    format of SOURCE is told from the keys of its first row, and every other row must have it too.
    """
    from data_catalog.dataset_export import convert_rows
    from data_catalog.row_files import read_payloads
    from data_catalog.row_formats import RowFormat

    read = read_payloads(source, RowFormat(given) if given else None)
    path = convert_rows(read, target, RowFormat(shape) if shape else None)
    click.echo(f"{len(read.payloads):,} rows of the format {read.format} written to {path}")
    for key, count in read.left_out.items():
        click.echo(f"left out: `{key}` in {count:,} rows", err=True)


def _open(config: Path | None, home: Path | None) -> Catalogue:
    from data_catalog.catalogue import Catalogue
    from flows.project import catalogue_home

    return Catalogue(catalogue_home(config, home))


def _echo(lines: Iterable[str]) -> None:
    click.echo("\n".join(lines))
