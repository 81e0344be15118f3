"""`tutelage diagnose`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.project import project_options


@click.command()
@click.argument("model")
@click.option("--suite", default="gold", show_default=True, help="The suite whose failures are looked into.")
@project_options
@click.option("--json", "as_json", is_flag=True, help="Print every failure as JSON.")
def diagnose(model: str, suite: str, config: Path | None, home: Path | None, as_json: bool) -> None:
    """Say why a model failed what it failed.

    For every failed sample: which document it is about, and where the fact was lost: never generated, rejected by a
    check, not trained on, or trained on and not learned. MODEL is an id, the beginning of one, or a stage.
    """
    from flows.console import print_json
    from flows.diagnosis import diagnose as diagnose_model
    from flows.project import catalogue_home

    found = diagnose_model(catalogue_home(config, home), model, suite)
    if as_json:
        print_json(
            [
                {
                    "question": failure.score.question,
                    "answers": list(failure.score.answers),
                    "said": failure.score.completion,
                    "document": failure.document,
                    "cause": failure.cause.value,
                    "check": failure.check,
                }
                for failure in found.failures
            ]
        )
        return
    for line in found.lines():
        click.echo(line)
