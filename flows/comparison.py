"""Two models put side by side: what each name means, what both scored, what each learned from."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.catalogue import Catalogue
from data_catalog.dataset_diff import DatasetDiff, diff_datasets
from data_catalog.dataset_lookup import known_datasets
from data_catalog.errors import ConfigError, DataError
from data_catalog.evaluation_records import SampleScore
from data_catalog.records import StepRun
from data_catalog.registry import Registry
from evaluation.comparing import compare_models
from flows.promotion import moment
from flows.report.comparison import ComparedModel, ComparisonData, StageData, headline
from flows.report.views import SuiteChanges, suite_changes
from flows.report.words import clip, percent, points, visible

BASE = "base"
"""What the model that another one was trained from is called."""
RUNS = 100_000
"""Runs that are searched for a name: all."""
ANSWER_CHARACTERS = 200
FLIPPED = ("gained", "lost")


@dataclass(frozen=True)
class _Subject:
    """A model, the fingerprint that its scores are kept under, and the dataset version of each of its stages."""

    model: ComparedModel
    weights: str
    datasets: Mapping[str, str]
    base: str = ""
    project: str = ""


def compare(catalogue: Catalogue, first: str, second: str) -> ComparisonData:
    """Compare two models on every suite that both were asked, and the data that they learned from.

    Args:
        catalogue: where both are known.
        first: a model version (id, prefix, or stage), a training run (`run-...`, or a prefix of one), or `base`: the
            model that the other one was trained from. What the second is measured against.
        second: the same.

    Raises:
        ConfigError, RegistryError: a name fits nothing, or several things.
        DataError: there is no suite that both were asked.
    """
    one, other = _subjects(catalogue, first, second)
    scores = [_scores(catalogue, subject) for subject in (one, other)]
    suites = compare_models(*scores)
    if not suites:
        told = " and ".join(
            f"`{name}` on {', '.join(own) or 'none'}" for name, own in zip((first, second), scores, strict=True)
        )
        raise DataError(
            f"no suite was asked of both: scores are there of {told}",
            valid="two models that were evaluated on one suite at least",
            next_step="put the suite into the configuration and run it: what is known is not asked again",
        )
    compared = {found.suite for found in suites}
    return ComparisonData(
        project=one.project or other.project or catalogue.home.name,
        made=time.time(),
        first=one.model,
        second=other.model,
        suites=suites,
        stages=tuple(_stages(catalogue, one.datasets, other.datasets)),
        not_compared=tuple(sorted({*scores[0], *scores[1]} - compared)),
    )


def comparison_values(data: ComparisonData) -> dict[str, Any]:
    """Return a comparison as plain values, with every row of every difference."""
    return {
        "first": {"name": data.first.name, "id": data.first.id, **data.first.facts},
        "second": {"name": data.second.name, "id": data.second.id, **data.second.facts},
        "suites": [
            {
                "suite": found.suite,
                "finding": found.finding.value,
                "first": _score_values(found.first.score, found.first.interval),
                "second": _score_values(found.second.score, found.second.interval),
                "paired": found.paired.model_dump(mode="json", include=_PAIRED),
                "left_out": found.unpaired,
            }
            for found in data.suites
        ],
        "not_compared": list(data.not_compared),
        "stages": [
            {
                "stage": stage.stage,
                "first": stage.first or None,
                "second": stage.second or None,
                "diff": None if stage.diff is None else stage.diff.model_dump(mode="json"),
            }
            for stage in data.stages
        ],
    }


_PAIRED = {"n", "unscored", "difference", "interval", "p_value", "adjusted_p", "gained", "lost", "needed_n"}


def score_table(data: ComparisonData) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows of the scores, for a terminal."""
    first, second = data.names
    headers = ["suite", first, "95 % bounds", second, "95 % bounds", "points", "bounds", "won/lost", "p", "finding"]
    rows = []
    for found in data.suites:
        paired = found.paired
        bounds = "" if paired.interval is None else f"{points(paired.interval[0])} to {points(paired.interval[1])}"
        rows.append(
            [
                found.suite,
                percent(found.first.score, 1),
                _bounds(found.first.interval),
                percent(found.second.score, 1),
                _bounds(found.second.interval),
                points(paired.difference),
                bounds,
                f"{len(paired.gained):,}/{len(paired.lost):,}",
                "" if paired.p_value is None else f"{paired.p_value:.2g}",
                found.finding.value,
            ]
        )
    return headers, rows


def comparison_lines(data: ComparisonData, *, most: int) -> Iterator[str]:
    """Yield what stands around the table: who is compared, the flipped answers, the data."""
    first, second = data.names
    for found in data.suites:
        changes = suite_changes(found.suite, found.before, found.after, shown=most)
        yield from _flip_lines(changes, first, second)
        if found.unpaired:
            yield f"  {found.suite}: {found.unpaired:,} samples left out, not asked of both in the same words"
    if data.not_compared:
        yield f"\nnot compared, since not both were asked: {', '.join(data.not_compared)}"
    if data.stages:
        yield "\ntraining data"
    for stage in data.stages:
        yield f"  {stage.stage}: {stage.verdict}"
        if stage.diff is not None:
            yield from (f"  {count:>8,} {change:<8} {cause}" for change, cause, count in stage.diff.causes)
            yield f"           rows: tutelage data diff {stage.diff.older.id} {stage.diff.newer.id}"


def title_lines(data: ComparisonData) -> Iterator[str]:
    """Yield who is compared and what was found."""
    for name, model in zip(data.names, (data.first, data.second), strict=True):
        called = f" ({model.name})" if model.name not in (name, model.id) else ""
        yield f"{name}  {model.id}{called}"
    yield f"{data.names[1]} against {data.names[0]}: {headline(data)}\n"


