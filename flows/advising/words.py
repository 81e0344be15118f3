"""An advice as text: the student, the machine, the data, then every stage with its settings and their reasons."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from flows.advising.planning import STAGES, Advice, Choice, PlannedStage
from flows.progress import clock
from training.footprint import size

WIDTH = 110
_LABEL = 12


def lines(advice: Advice) -> Iterator[str]:
    """Yield the advice, a line at a time."""
    yield from _entry("student", advice.student.line)
    yield from _entry("machine", advice.machine.line)
    for place, line in enumerate(advice.data.lines):
        yield from _entry("" if place else "data", line)
    yield from _entry("goal", f"{advice.goal}: {STAGES[advice.goal]}")
    for stage in advice.stages:
        yield ""
        yield from _stage(stage, advice.machine.room)
    if advice.notes:
        yield ""
    for place, note in enumerate(advice.notes):
        yield from _entry("" if place else "also", note)


def _stage(stage: PlannedStage, room: int) -> Iterator[str]:
    spec, fitted = stage.spec, stage.fitted
    yield from _entry("stage", f"{stage.name}: {spec.stage_name} by {spec.method.name}, at most {stage.steps:,} steps")
    fits = "at most" if fitted.fits else "DOES NOT FIT: the least that was found is"
    taken = fitted.footprint
    yield from _entry("memory", f"{fits} {size(taken.total)}, {size(room)} are there: {taken.sentence()}")
    time = (
        "not told without the machine's speed"
        if stage.seconds is None
        else f"at least {clock(stage.seconds)} at that speed"
    )
    yield from _entry("time", f"{time}; a run measures one step before the first and says it again")
    for place, tried in enumerate(fitted.passed_over):
        yield from _entry("" if place else "too large", tried)
    if fitted.instead and fitted.fits:
        yield from _entry("as well", f"would fit: {'; or '.join(fitted.instead)}")
    for choice in (*stage.choices, *stage.data):
        yield from _entry("", f"{choice.key}: {flow(choice.value)}")
        yield from _wrapped(choice.reason, " " * (_LABEL + 4))


def flow(value: Any) -> str:
    """Return a value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def comments(choice: Choice, indent: str) -> Iterator[str]:
    """Yield a setting's reason as lines of comment, then the setting."""
    yield from _wrapped(choice.reason, f"{indent}# ")
    yield f"{indent}{choice.key}: {flow(choice.value)}"


def _entry(label: str, text: str) -> Iterator[str]:
    yield from _wrapped(text, label.ljust(_LABEL), " " * _LABEL)


def _wrapped(text: str, first: str, later: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if later is None else later,
        break_long_words=False,
        break_on_hyphens=False,
    )
