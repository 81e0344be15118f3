"""`tutelage methods`: the fine-tuning methods side by side, measured on the configured student."""

from __future__ import annotations

from typing import get_args

from flows import workers
from flows.config import Config
from training.method_specs import AnyMethod
from training.specs import MeasureJob, MeasureResult, MethodMeasure

HEADERS = ("method", "trained", "parameters", "share", "merges", "stored", "delay", "data it wants")


def methods_of(config: Config) -> tuple[AnyMethod, ...]:
    """Return every method once: with the settings of the last stage that uses it, with its defaults elsewhere."""
    every: dict[str, AnyMethod] = {method.name: method for method in (kind() for kind in get_args(AnyMethod))}
    every |= {stage.train.method.name: stage.train.method for stage in config.stages}
    return tuple(every.values())


def measure_methods(config: Config) -> MeasureResult:
    """Measure all methods on the student, in a process of their own.

    Raises:
        TrainingError: the student can't be used.
    """
    return workers.measure(MeasureJob(model=config.student.model, methods=methods_of(config)), home=config.home)


def table(result: MeasureResult) -> list[tuple[str, ...]]:
    """Return one row of words per method, in the order of `HEADERS`."""
    return [_row(measure) for measure in result.methods]


def caption(config: Config, result: MeasureResult) -> str:
    """Return what was measured on what."""
    return (
        f"measured on {config.student.model} ({result.parameters:,} parameters, {result.device}): "
        f"delay of one forward of {result.tokens} tokens with the adapter unmerged, median of {result.repeats} pairs"
    )


def _row(measure: MethodMeasure) -> tuple[str, ...]:
    method = measure.method
    if measure.refused:
        return (method.name, f"does not fit this model: {measure.refused}", *("" for _ in HEADERS[2:]))
    delay = "none" if measure.delay is None else f"{100 * measure.delay:+.0f} %"
    return (
        method.name,
        method.sits,
        f"{measure.trainable:,}",
        f"{100 * measure.trainable / measure.total:.3g} %",
        "yes" if method.merges else "no",
        _size(measure.stored_bytes),
        f"{delay}, none merged" if method.merges and measure.delay is not None else delay,
        method.wants,
    )


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
