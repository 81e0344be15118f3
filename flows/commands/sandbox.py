"""`tutelage sandbox new`: another world of the sandbox's language, with everything a run needs."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def sandbox() -> None:
    """Make a new world for the offline sandbox."""


@sandbox.command()
@click.option("--seed", type=click.IntRange(min=0), required=True, help="Which world; equal seeds give equal bytes.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="A new or empty folder.")
def new(seed: int, out: Path) -> None:
    """Write a handbook, its questions and a configuration that uses the sandbox's models."""
    from flows.sandbox import write_project

    config = write_project(seed, out)
    click.echo(f"wrote {out}\nnext  tutelage run {config}")
