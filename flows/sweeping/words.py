"""A sweep as text: the table, the best first, what it means, and the section to paste."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from evaluation.statistics import Interval
from flows.advising.words import flow
from flows.progress import clock
from flows.sweeping.sweep import Sweep
from flows.sweeping.trials import Trial


def table(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Return the headers and the rows: scores in points of a hundred with one-sided 95 % bounds."""
    names = [parameter.name for parameter in sweep.parameters]
    headers = ["trial", *names, "score", "bounds", "to as configured", "epochs", "took", "state"]
    return headers, [_row(trial, names, sweep) for trial in sweep.trials]


def _row(trial: Trial, names: Sequence[str], sweep: Sweep) -> list[str]:
    present = setting_values(sweep.as_configured, names)
    values = [flow(trial.values.get(name, present[name])) for name in names]
    score, interval, ahead = trial.score, trial.interval, None
    if trial.values and trial.share == 1:  # a share of the training is not compared with all of it
        ahead = trial.ahead_of(sweep.as_configured)
    return [
        str(trial.number) if trial.values else "as configured",
        *values,
        "" if score is None else f"{100 * score:.1f}",
        _bounds(interval, signed=False),
        _bounds(ahead, signed=True),
        "" if trial.train is None else f"{trial.train.epochs * trial.share:.3g}",
        clock(trial.seconds) if trial.seconds else "",
        trial.state.value + (f": {trial.error.splitlines()[0]}" if trial.error else ""),
    ]


def setting_values(trial: Trial, names: Sequence[str]) -> dict[str, Any]:
    """Return what a trial's settings say under these names; None where they have no such setting."""
    content = trial.train.model_dump(mode="json") if trial.train is not None else {}
    found: dict[str, Any] = {}
    for name in names:
        value: Any = content
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        found[name] = value["name"] if isinstance(value, dict) and "name" in value else value
    return found


def _bounds(interval: Interval | None, *, signed: bool) -> str:
    if interval is None:
        return ""
    sign = "+" if signed else ""
    return f"{100 * interval.lower:{sign}.1f} to {100 * interval.upper:{sign}.1f}"


def conclusion(sweep: Sweep) -> Iterator[str]:
    """Yield what the table means, and the section with the best values."""
    yield (
        f"Chosen on {len(sweep.suite.samples):,} samples of {sweep.suite.name}, which no gate asks. The best of "
        f"{len(sweep.trials)} is the luckiest too: its score here is too high; what the gate says of it is not."
    )
    if not sweep.improved:
        yield "No setting did better than those in the configuration: nothing to change."
        return
    ahead = sweep.best.ahead_of(sweep.as_configured)
    if ahead is not None and ahead.lower <= 0:
        yield (
            "It is not shown to be better than what is configured (the bounds hold 0): a larger development_share, or "
            "more rows in the suite, would tell more."
        )
    yield ""
    yield from section(sweep)


def section(sweep: Sweep) -> Iterator[str]:
    """Yield the stage with the best values as it may stand in a configuration: what differs from the defaults."""
    train = sweep.best.train
    assert train is not None, "the best trial was trained"
    content: dict[str, Any] = {"stage": train.stage, **train.model_dump(mode="json", exclude_defaults=True)}
    method = train.method.model_dump(mode="json", exclude_defaults=True)
    content["method"] = {"name": train.method.name, **method} if method else train.method.name
    yield f"# stages, {sweep.stage.name}:"
    yield from yaml.safe_dump({"train": content}, sort_keys=False, allow_unicode=True).splitlines()


def as_json(sweep: Sweep) -> dict[str, Any]:
    """Return the sweep as plain JSON, the best trial first."""
    return {
        "stage": sweep.stage.name,
        "suite": sweep.suite.name,
        "samples": len(sweep.suite.samples),
        "trials": [
            {
                "number": trial.number,
                "parameters": dict(trial.values),
                "state": trial.state.value,
                "score": trial.score,
                "bounds": trial.interval and list(trial.interval),
                "share": trial.share,
                "seconds": round(trial.seconds, 3),
                "error": trial.error,
            }
            for trial in sweep.trials
        ],
    }
