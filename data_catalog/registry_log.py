"""The registry's log: entries that each cover the hash of the one before, what they say of the stages, and its audit.

The truth of the registry is this log. It is appended to and never updated; whoever edits it breaks the chain, and the
first entry that does not fit is found with what was expected there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from data_catalog import queries, rows
from data_catalog.errors import RegistryError
from data_catalog.identity import digest
from data_catalog.records import Record, Stage

if TYPE_CHECKING:
    import duckdb

GENESIS = "0" * 64
"""What stands as the hash before the first entry."""


class RegistryEvent(Record):
    """One entry of the log. `hash` covers every other field."""

    seq: int
    happened_at: float
    actor: str
    action: str
    """`register`, `promote`, `archive` and `rollback` move a stage. `approve` does not, nor do `serve` and `refuse`
    (what a server that follows the stage did with the version), nor `remove`, after which the version's files are no
    longer kept."""
    stage: Stage
    model_id: str
    """The version that `stage` points to from now on, that was approved for it, or that its server tried."""
    details: Mapping[str, Any]
    """What it replaced, the gates and the approval it stood on, the reason of an override."""
    previous_hash: str
    hash: str

    def computed_hash(self) -> str:
        """Return the SHA-256 that this entry must have."""
        return digest(self.model_dump(mode="json", exclude={"hash"}))


class ChainBreak(Record):
    """The first entry of the log that is not what was written."""

    entry: int
    what: str
    """What is wrong with it, as the rest of a sentence that starts with the entry."""
    expected: str
    found: str


class Audit(Record):
    """What a look at the whole log came to."""

    entries: int
    last_hash: str
    broken: ChainBreak | None


class Head(Record):
    """How far the log had come when it was last looked at; it stands outside the log."""

    seq: int = 0
    hash: str = GENESIS
    source: str = ""
    """Where this was remembered."""


def append(
    con: duckdb.DuckDBPyConnection,
    *,
    now: float,
    actor: str,
    action: str,
    stage: Stage,
    model_id: str,
    details: Mapping[str, Any],
) -> RegistryEvent:
    """Add an entry inside the transaction of `con` and return it; `now` in seconds since the epoch."""
    last = con.execute(queries.LAST_EVENT).fetchone()
    seq, previous_hash = (last[0] + 1, last[1]) if last else (1, GENESIS)
    draft = RegistryEvent(
        seq=seq,
        happened_at=now,
        actor=actor,
        action=action,
        stage=stage,
        model_id=model_id,
        details=details,
        previous_hash=previous_hash,
        hash="",
    )
    event = draft.model_copy(update={"hash": draft.computed_hash()})
    con.execute(queries.APPEND_EVENT, event.model_dump(mode="json") | {"details": rows.json_text(event.details)})
    return event


def read_events(
    con: duckdb.DuckDBPyConnection, stage: Stage | None = None, model_id: str | None = None
) -> list[RegistryEvent]:
    """Return the entries about one stage, one version, or all of them, the oldest first.

    Raises:
        RegistryError: an entry can't be read; nobody who appends writes such a thing.
    """
    events = []
    for row in _rows(con, stage, model_id):
        event = _event_of(row)
        if isinstance(event, str):
            raise tampered(ChainBreak(entry=row[0], what="can't be read", expected="an entry of the log", found=event))
        events.append(event)
    return events


class StagePointer(NamedTuple):
    """What one stage points to, and the entry of the log that says so."""

    stage: Stage
    model_id: str
    seq: int
    hash: str


def stage_pointers(con: duckdb.DuckDBPyConnection) -> list[StagePointer]:
    """Return what the stages point to; an empty stage is left out.

    Raises:
        RegistryError: the log moves a stage that does not exist.
    """
    found = con.execute(queries.STAGE_POINTERS).fetchall()
    for stage, _, seq, _ in found:
        if stage not in set(Stage):
            raise tampered(
                ChainBreak(entry=seq, what="moves an unknown stage", expected=f"one of {', '.join(Stage)}", found=stage)
            )
    return [StagePointer(Stage(stage), model_id, seq, known) for stage, model_id, seq, known in found]


def pointers(con: duckdb.DuckDBPyConnection) -> dict[Stage, str]:
    """Return the version that each stage points to; an empty stage is left out. Errors as in `stage_pointers`."""
    return {pointer.stage: pointer.model_id for pointer in stage_pointers(con)}


def version_stack(events: Sequence[RegistryEvent]) -> list[str]:
    """Return the versions a stage could go back through, the current one last: promotions push, rollbacks pop."""
    stack: list[str] = []
    for event in events:
        if event.action == "rollback":
            stack.pop()
        elif event.action == "promote" and (not stack or stack[-1] != event.model_id):
            stack.append(event.model_id)
    return stack


def audit(con: duckdb.DuckDBPyConnection, head: Head) -> Audit:
    """Recompute every hash and find the first entry that does not fit.

    Args:
        con: a session on the catalogue.
        head: what was remembered of the log before `con` was opened. A cut-off end leaves the chain whole, and a log
            that was rewritten altogether has a chain of its own; only this tells.
    """
    found = _rows(con, None, None)
    last_hash = found[-1][8] if found else GENESIS
    return Audit(entries=len(found), last_hash=last_hash, broken=_first_break(found) or _head_break(found, head))


def _first_break(found: Sequence[rows.Row]) -> ChainBreak | None:
    previous = GENESIS
    for position, row in enumerate(found, start=1):
        seq, stored_previous, stored = row[0], row[7], row[8]
        if seq != position:
            return ChainBreak(entry=position, what="is missing", expected=f"entry {position}", found=f"entry {seq}")
        event = _event_of(row)
        if isinstance(event, str):
            return ChainBreak(
                entry=position, what="can't be read", expected=f"content of SHA-256 {stored}", found=event
            )
        computed = event.computed_hash()
        if computed != stored:
            what = f"({event.action} {event.stage} {event.model_id}) was changed"
            return ChainBreak(
                entry=position, what=what, expected=f"content of SHA-256 {stored}", found=f"SHA-256 {computed}"
            )
        if stored_previous != previous:
            what = "does not follow from the one before it, which was replaced"
            return ChainBreak(
                entry=position,
                what=what,
                expected=f"entry {position - 1} with SHA-256 {stored_previous}",
                found=f"SHA-256 {previous}",
            )
        previous = stored
    return None


def _head_break(found: Sequence[rows.Row], head: Head) -> ChainBreak | None:
    if head.seq > len(found):
        return ChainBreak(
            entry=len(found) + 1,
            what=f"is missing: the log once had {head.seq} entries ({head.source})",
            expected=f"{head.seq} entries",
            found=f"{len(found)} entries",
        )
    if head.seq and found[head.seq - 1][8] != head.hash:
        return ChainBreak(
            entry=head.seq,
            what=f"is not the one that {head.source} remembers",
            expected=f"SHA-256 {head.hash}",
            found=f"SHA-256 {found[head.seq - 1][8]}",
        )
    return None


def tampered(broken: ChainBreak) -> RegistryError:
    """Return the error that tells of a break."""
    return RegistryError(
        f"the registry's log was tampered with: entry {broken.entry} {broken.what}\n"
        f"  expected: {broken.expected}\n  found:    {broken.found}",
        valid="an unbroken chain of hashes from entry 1",
        next_step="restore catalogue.duckdb from a backup; do not promote from this one",
    )


def _rows(con: duckdb.DuckDBPyConnection, stage: Stage | None, model_id: str | None) -> list[rows.Row]:
    given = {"stage": None if stage is None else stage.value, "model_id": model_id}
    found: list[rows.Row] = con.execute(queries.EVENTS, given).fetchall()
    return found


def _event_of(row: rows.Row) -> RegistryEvent | str:
    """Return an entry, or why it is none."""
    try:
        return RegistryEvent(
            seq=row[0],
            happened_at=row[1],
            actor=row[2],
            action=row[3],
            stage=Stage(row[4]),
            model_id=row[5],
            details=json.loads(row[6]),
            previous_hash=row[7],
            hash=row[8],
        )
    except ValidationError:
        return f"details that are no mapping: {row[6][:80]}"
    except ValueError as error:
        return str(error)
