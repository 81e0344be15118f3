"""Settings into a machine's memory: the least costly change after which a stage fits, by `training.footprint`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flows.advising.given import LIBRARIES, Machine
from training.compatibility import refusal
from training.footprint import FLOAT, Footprint, Shape, largest_batch, next_pieces, predict, remedies, size
from training.stage_specs import StageSpec

SHORTEST = 128
"""Tokens below which no `max_length` is advised: a question with its answer would hardly fit."""


@dataclass(frozen=True)
class Fitted:
    """A stage as it fits, or as it comes nearest to fitting."""

    spec: StageSpec
    footprint: Footprint
    fits: bool
    place: int
    """Which of the specs it was made from."""
    changed: dict[str, Any]
    """What was changed of that spec."""
    passed_over: tuple[str, ...]
    """What does not fit, in words."""
    instead: tuple[str, ...]
    """Other single changes of the first spec after which it would fit as well."""


def how(machine: Machine, spec: StageSpec) -> dict[str, Any]:
    """Return the arguments of `predict` and `remedies` for a machine."""
    half = machine.gpu and spec.precision != "float32"
    return {"libraries": LIBRARIES, "gpu": machine.gpu, "half": half}


def told(shape: Shape, spec: StageSpec, machine: Machine) -> Footprint:
    """Return what a stage takes at most, when all rows are as long as `max_length` lets them be."""
    return predict(shape, spec, largest_batch(spec), **how(machine, spec))


def fit(shape: Shape, specs: Sequence[StageSpec], machine: Machine) -> Fitted:
    """Return the first spec that fits, with as little changed as possible.

    Of each spec in turn: as it is; the batch in equal pieces with as many more of them per step, which leaves the
    result as it is; gradient checkpointing, which takes about a third more time. Where none fits, the same with half
    of `max_length`, and half of that: rows are lost then.
    """
    over: list[str] = []
    nearest: Fitted | None = None
    for length in _lengths(specs[0].max_length):
        for place, spec in enumerate(specs):
            tries = [_tried(shape, machine, spec, place, length, way) for way in ways(spec)]
            fitting = next((tried for tried in tries if tried.fits), None)
            if fitting is not tries[0]:
                over.append(_too_large(tries, found=fitting is not None))
            if fitting is not None:
                return _explained(shape, specs[0], machine, fitting, over)
            nearest = min([*tries, *([nearest] if nearest else [])], key=lambda tried: tried.footprint.total)
    assert nearest is not None
    return _explained(shape, specs[0], machine, nearest, over)


def _lengths(longest: int) -> Iterator[int]:
    yield longest
    while (longest := longest // 2) >= SHORTEST:
        yield longest


def _tried(shape: Shape, machine: Machine, spec: StageSpec, place: int, length: int, way: dict[str, Any]) -> Fitted:
    short = {"max_length": length} if length < spec.max_length else {}
    changed = {**way, **short}
    tried = spec.model_copy(update=changed)
    taken = told(shape, tried, machine)
    return Fitted(tried, taken, taken.total <= machine.safe, place, changed, (), ())


def ways(spec: StageSpec) -> Iterator[dict[str, Any]]:
    """Yield the changes that leave the rows and the rows of a step as they are; none first, the least costly next."""
    for recompute in (False, True):
        if recompute and refusal(spec.method, spec.stage_name, packing=spec.packs, recompute=True) is not None:
            return
        pieces: int | None = 1
        while pieces is not None:
            batch = {
                "batch_size": spec.batch_size // pieces,
                "gradient_accumulation": spec.gradient_accumulation * pieces,
            }
            yield (batch if pieces > 1 else {}) | ({"gradient_checkpointing": True} if recompute else {})
            pieces = next_pieces(spec.batch_size, pieces)


def host_need(shape: Shape) -> int:
    """Return the bytes of main memory that a training on a GPU takes: the libraries, and the base it is merged onto."""
    return LIBRARIES + shape.parameters * FLOAT


def _too_large(tries: Sequence[Fitted], *, found: bool) -> str:
    """Return what a spec takes as it is, and, where no change of it was enough, after the one that saves most."""
    first, least = tries[0], min(tries, key=lambda tried: tried.footprint.total)
    spec = first.spec
    text = f"{spec.method.name}, batch_size: {spec.batch_size}, max_length: {spec.max_length}"
    text += f": {size(first.footprint.total)}"
    return text if found else f"{text}, {size(least.footprint.total)} at the least"


def _explained(shape: Shape, first: StageSpec, machine: Machine, fitted: Fitted, over: Sequence[str]) -> Fitted:
    instead: tuple[str, ...] = ()
    if over:
        found = remedies(shape, first, largest_batch(first), machine.safe, **how(machine, first))
        others = [remedy for remedy in found if remedy.footprint != fitted.footprint]
        instead = tuple(f"{remedy.change} ({size(remedy.footprint.total)})" for remedy in others)
    return replace(fitted, passed_over=tuple(over), instead=instead)
