"""What the home page of a project shows: models, stages, gates, dataset versions and runs over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from data_catalog.dataset_lookup import KnownDataset
from data_catalog.evaluation_records import GateRecord
from data_catalog.records import RunStatus, Stage, StepRun
from data_catalog.registry import ModelDetails, RegistryEvent
from evaluation.scoring import SuiteScore
from flows.report.charts import Interval, OutcomeRow, TimePoint, TimeSeries
from flows.report.words import duration, number, percent, short

RUNS_SHOWN = 100
OUTCOMES: Mapping[str, str] = {
    RunStatus.DONE: "pass",
    RunStatus.FAILED: "fail",
    RunStatus.RUNNING: "inconclusive",
}
"""How a run's status is coloured."""


@dataclass(frozen=True, kw_only=True)
class OverviewData:
    """A project as its catalogue has it; every sequence is the newest first."""

    project: str
    made: float
    """Seconds since the epoch."""
    home: str
    models: tuple[ModelDetails, ...] = ()
    scores: Mapping[str, Mapping[str, SuiteScore]] = field(default_factory=dict)
    """Model version to suite to what it scored."""
    base: Mapping[str, SuiteScore] = field(default_factory=dict)
    """What the base of the newest model scored, by suite."""
    stages: Mapping[Stage, str] = field(default_factory=dict)
    """Stage to the version that it points to."""
    events: tuple[RegistryEvent, ...] = ()
    gates: tuple[GateRecord, ...] = ()
    datasets: tuple[KnownDataset, ...] = ()
    runs: tuple[StepRun, ...] = ()
    report: str = ""
    """The report of the last run, relative to the page; empty where there is none."""


class Figure(NamedTuple):
    """One key figure under the headline."""

    value: str
    label: str


class ModelRow(NamedTuple):
    """One model version with what it scored, as text."""

    details: ModelDetails
    scores: tuple[tuple[str, str], ...]


class GateRow(NamedTuple):
    """One decision of a gate with its reasons."""

    gate: GateRecord
    reasons: tuple[str, ...]


def headline(data: OverviewData) -> str:
    """Return what stands in production, or what is missing for that."""
    production = data.stages.get(Stage.PRODUCTION)
    if production is not None:
        return f"{short(production)} is in production"
    return "nothing is in production yet" if data.models else "no model has been registered yet"


def figures(data: OverviewData) -> list[Figure]:
    """Return how much there is of each."""
    counted = (
        (len(data.models), "model version"),
        (len({known.version.id for known in data.datasets}), "dataset version"),
        (len(data.gates), "gate"),
        (len(data.runs), "run of a step"),
    )
    plural = {"run of a step": "runs of steps"}
    return [Figure(number(count), name if count == 1 else plural.get(name, f"{name}s")) for count, name in counted]


def suites(data: OverviewData) -> list[str]:
    """Return every suite that a registered model was asked, sorted."""
    return sorted({suite for scores in data.scores.values() for suite in scores})


def score_series(data: OverviewData, suite: str) -> TimeSeries:
    """Return what the model versions scored on a suite, in the order in which they were registered."""
    found = []
    for details in reversed(data.models):
        total = data.scores.get(details.version.id, {}).get(suite)
        if total is not None and total.score is not None:
            interval = None if total.interval is None else Interval(*total.interval)
            kind = "dot" if Stage.PRODUCTION in details.stages else "dot hollow"
            found.append(TimePoint(details.registered_at, total.score, interval, kind))
    base = data.base.get(suite)
    return TimeSeries(suite, tuple(found), None if base is None else base.score)


def row_series(data: OverviewData) -> list[TimeSeries]:
    """Return the number of rows of each dataset name over time."""
    found: dict[str, list[TimePoint]] = {}
    for known in reversed(data.datasets):
        point = TimePoint(known.named_at, float(known.version.rows), None, "dot")
        found.setdefault(known.version.name, []).append(point)
    return [TimeSeries(name, tuple(points), None) for name, points in sorted(found.items())]


def model_rows(data: OverviewData) -> list[ModelRow]:
    """Return the model versions, the newest first."""
    rows = []
    for details in data.models:
        scored = data.scores.get(details.version.id, {})
        rows.append(ModelRow(details, tuple((suite, percent(scored[suite].score)) for suite in sorted(scored))))
    return rows


def outcome_rows(data: OverviewData) -> list[OutcomeRow]:
    """Return what the gate of each training stage said over time."""
    found: dict[str, list[tuple[float, str]]] = {}
    for gate in reversed(data.gates):
        found.setdefault(gate.stage_name, []).append((gate.created_at, gate.outcome.lower()))
    return [OutcomeRow(stage, tuple(marks)) for stage, marks in found.items()]


def gate_rows(data: OverviewData) -> list[GateRow]:
    """Return the gates' decisions, the newest first."""
    return [GateRow(gate, tuple(_reasons(gate.comparisons))) for gate in data.gates]


def _reasons(comparisons: Sequence[Mapping[str, object]]) -> list[str]:
    return [str(comparison["reason"]) for comparison in comparisons if comparison.get("reason")]


def run_seconds(run: StepRun) -> str:
    """Return how long a run took; a dash while it goes on."""
    return "–" if run.ended_at is None else duration(run.ended_at - run.started_at)


def event_text(event: RegistryEvent) -> str:
    """Return what happened to a stage, in a few words."""
    if event.action == "refuse":
        return f"refuse: its server did not take {short(event.model_id)} for {event.stage.value}"
    replaced = event.details.get("replaced")
    was = f", was {short(str(replaced))}" if replaced and replaced != event.model_id else ""
    override = event.details.get("override")
    return f"{event.action}: {event.stage.value} is {short(event.model_id)}{was}" + (
        f"; gates overridden: {override}" if override else ""
    )
