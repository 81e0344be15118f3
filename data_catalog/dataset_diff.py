"""What differs between two dataset versions, row by row, and why: the cause is read from the catalogue, never guessed.

An item's id hashes what it is and what it was made from, so whatever changes makes another item. A removed and an added
item that ask the same of the same document are shown as one changed row.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from data_catalog import queries, rows
from data_catalog.datasets import dataset_item_ids
from data_catalog.diff_causes import Cause, Explainer, Origin, Said, Side
from data_catalog.errors import DataError
from data_catalog.records import DatasetVersion, Record

if TYPE_CHECKING:
    import duckdb

    from data_catalog.catalogue import Catalogue
    from data_catalog.dataset_lookup import KnownDataset


class Change(StrEnum):
    """What happened to a row. CHANGED is a removed row and the added one in its place."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class DiffRow(Record):
    """One row of the difference; of a changed one, `before` and `after` are the two items."""

    change: Change
    cause: Cause
    detail: str
    """What shows the cause: the check and its reason, the templates, the document's ids."""
    recipe: str
    path: str
    """Of the document, as last seen; empty where there is none."""
    before: Mapping[str, Any] | None = None
    """{"id", "payload"} of the item of the older version."""
    after: Mapping[str, Any] | None = None
    """{"id", "payload"} of the item of the newer version."""


class DatasetDiff(Record):
    """The older version, the newer one, and every row that is not in both."""

    older: DatasetVersion
    newer: DatasetVersion
    same: int
    """Rows that are in both."""
    rows: tuple[DiffRow, ...]
    """Changed, added, removed; within each by cause, path and id."""

    @property
    def causes(self) -> tuple[tuple[Change, Cause, int], ...]:
        """How many rows each cause explains, most first within a change."""
        counts = Counter((row.change, row.cause) for row in self.rows)
        order = list(Change)
        ranked = sorted(counts.items(), key=lambda entry: (order.index(entry[0][0]), -entry[1], entry[0][1]))
        return tuple((change, cause, count) for (change, cause), count in ranked)


def diff_datasets(catalogue: Catalogue, first: KnownDataset, second: KnownDataset) -> DatasetDiff:
    """Compare two versions; the one that was written first is the older, whichever is given first.

    Raises:
        DataError: the versions are of different kinds, so that no row can be in both.
    """
    older, newer = sorted((first, second), key=lambda one: one.created_at)
    if older.version.kind is not newer.version.kind:
        raise DataError(
            f"{older.version.id} holds {older.version.kind} items and {newer.version.id} {newer.version.kind} items",
            valid="two versions of one kind",
        )
    ids = [dataset_item_ids(catalogue, one.version.id) for one in (older, newer)]
    both = set(ids[0]) & set(ids[1])
    with catalogue.store.reading() as con:
        con.register("wanted", rows.ids([*ids[0], *ids[1]]))
        origins = {row[0]: _origin(row) for row in con.execute(queries.ORIGINS).fetchall()}
        explain = Explainer(
            before=Side(origins[key] for key in ids[0]),
            after=Side(origins[key] for key in ids[1]),
            made_at=older.created_at,
            not_passed=_said(con, queries.NOT_PASSED),
            formerly=_said(con, queries.FORMERLY_NOT_PASSED),
        )
    gone = [origins[key] for key in ids[0] if key not in both]
    come = [origins[key] for key in ids[1] if key not in both]
    return DatasetDiff(older=older.version, newer=newer.version, same=len(both), rows=tuple(_rows(gone, come, explain)))


def _rows(gone: Sequence[Origin], come: Sequence[Origin], explain: Explainer) -> list[DiffRow]:
    waiting: defaultdict[tuple[str, str, str], list[Origin]] = defaultdict(list)
    for item in gone:
        if item.place is not None:
            waiting[item.place].append(item)
    found, replaced = [], set()
    for item in come:
        rivals = waiting[item.place] if item.place is not None else []
        former = rivals.pop(0) if rivals else None
        cause, detail = explain.added(item)
        if former is not None:
            replaced.add(former.id)
            if cause in (Cause.NEW_ITEM, Cause.SELECTION_CHANGED):
                cause, detail = explain.removed(former)
        found.append(_row(cause, detail, former, item))
    found += [_row(*explain.removed(item), item, None) for item in gone if item.id not in replaced]
    order = (Change.CHANGED, Change.ADDED, Change.REMOVED)
    return sorted(found, key=lambda row: (order.index(row.change), row.cause, row.path, _id_of(row)))


def _row(cause: Cause, detail: str, before: Origin | None, after: Origin | None) -> DiffRow:
    shown = after or before
    assert shown is not None, "a row has one side at least"
    change = Change.ADDED if before is None else Change.REMOVED if after is None else Change.CHANGED
    return DiffRow(
        change=change,
        cause=cause,
        detail=detail,
        recipe=shown.recipe,
        path=shown.path or "",
        before=None if before is None else before.content,
        after=None if after is None else after.content,
    )


def _id_of(row: DiffRow) -> str:
    return str((row.after or row.before or {}).get("id", ""))


def _origin(row: rows.Row) -> Origin:
    found = Origin(*row)
    return found._replace(meta=json.loads(row[5]))


def _said(con: duckdb.DuckDBPyConnection, sql: str) -> Mapping[str, Sequence[Said]]:
    found: defaultdict[str, list[Said]] = defaultdict(list)
    for item_id, *said in con.execute(sql).fetchall():
        found[item_id].append(Said(*said))
    return found
