"""`tutelage serve`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that the server is bound to.")
@click.option("--port", default=4200, show_default=True, type=click.IntRange(1, 65535), help="Port of the server.")
def serve(config: Path, host: str, port: int) -> None:
    """Serve the flows: Prefect UI, typed forms, schedule.

    The flows of CONFIG are `pipeline`, `refresh` and `promote`; only `refresh` runs by itself, on the schedule. Starts
    a Prefect server of its own, or uses the one that PREFECT_API_URL names. Runs until Ctrl-C, which ends the server
    and every run.
    """
    from flows.server import serve_project

    serve_project(config, host=host, port=port, say=click.echo)
