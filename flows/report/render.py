"""Draws the pages: each one HTML file with its styles and charts inside, which needs no network and no script."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from data_catalog.files import write_durably
from evaluation.gates import Comparison
from flows.report import charts, comparison, overview, views, words
from flows.report.comparison import ComparisonData
from flows.report.data import ReportData
from flows.report.overview import OverviewData

HERE = Path(__file__).parent


def render_report(data: ReportData) -> str:
    """Return the report as HTML. Everything that comes from documents, models or people is escaped text."""
    return _environment().get_template("report.html.jinja").render(data=data)


def write_report(path: Path, data: ReportData) -> Path:
    """Write the report to `path`, whole or not at all, with its folder where it is missing; return the path."""
    return _write(path, render_report(data))


def render_comparison(data: ComparisonData) -> str:
    """Return the comparison of two models as HTML, escaped like the report."""
    return _environment().get_template("comparison.html.jinja").render(data=data)


def write_comparison(path: Path, data: ComparisonData) -> Path:
    """Write the comparison to `path`, whole or not at all, with its folder where it is missing; return the path."""
    return _write(path, render_comparison(data))


def render_overview(data: OverviewData) -> str:
    """Return the home page of a project as HTML, escaped like the report."""
    return _environment().get_template("overview.html.jinja").render(data=data)


def write_overview(path: Path, data: OverviewData) -> Path:
    """Write the home page to `path`, whole or not at all, with its folder where it is missing; return the path."""
    return _write(path, render_overview(data))


def _write(path: Path, html: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, html.encode("utf-8"))
    return path


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {
        "clip": words.clip,
        "duration": words.duration,
        "moment": words.moment,
        "number": words.number,
        "p_value": words.p_value,
        "percent": words.percent,
        "points": words.points,
        "short": words.short,
    }
    # The styles are a file of ours: the one text here that is not escaped.
    styles = Markup((HERE / "report.css").read_text(encoding="utf-8"))  # noqa: S704
    environment.globals |= {
        "charts": charts,
        "comparison": comparison,
        "overview": overview,
        "views": views,
        "gate_chart": gate_chart,
        "styles": styles,
    }
    return environment


def _finalize(value: Any) -> Any:
    """Let nothing invisible into the page: what a document holds must look like what it is."""
    return words.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def gate_chart(comparison: Comparison) -> Markup:
    """Draw a comparison's interval against its threshold."""
    limited = comparison.require.of_limit
    value = comparison.candidate_score if limited else comparison.difference
    interval = None if comparison.interval is None else charts.Interval(*comparison.interval)
    return charts.whisker_chart(
        value, interval, views.threshold(comparison), as_points=not limited, summary=comparison.reason
    )
