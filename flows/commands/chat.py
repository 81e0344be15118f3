"""`tutelage chat`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flows.project import project_options


@click.command()
@click.argument("question", required=False)
@click.option("--stage", default="production", show_default=True, help="Stage, model id, or the beginning of an id.")
@click.option("--system", default=None, help="System message put before each question.")
@click.option("--max-tokens", default=128, show_default=True, type=click.IntRange(1, 8192), help="Longest answer.")
@project_options
def chat(
    question: str | None, stage: str, system: str | None, max_tokens: int, config: Path | None, home: Path | None
) -> None:
    """Ask a registered model.

    Without a QUESTION, one is read per line until the end of input. Answers are greedy, on standard output; which model
    answers is said on standard error. Its files are verified first.
    """
    from flows.conversation import answer, open_model
    from flows.project import catalogue_home

    model = open_model(catalogue_home(config, home), stage)
    click.echo(f"{model.version} ({stage}) answers", err=True)
    if question is not None:
        questions = [question]
    elif sys.stdin.isatty():
        while line := click.prompt("?", default="", show_default=False, prompt_suffix=" ", err=True).strip():
            click.echo(answer(model, [line], system=system, max_tokens=max_tokens)[0])
        return
    else:
        questions = [line.strip() for line in sys.stdin if line.strip()]
    for text in answer(model, questions, system=system, max_tokens=max_tokens):
        click.echo(text)
