"""The pages: self-contained HTML files that show a run, two models side by side, and a project, from records alone.

`ReportData` (in `data`) holds what the report of a run shows, `ComparisonData` (in `comparison`) what the comparison of
two models does, `OverviewData` (in `overview`) what the home page of a project does; `write_report`, `write_comparison`
and `write_overview` draw them. Nothing here reads the catalogue.
"""

from flows.report.comparison import ComparedModel, ComparisonData, StageData
from flows.report.data import ImproveRound, ItemSample, ModelScores, NextCommand, ReportData, StageReport
from flows.report.overview import OverviewData
from flows.report.render import (
    render_comparison,
    render_overview,
    render_report,
    write_comparison,
    write_overview,
    write_report,
)

__all__ = [
    "ComparedModel",
    "ComparisonData",
    "ImproveRound",
    "ItemSample",
    "ModelScores",
    "NextCommand",
    "OverviewData",
    "ReportData",
    "StageData",
    "StageReport",
    "render_comparison",
    "render_overview",
    "render_report",
    "write_comparison",
    "write_overview",
    "write_report",
]
