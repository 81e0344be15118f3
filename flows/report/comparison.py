"""What the comparison of two models shows: their scores, the answers that flipped, and the data they learned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data_catalog.dataset_diff import DatasetDiff, DiffRow
from data_catalog.records import Kind
from evaluation.comparing import Finding, SuiteComparison
from flows.report.charts import Interval, ScoreRow
from flows.report.views import SuiteChanges, Turn, payload_turns, suite_changes

ANSWERS_SHOWN = 60
"""Answers per suite and group."""
ROWS_SHOWN = 60
"""Rows of the difference per stage."""
PILLS: Mapping[Finding, str] = {Finding.BETTER: "pass", Finding.WORSE: "fail", Finding.UNDECIDED: "inconclusive"}
"""How a finding is coloured."""


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """One of the two models."""

    name: str
    """What it was called by: a stage, an id, the beginning of one."""
    id: str
    facts: Mapping[str, str] = field(default_factory=dict)
    """What it is made from, in words: base, teacher, method ..."""


@dataclass(frozen=True, kw_only=True)
class StageData:
    """What both models learned from in one training stage; an id is empty where a model has no such stage."""

    stage: str
    first: str = ""
    second: str = ""
    diff: DatasetDiff | None = None
    """None where both are the same version, or one of them is not in this catalogue."""

    @property
    def verdict(self) -> str:
        """How the two versions relate, in words."""
        if not self.first or not self.second:
            return f"only the {'second' if self.second else 'first'} model has this stage"
        if self.first == self.second:
            return "the same rows"
        if self.diff is None:
            return "other rows, which can't be compared: not both versions are in this catalogue, or their kinds differ"
        return f"{self.diff.same:,} rows in both, {len(self.diff.rows):,} differ"


@dataclass(frozen=True, kw_only=True)
class ComparisonData:
    """Two models; the first is what the second is measured against."""

    project: str
    made: float
    """Seconds since the epoch."""
    first: ComparedModel
    second: ComparedModel
    suites: tuple[SuiteComparison, ...]
    stages: tuple[StageData, ...] = ()
    not_compared: tuple[str, ...] = ()
    """Suites that only one of the models was asked, or in which no sample is the same."""

    @property
    def names(self) -> tuple[str, str]:
        """How the two are called where there is little room: their names, or A and B where those are long."""
        given = (self.first.name, self.second.name)
        return given if max(map(len, given)) <= 12 and given[0] != given[1] else ("A", "B")


def score_rows(data: ComparisonData, found: SuiteComparison) -> list[ScoreRow]:
    """Return both models' scores on one suite, for its chart."""
    return [
        ScoreRow(name, total.score, None if total.interval is None else Interval(*total.interval))
        for name, total in zip(data.names, (found.first, found.second), strict=True)
    ]


def headline(data: ComparisonData) -> str:
    """Return what was found, such as `better on gold, worse on general`."""
    said = []
    for finding in (Finding.BETTER, Finding.WORSE):
        suites = [found.suite for found in data.suites if found.finding is finding]
        if suites:
            said.append(f"{finding} on {', '.join(suites)}")
    return ", ".join(said) or "no difference shown"


def flips(data: ComparisonData) -> list[SuiteChanges]:
    """Return the answers of both, those that changed first."""
    return [suite_changes(found.suite, found.before, found.after, shown=ANSWERS_SHOWN) for found in data.suites]


def facts(data: ComparisonData) -> list[tuple[str, str, str]]:
    """Return (what, of the first, of the second) of all that is known of either model."""
    names = dict.fromkeys([*data.first.facts, *data.second.facts])
    return [(name, data.first.facts.get(name, ""), data.second.facts.get(name, "")) for name in names]


def row_turns(kind: Kind, side: Mapping[str, Any] | None) -> list[Turn]:
    """Return the payload of one side of a row of the difference as labelled texts; nothing where it isn't there."""
    return [] if side is None else list(payload_turns(kind, side["payload"]))


def shown_rows(diff: DatasetDiff) -> tuple[DiffRow, ...]:
    """Return the rows that the page shows."""
    return diff.rows[:ROWS_SHOWN]
