"""`tutelage methods`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.commands.run import CONFIG


@click.command()
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def methods(config: Path, as_json: bool) -> None:
    """Compare the fine-tuning methods on the student.

    Puts each method on the model that CONFIG names and measures it: how many parameters are trained and where, whether
    the result merges into an ordinary model, its size on the disk, and how much longer one forward takes. Methods that
    a stage of CONFIG uses have that stage's settings, the others their defaults. Trains nothing.
    """
    from flows.config_file import load_config
    from flows.console import print_json, print_table
    from flows.method_table import HEADERS, caption, measure_methods, table
    from flows.signals import interruptible

    loaded = load_config(config)
    with interruptible(f"tutelage methods {config}"):
        result = measure_methods(loaded)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    print_table(HEADERS, table(result))
    click.echo(f"\n{caption(loaded, result)}", err=True)
