"""`tutelage gate simulate`: how often a gate promotes a model that is no better, and one that is."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def gate() -> None:
    """Try a gate before it decides on anything."""


@gate.command()
@click.argument("spec", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--stage", help="The stage whose gate is meant; by default the last that has one.")
@click.option("--samples", type=click.IntRange(min=1), help="Give every suite so many samples, instead of its own.")
@click.option("--score", type=click.FloatRange(0, 1), help="The baseline's true score; by default 0.5.")
@click.option(
    "--correlation",
    type=click.FloatRange(0, 1),
    help="Of right answers between baseline and candidate; by default 0.5. Two unrelated models have 0.",
)
@click.option("--trials", type=click.IntRange(min=100), help="Gates decided per simulated model; by default 1000.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the draws; equal seeds give equal figures.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def simulate(spec: Path, stage: str | None, as_json: bool, **given: float | None) -> None:
    """Decide a gate on simulated models, and print how often each is promoted.

    SPEC is a project's configuration, or a file of its own with `rules` as under a stage's `gate`, `samples` (suite to
    number) and, if wanted, `correction`, `score`, `correlation`, `trials` and `seed`. One model is as good as the
    baseline, one 3 points worse, one 10 points better. The code that decides is that of a run.
    """
    from flows.console import print_json, print_table
    from flows.gate_simulation import read_spec, simulate_gate, table

    chosen = read_spec(spec, stage=stage)
    changed = chosen.changed(**{name: value for name, value in given.items() if value is not None})
    rates = simulate_gate(changed)
    if as_json:
        print_json([entry.model_dump(mode="json") for entry in rates])
        return
    click.echo(changed.sentence)
    print_table(*table(rates))
