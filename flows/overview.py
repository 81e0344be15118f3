"""From a project's catalogue to its home page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from data_catalog.catalogue import Catalogue
from data_catalog.dataset_lookup import known_datasets
from data_catalog.registry import ModelDetails, Registry
from evaluation.scoring import SuiteScore, summarise
from flows.report import OverviewData, write_overview

REPORTS = "reports"
PAGE = "index.html"
RUNS = 10_000


def overview_data(catalogue: Catalogue, page: Path) -> OverviewData:
    """Gather what the home page at `page` shows."""
    registry = Registry(catalogue)
    models = tuple(registry.show(version.id) for version in registry.models())
    report = _report(catalogue.home)
    base = str(models[0].version.lineage.get("base", "")) if models else ""
    return OverviewData(
        project=_project(catalogue, models),
        made=time.time(),
        home=str(catalogue.home),
        models=models,
        scores={details.version.id: _scores(catalogue, _weights(details)) for details in models},
        base=_scores(catalogue, base),
        stages={stage: version.id for stage, version in registry.stages().items() if version is not None},
        events=tuple(reversed(registry.history())),
        gates=tuple(reversed(catalogue.gates())),
        datasets=tuple(known_datasets(catalogue)),
        runs=tuple(catalogue.step_runs(limit=RUNS)),
        report=report.name if report is not None and report.parent == page.parent.resolve() else "",
    )


def write_home_page(catalogue: Catalogue, out: Path | None = None) -> Path:
    """Write the home page to `out`, by default beside the project's report; return its path."""
    page = out or catalogue.home / REPORTS / PAGE
    return write_overview(page, overview_data(catalogue, page))


def _project(catalogue: Catalogue, models: tuple[ModelDetails, ...]) -> str:
    named = (str(details.version.lineage.get("project") or "") for details in models)
    return next(filter(None, named), catalogue.home.parent.name)


def _report(home: Path) -> Path | None:
    """Return the report that the last run wrote."""
    written = [path for path in (home / REPORTS).glob("*.html") if path.name != PAGE]
    return max(written, key=lambda path: path.stat().st_mtime_ns, default=None)


def _weights(details: ModelDetails) -> str:
    """Return the fingerprint that a version's scores are kept under; empty where its lineage does not say."""
    stages = details.version.lineage.get("stages") or [{}]
    return str(stages[-1].get("model") or "")


def _scores(catalogue: Catalogue, weights: str) -> Mapping[str, SuiteScore]:
    return {suite: summarise(catalogue.scores(weights, suite)) for suite in catalogue.scored_suites(weights)}
