"""`tutelage sweep`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.commands.run import CONFIG

SAMPLERS = ("random", "tpe")
"""The keys of `flows.sweeping.samplers.SAMPLERS`, which a test compares: importing it would slow `--help` down."""


@click.command()
@CONFIG
@click.option("--stage", required=True, help="The stage whose settings are tried.")
@click.option(
    "-p",
    "--parameter",
    "parameters",
    multiple=True,
    required=True,
    metavar="NAME=VALUES",
    help="A setting below the stage's `train`, with a range or choices: learning_rate=1e-5..1e-3 (rates are drawn on a "
    "logarithmic scale; `:log` or `:linear` behind a range says so of any), method.rank=8,16,32. Once for each.",
)
@click.option("--trials", type=click.IntRange(1), default=12, show_default=True, help="Combinations that are tried.")
@click.option("--budget", metavar="TIME", help="Begin no further trial after so much training and scoring: 90s, 2h.")
@click.option("--suite", help="The suite that chooses; by default the one that the stage's gate asks to be better.")
@click.option(
    "--sampler",
    type=click.Choice(SAMPLERS),
    default="random",
    show_default=True,
    help="random: by lot, or every combination where there are few. tpe: Optuna's, which needs the extra `sweep`.",
)
@click.option("--no-pruning", is_flag=True, help="Train every trial for all epochs.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws.")
@click.option(
    "--write", "target", type=click.Path(path_type=Path, dir_okay=False), help="Write CONFIG with the best values."
)
@click.option("--overwrite", is_flag=True, help="Let --write replace a file, such as CONFIG itself.")
@click.option("--quiet", is_flag=True, help="Show the result only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def sweep(
    config: Path,
    stage: str,
    parameters: tuple[str, ...],
    trials: int,
    budget: str | None,
    suite: str | None,
    sampler: str,
    no_pruning: bool,
    seed: int,
    target: Path | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Try settings of a stage, and choose by the gate's metric.

    Each trial trains the stage on its newest dataset version, from the model that it starts from in a run, and is
    scored as the gate scores, on samples that no gate asks (`development_share` of the suite). Trials that are not
    among the best at a ninth and at a third of the epochs end there. The same command continues an interrupted sweep.
    Registers nothing.
    """
    from data_catalog.errors import ConfigError
    from flows.config_file import load_config
    from flows.console import print_json, print_table
    from flows.progress import SilentReporter, TerminalReporter
    from flows.promotion import duration
    from flows.signals import interruptible
    from flows.sweeping import words
    from flows.sweeping.edit import check_place, write_changed
    from flows.sweeping.sweep import Wanted
    from flows.sweeping.sweep import sweep as run_sweep

    if overwrite and target is None:
        raise ConfigError("--overwrite goes with --write FILE", valid="both or neither")
    loaded = load_config(config)
    if target is not None:
        check_place(config, target, overwrite=overwrite)
    seconds = duration(budget) if budget is not None else None
    wanted = Wanted(stage, parameters, trials, seconds, suite, sampler, not no_pruning, seed)
    with interruptible("the same command: finished trials are not repeated"):
        found = run_sweep(loaded, wanted, SilentReporter() if quiet else TerminalReporter())
    if target is not None and found.improved:  # before it is told: who reads only its head has the file all the same
        assert found.best.train is not None, "the best trial was trained"
        index = loaded.stages.index(found.stage)
        write_changed(config, loaded, index, found.best.train, found.best.values, target, overwrite=overwrite)
    if as_json:
        print_json(words.as_json(found))
    else:
        print_table(*words.table(found))
        for line in words.conclusion(found):
            click.echo(line)
    if target is not None:
        done = f"tutelage run {target} trains with them and gates" if found.improved else "nothing is written"
        click.echo(f"next    {done}", err=True)
