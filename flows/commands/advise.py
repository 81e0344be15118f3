"""`tutelage advise`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from data_catalog.errors import ConfigError

GOALS = ("knowledge", "behaviour", "preference", "classification", "tasks")
"""The values of `flows.advising.given.Goal`, which a test compares: importing it would slow `--help` down."""
_POSITIVE = click.FloatRange(0, min_open=True)
_Value = TypeVar("_Value")


@click.command()
@click.option("--student", type=click.Path(path_type=Path), help="The model directory that is to be trained.")
@click.option(
    "--goal",
    type=click.Choice(GOALS),
    help="knowledge: answer from the documents. behaviour: follow instructions, a format, a style. preference: also be "
    "liked, safe, honest. classification: one of a few labels. tasks: one of many on one base.",
)
@click.option("--documents", type=click.Path(path_type=Path), help="Files or a folder; counted as a run would.")
@click.option("--examples", type=click.IntRange(1), help="Number of examples, instead of --documents.")
@click.option("--tokens", type=click.IntRange(1), help="Tokens of --examples together, or alone of the documents.")
@click.option("--max-length", type=click.IntRange(16), default=1024, show_default=True, help="Longest row in tokens.")
@click.option("--replay", type=click.Path(path_type=Path), help="JSONL of general rows that keep other skills.")
@click.option("--gpu-gib", type=_POSITIVE, help="Memory of the GPU of another machine, instead of this one's.")
@click.option("--cpu-gib", type=_POSITIVE, help="Main memory of that machine; alone: it has no GPU.")
@click.option("--tflops", type=_POSITIVE, help="Speed of a large product on it, in 10^12 operations a second.")
@click.option("--teacher", help="A model directory or hub name that is written into the file.")
@click.option("--write", "target", type=click.Path(path_type=Path, dir_okay=False), help="Write a configuration file.")
@click.option("--overwrite", is_flag=True, help="Let --write replace a file.")
def advise(
    student: Path | None,
    goal: str | None,
    documents: Path | None,
    examples: int | None,
    tokens: int | None,
    max_length: int,
    replay: Path | None,
    gpu_gib: float | None,
    cpu_gib: float | None,
    tflops: float | None,
    teacher: str | None,
    target: Path | None,
    overwrite: bool,
) -> None:
    """Plan the training stages for a model, a machine and a goal.

    Says which stages and methods, with batch size, length, memory and time, what does not fit and what would, and the
    reason of every setting. On a terminal it asks for what is missing. Trains nothing, loads no weights. Ends with
    status 10 where nothing fits.
    """
    from flows.advising import given
    from flows.advising.planning import advise as planned
    from flows.advising.planning import check_fits
    from flows.advising.words import lines
    from flows.advising.written import check_target, configuration, write

    if target is not None:
        check_target(target, overwrite=overwrite)
    elif overwrite:
        raise ConfigError("--overwrite goes with --write FILE", valid="both or neither")
    if documents is not None and (examples is not None or tokens is not None):
        raise ConfigError("--documents is counted; --examples and --tokens stand in for it", valid="one or the other")
    if replay is not None and not replay.is_file():
        raise ConfigError(f"no replay file at {replay}", valid="JSONL of rows", next_step="correct --replay")
    model = given.read_student(student or _ask("--student DIR", "Student (model directory)", Path))
    if documents is None and examples is None and tokens is None:
        documents = _ask("--documents PATH, or --examples N", "Documents (file or folder)", Path)
    wanted = given.Goal(goal or _ask("--goal NAME", f"Goal ({', '.join(GOALS)})", _goal))
    speed = tflops * 1e12 if tflops is not None else None
    named = gpu_gib is not None or cpu_gib is not None
    machine = given.named_machine(gpu_gib, cpu_gib, speed) if named else given.this_machine(speed)
    chunk = given.chunk_tokens_for(min(max_length, model.positions or max_length))
    data = (
        given.documents_data(documents, model.path, chunk)
        if documents is not None
        else given.counted_data(examples, tokens, chunk)
    )
    advice = planned(model, machine, data, wanted, max_length=max_length, replay=replay)
    if target is not None and advice.fits:  # before it is told: who reads only its head has the file all the same
        write(target, configuration(advice, target.resolve().parent, teacher), overwrite=overwrite)
    for line in lines(advice):
        click.echo(line)
    check_fits(advice)
    if target is None:
        click.echo("\nnext        the same command with --write tutelage.yaml writes this as a configuration", err=True)
        return
    click.echo(
        f"\nnext        {target} is written: fill in what says PLACEHOLDER, then tutelage check {target}", err=True
    )


def _ask(option: str, question: str, kind: Callable[[str], _Value]) -> _Value:
    """Ask on a terminal; elsewhere nobody is there to answer."""
    if not sys.stdin.isatty():
        raise ConfigError(f"{option} is missing", next_step="tutelage advise --help lists the options")
    answer: _Value = click.prompt(question, value_proc=kind, err=True)
    return answer


def _goal(answer: str) -> str:
    return str(click.Choice(GOALS).convert(answer, None, None))
