"""`tutelage overview`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.project import project_options


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the page is written; by default reports/index.html in the project's home.",
)
@project_options
def overview(out: Path | None, config: Path | None, home: Path | None) -> None:
    """Write the home page of a project: models, stages, gates, data, runs.

    One HTML file that works offline: what every registered version scored, what the gates said, dataset versions and
    runs over time, as the catalogue has them now.
    """
    from data_catalog.catalogue import Catalogue
    from flows.overview import write_home_page
    from flows.project import catalogue_home

    click.echo(f"page  {write_home_page(Catalogue(catalogue_home(config, home)), out)}")
