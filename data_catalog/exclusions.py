"""Documents that must stay out: a text wherever it lies, or whatever stands at a path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from data_catalog import queries, rows
from data_catalog.errors import ConfigError
from data_catalog.lineage import NodeKey, find_node
from data_catalog.records import Document, Record

if TYPE_CHECKING:
    import duckdb

    from data_catalog.catalogue import Catalogue


class Exclusion(Record):
    """One text or path that is excluded, since when (seconds since the epoch) and by whom."""

    kind: str
    """`document` or `path`."""
    id: str
    """The document's id, or the path."""
    excluded_at: float
    actor: str


def find_excludable(con: duckdb.DuckDBPyConnection, wanted: str) -> NodeKey:
    """Return the document or path that `wanted` (an id, the beginning of one, or a path) means.

    Raises:
        ConfigError: it means nothing, more than one thing, or something else.
    """
    key = find_node(con, wanted)
    if key.kind not in ("document", "path"):
        raise ConfigError(
            f"`{wanted}` is of kind {key.kind}",
            valid="a document's id, the beginning of one, or a document's path",
            next_step=f"see what it was made from: tutelage trace {wanted}",
        )
    return key


def texts_of(con: duckdb.DuckDBPyConnection, key: NodeKey) -> list[str]:
    """Return the ids of the texts that an exclusion means: the one, or all that were ever at the path."""
    if key.kind == "document":
        return [key.id]
    return [row[0] for row in con.execute(queries.DOCUMENTS_AT_PATH, {"path": key.id}).fetchall()]


def exclude(catalogue: Catalogue, key: NodeKey, *, actor: str) -> int:
    """Exclude a document or a path, in one transaction; return how many current items that withdraws.

    The texts get a tombstone at once, so that no dataset version that is written from now on holds an item of theirs.
    """
    now = catalogue.clock()
    with catalogue.store.writing() as con:
        before = _current_items(con)
        con.execute(queries.EXCLUDE, {"kind": key.kind, "id": key.id, "now": now, "actor": actor})
        con.register("wanted", rows.ids(texts_of(con, key)))
        con.execute(queries.WITHDRAW_DOCUMENTS, {"now": now})
        return before - _current_items(con)


def readmit(catalogue: Catalogue, key: NodeKey) -> bool:
    """Take an exclusion back; return whether there was one. The next ingest reads the document again."""
    with catalogue.store.writing() as con:
        return bool(con.execute(queries.READMIT, {"kind": key.kind, "id": key.id}).fetchall())


def list_exclusions(catalogue: Catalogue) -> list[Exclusion]:
    """Return every exclusion, the oldest first."""
    with catalogue.store.reading() as con:
        found = con.execute(queries.EXCLUSIONS).fetchall()
    return [Exclusion(kind=row[0], id=row[1], excluded_at=row[2], actor=row[3]) for row in found]


def exclusion_of(document: Document, exclusions: Sequence[Exclusion]) -> Exclusion | None:
    """Return the exclusion that a document falls under, if one does."""
    for exclusion in exclusions:
        if exclusion.id == (document.id if exclusion.kind == "document" else document.path):
            return exclusion
    return None


def _current_items(con: duckdb.DuckDBPyConnection) -> int:
    ((count,),) = con.execute(queries.COUNT_CURRENT_ITEMS).fetchall()
    return int(count)
