"""`tutelage gc`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--apply", is_flag=True, help="Delete what is listed; without it nothing is touched.")
@click.option("--keep", multiple=True, help="A model, dataset or run to keep: an id or its beginning. May be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def gc(config: Path, apply: bool, keep: tuple[str, ...], as_json: bool) -> None:
    """List or delete what nothing needs any more.

    Model versions, datasets and run folders of CONFIG's project are kept if a stage points to them, could be rolled
    back to them, or was approved for them; if --keep or the configuration's student names them; if they are the newest
    dataset of their name or a run that was not finished; or if something that is kept was made from them. The log and
    the lineage keep what is deleted here.
    """
    from dataclasses import asdict

    from flows.console import print_json, print_table
    from flows.garbage import collect_garbage, list_garbage
    from flows.project import run_project
    from flows.promotion import actor

    project = run_project(config)
    found = collect_garbage(project, keep, actor=actor()) if apply else list_garbage(project, keep)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    if found:
        print_table(["kind", "id", "MB", "path"], [(o.kind, o.id, f"{o.bytes / 1e6:.1f}", o.path) for o in found])
    total = f"{len(found):,} unreachable, {sum(one.bytes for one in found) / 1e6:.1f} MB"
    done = "deleted" if apply else "nothing was deleted; --apply deletes them"
    click.echo(f"{total}; {done}" if found else "nothing to delete")
