"""`tutelage forget`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.project import project_options


@click.command()
@click.argument("document")
@click.option("--plan", is_flag=True, help="Show what the document has touched; nothing is changed (the default).")
@click.option("--apply", is_flag=True, help="Keep the document out of the next dataset versions, file or no file.")
@click.option("--undo", is_flag=True, help="Take --apply back.")
@project_options
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON, with every item.")
def forget(
    document: str, plan: bool, apply: bool, undo: bool, config: Path | None, home: Path | None, as_json: bool
) -> None:
    """Keep a document out, and find the models that saw it.

    DOCUMENT is a path (whatever stands there, now and later) or a document's id (this text, wherever it lies). The plan
    lists every item, dataset version and model that the document has touched, and the cheapest way to a model that
    never saw it. Models that are there are not changed, nor is the log.
    """
    from data_catalog.catalogue import Catalogue
    from data_catalog.forgetting import plan_forgetting
    from flows import forgetting
    from flows.console import print_json
    from flows.project import catalogue_home
    from flows.promotion import actor

    if plan + apply + undo > 1:
        raise click.UsageError("--plan, --apply and --undo exclude one another")
    found = catalogue_home(config, home)
    if undo:
        click.echo(forgetting.undo(found, document))
        return
    if apply:
        click.echo(forgetting.forget(found, document, actor=actor()), err=as_json)
    result = plan_forgetting(Catalogue(found), document)
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        click.echo("\n".join(forgetting.plan_lines(result)))
