"""`tutelage trace`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.project import project_options


@click.command()
@click.argument("id")
@project_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a tree.")
def trace(id: str, config: Path | None, home: Path | None, as_json: bool) -> None:
    """Show what an id was made from and what was made of it.

    ID is that of a document, chunk, item, request, dataset or model.
    """
    from data_catalog.lineage import render_tree, trace_in
    from data_catalog.store import Store
    from flows.console import print_json
    from flows.project import CATALOGUE_NAME, catalogue_home

    node = trace_in(Store(catalogue_home(config, home) / CATALOGUE_NAME), id)
    if as_json:
        print_json(node.model_dump(mode="json"))
    else:
        click.echo(render_tree(node))
