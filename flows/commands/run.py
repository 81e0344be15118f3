"""`tutelage run`, `tutelage refresh`, `tutelage preview` and `tutelage check`."""

from __future__ import annotations

from pathlib import Path

import click

CONFIG = click.argument("config", type=click.Path(path_type=Path, dir_okay=False))


@click.command()
@CONFIG
@click.option("--quiet", is_flag=True, help="Show the result only.")
def run(config: Path, quiet: bool) -> None:
    """Turn documents into a gated, registered model.

    Does every step that CONFIG asks for and that was not done already with equal inputs: the same command continues an
    interrupted run. Exit codes: 0 all gates passed; 6 a gate stopped it; others as in docs/errors.md.
    """
    from flows.config_file import load_config
    from flows.pipeline import run as run_pipeline
    from flows.progress import SilentReporter, TerminalReporter, clock
    from flows.signals import interruptible

    loaded = load_config(config)
    reporter = SilentReporter() if quiet else TerminalReporter()
    if not quiet:
        click.echo(f"tutelage: {loaded.project}, kept in {loaded.home}", err=True)
    with interruptible(f"tutelage run {config}"):
        summary = run_pipeline(loaded, reporter)
    click.echo(f"\n{summary.headline}  ({clock(summary.seconds)})")
    click.echo(f"report  {summary.report}")
    click.echo(f"next    {summary.next_command}")


@click.command()
@CONFIG
@click.option("--quiet", is_flag=True, help="Show the result only.")
def refresh(config: Path, quiet: bool) -> None:
    """Ask only for what is new or changed in the documents.

    Ingests, generates and curates, and writes the next dataset versions; trains nothing. What was removed from the
    documents is not in them.
    """
    from flows.config_file import load_config
    from flows.pipeline import refresh as refresh_data
    from flows.progress import SilentReporter, TerminalReporter, clock
    from flows.signals import interruptible

    loaded = load_config(config)
    with interruptible(f"tutelage refresh {config}"):
        summary = refresh_data(loaded, SilentReporter() if quiet else TerminalReporter())
    click.echo(
        f"\n{summary.added} new, {summary.changed} changed, {summary.removed} removed, {summary.unchanged} unchanged; "
        f"{summary.asked:,} requests asked, {summary.accepted:,} items accepted  ({clock(summary.seconds)})"
    )
    for name, dataset in summary.datasets.items():
        click.echo(f"{name:<12} {dataset}")


@click.command()
@CONFIG
@click.option("-n", "chunks", type=click.IntRange(1), default=5, show_default=True, help="How many chunks.")
def preview(config: Path, chunks: int) -> None:
    """Try the prompts and checks on a few chunks.

    Asks the teacher about a few chunks of different documents, judges what it wrote, shows every item with its verdict,
    and says what the whole job would take and may give. The answers are kept: a later run does not ask for them again.
    """
    from flows.config_file import load_config
    from flows.preview import preview as preview_data
    from flows.progress import TerminalReporter
    from flows.signals import interruptible

    loaded = load_config(config)
    with interruptible(f"tutelage preview {config}"):
        seen = preview_data(loaded, TerminalReporter(), chunks)
    click.echo("")
    for line in seen.lines():
        click.echo(line)


@click.command()
@CONFIG
def check(config: Path) -> None:
    """Check a configuration and say what it would do.

    Reads CONFIG, the documents and the suites; keeps nothing, and starts only what parses documents other than text.
    """
    from flows.config_file import load_config
    from flows.plan import describe

    click.echo(describe(load_config(config)))
