"""The report: one self-contained HTML file that shows what a run did, from its records alone.

`ReportData` (in `data`) holds what is shown; `write_report` draws it. Nothing here reads the catalogue.
"""

from flows.report.data import ItemSample, ModelScores, NextCommand, ReportData, StageReport
from flows.report.render import render_report, write_report

__all__ = [
    "ItemSample",
    "ModelScores",
    "NextCommand",
    "ReportData",
    "StageReport",
    "render_report",
    "write_report",
]