def _flip_lines(changes: SuiteChanges, first: str, second: str) -> Iterator[str]:
    width = max(map(len, (first, second, "expected")))
    for group in changes.groups:
        if group.kind not in FLIPPED:
            continue
        yield f"\n{changes.label}: {group.total:,} {group.name}"
        for row in group.rows:
            yield f"  {_one_line(row.question)}"
            if row.expected:
                yield f"      {'expected':<{width}}  {_one_line(' · '.join(row.expected))}"
            yield f"      {first:<{width}}  {_one_line(row.before.completion)}"
            yield f"      {second:<{width}}  {_one_line(row.after.completion)}"
        if group.total > len(group.rows):
            yield f"  and {group.total - len(group.rows):,} more"


def _one_line(text: str) -> str:
    return visible(" ".join(clip(text, ANSWER_CHARACTERS).split())) or "(empty)"


def _bounds(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{percent(interval[0], 1)} to {percent(interval[1], 1)}"


def _score_values(score: float | None, interval: tuple[float, float] | None) -> dict[str, Any]:
    return {"score": score, "interval": None if interval is None else list(interval)}


def _scores(catalogue: Catalogue, subject: _Subject) -> dict[str, Sequence[SampleScore]]:
    return {suite: catalogue.scores(subject.weights, suite) for suite in catalogue.scored_suites(subject.weights)}


def _subjects(catalogue: Catalogue, first: str, second: str) -> tuple[_Subject, _Subject]:
    if BASE in (first, second):
        if first == second:
            raise ConfigError(f"both models are `{BASE}`", valid="one model, and the base that it was trained from")
        trained = _subject(catalogue, second if first == BASE else first)
        if not trained.base:
            raise ConfigError(
                f"the base of `{trained.model.name}` is not on record", valid="`base` beside a registered model version"
            )
        base = _Subject(ComparedModel(name=BASE, id=trained.base), trained.base, {}, project=trained.project)
        return (base, trained) if first == BASE else (trained, base)
    return _subject(catalogue, first), _subject(catalogue, second)


def _subject(catalogue: Catalogue, name: str) -> _Subject:
    return _run(catalogue, name) if name.startswith("run-") else _version(catalogue, name)


def _version(catalogue: Catalogue, name: str) -> _Subject:
    details = Registry(catalogue).show(name)
    lineage = details.version.lineage
    stages = [stage for stage in lineage.get("stages", []) if stage.get("name")]
    weights = str(stages[-1].get("model") or "") if stages else ""
    if not weights:
        raise DataError(
            f"{details.version.id} doesn't say in its lineage which weights were scored",
            valid="a version that `tutelage run` registered",
        )
    facts = {
        "stages": ", ".join(stage.value for stage in details.stages),
        "registered": moment(details.registered_at),
        "base": str(lineage.get("base", "")),
        "teacher": Path(str(lineage.get("teacher", ""))).name,
        "trained": ", ".join(str(stage["name"]) for stage in stages),
        "gates": ", ".join(f"{gate.stage_name} {gate.outcome}" for gate in details.gates),
        "config": str(lineage.get("config_digest", ""))[:16],
    }
    return _Subject(
        model=ComparedModel(name=name, id=details.version.id, facts=facts),
        weights=weights,
        datasets={str(stage["name"]): str(stage["dataset_id"]) for stage in stages if stage.get("dataset_id")},
        base=str(lineage.get("base", "")),
        project=str(lineage.get("project", "")),
    )


def _run(catalogue: Catalogue, name: str) -> _Subject:
    """Return the model that a training run made, whether or not a gate let it through."""
    trained = [run for run in catalogue.step_runs(limit=RUNS) if run.result.get("model")]
    fitting = [run for run in trained if run.id.startswith(name)]
    if len(fitting) != 1:
        known = ", ".join(f"{run.id} ({run.step})" for run in (fitting or trained)[:5])
        raise ConfigError(
            f"`{name}` fits {len(fitting) or 'no'} training runs that are done" + (f": {known}" if fitting else ""),
            valid=f"the id of one, or the beginning of one, such as {known}" if known else "no stage was trained yet",
        )
    run = fitting[0]
    stage = run.step.partition(":")[2]
    dataset = run.result.get("dataset")
    return _Subject(
        model=ComparedModel(name=name, id=run.id, facts=_run_facts(run)),
        weights=str(run.result["model"]),
        datasets={stage: str(dataset)} if dataset else {},
    )


def _run_facts(run: StepRun) -> dict[str, str]:
    told = run.result.get("train", {})
    return {
        "step": run.step,
        "started": moment(run.started_at),
        "method": str(told.get("method", "")),
        "steps": str(told.get("steps", "")),
        "weights": str(run.result["model"]),
    }


def _stages(catalogue: Catalogue, first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[StageData]:
    for stage in dict.fromkeys([*first, *second]):
        ours, theirs = first.get(stage, ""), second.get(stage, "")
        diff = _diff(catalogue, ours, theirs) if ours and theirs and ours != theirs else None
        yield StageData(stage=stage, first=ours, second=theirs, diff=diff)


def _diff(catalogue: Catalogue, first: str, second: str) -> DatasetDiff | None:
    known = {one.version.id: one for one in known_datasets(catalogue)}
    if first not in known or second not in known or known[first].version.kind is not known[second].version.kind:
        return None
    return diff_datasets(catalogue, known[first], known[second])
