"""Read what can still be read from a damaged catalogue, and can't be made again.

Answers cost hours of a teacher, and what somebody has excluded must not come back unseen. All else can be made again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from data_catalog import queries, rows

_WINDOW = 2048
"""Rows that are read at once; DuckDB checks and stores them in vectors of this size."""


def read_answers(damaged: Path) -> tuple[pa.Table, pa.Table]:
    """Return the readable requests and those of the completions whose request is readable too.

    Never raises on damage: a file that can't be opened at all yields two empty tables.
    """
    requests = _readable_rows(damaged, "requests", queries.SALVAGE_REQUESTS, rows.REQUESTS)
    answers = _readable_rows(damaged, "completions", queries.SALVAGE_COMPLETIONS, rows.COMPLETIONS)
    known = {row["key"] for row in requests}
    return (
        rows.table(rows.REQUESTS, requests),
        rows.table(rows.COMPLETIONS, (row for row in answers if row["request_key"] in known)),
    )


def read_exclusions(damaged: Path) -> pa.Table:
    """Return the readable exclusions; damage as in `read_answers`."""
    return rows.table(
        rows.EXCLUSIONS, _readable_rows(damaged, "exclusions", queries.SALVAGE_EXCLUSIONS, rows.EXCLUSIONS)
    )


def _readable_rows(damaged: Path, name: str, sql: str, schema: pa.Schema) -> list[dict[str, Any]]:
    count = _attempt(damaged, queries.SALVAGE_ROWS.format(table=name), {})
    found: list[dict[str, Any]] = []
    for first in range(0, count[0][0] if count else 0, _WINDOW):
        window = _attempt(damaged, sql, {"first": first, "last": first + _WINDOW})
        found += [dict(zip(schema.names, row, strict=True)) for row in window]
    return found


def _attempt(damaged: Path, sql: str, given: dict[str, Any]) -> list[rows.Row]:
    """Run one query on a connection of its own, since damage makes a connection unusable; nothing on damage."""
    try:
        with duckdb.connect(str(damaged), read_only=True, config={"enable_external_access": "false"}) as con:
            return con.execute(sql, given).fetchall()
    except duckdb.Error:
        return []
