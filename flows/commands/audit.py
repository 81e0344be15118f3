"""`tutelage audit`: whether the registry's log is what was written, and what it says."""

from __future__ import annotations

from pathlib import Path

import click

from flows.project import project_options

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


@click.group()
def audit() -> None:
    """Verify and show the registry's log."""


@audit.command()
@project_options
@json_option
def verify(config: Path | None, home: Path | None, as_json: bool) -> None:
    """Recompute the chain of hashes and find the first entry that was changed.

    Each entry covers the hash of the one before it. Names the entry that was changed, removed or put in, with what was
    expected there and what was found. Exit codes: 0 the log is whole; 9 it was tampered with.
    """
    from data_catalog.catalogue import Catalogue
    from data_catalog.registry import Registry
    from data_catalog.registry_log import tampered
    from flows.console import print_json
    from flows.project import catalogue_home

    report = Registry(Catalogue(catalogue_home(config, home))).audit()
    if as_json:
        print_json(report.model_dump(mode="json") | {"whole": report.broken is None})
    if report.broken is not None:
        raise tampered(report.broken)
    if not as_json:
        click.echo(f"{report.entries:,} entries, every hash fits; the last is {report.last_hash}")


@audit.command()
@project_options
@json_option
def show(config: Path | None, home: Path | None, as_json: bool) -> None:
    """Show every entry of the log, the oldest first: who did what, when, and on what grounds."""
    from data_catalog.catalogue import Catalogue
    from data_catalog.registry import Registry
    from flows.console import print_json, print_table
    from flows.project import catalogue_home
    from flows.promotion import log_rows

    events = Registry(Catalogue(catalogue_home(config, home))).history()
    if as_json:
        print_json([event.model_dump(mode="json") for event in events])
    elif events:
        rows = log_rows(events)
        print_table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        click.echo("the log is empty: nothing was registered yet")
