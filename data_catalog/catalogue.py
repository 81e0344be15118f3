"""The catalogue: every record of a project in one DuckDB file, read and written in short sessions.

Every method that writes is one transaction: when it returns, what it was given is durable, whatever is killed next.
Every method accepts empty sequences, and lists come back in an order that depends on nothing but their content.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog import queries, rows
from data_catalog.errors import CatalogueBusy, DataError
from data_catalog.evaluation_records import GateRecord, SampleScore
from data_catalog.funnel import FunnelTable, read_funnel
from data_catalog.identity import make_id
from data_catalog.locks import LockHeld, hold
from data_catalog.migrate import MIGRATIONS
from data_catalog.records import (
    Chunk,
    Completion,
    Document,
    FailureKind,
    Item,
    Record,
    Request,
    RequestFailure,
    RunStatus,
    Split,
    StepRun,
    Verdict,
)
from data_catalog.request_log import RequestLog, read_request_log
from data_catalog.salvage import read_answers, read_exclusions
from data_catalog.store import Store, damaged_name

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_LOG = logging.getLogger(__name__)
ABANDONED = "the process ended without a word (killed, or the machine went down)"


class DocumentDiff(Record):
    """What a sync changed, as document ids. `changed` are new texts at a known path; their old ids are withdrawn."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()


class Catalogue:
    """The records of the project in `home`: `catalogue.duckdb`, `datasets/` and `models/`.

    Args:
        home: the project's directory; it is created.
        wait: seconds to wait for another process before CatalogueBusy.
        clock: seconds since the epoch.
        migrations: where the numbered `.sql` files are.

    Raises:
        CatalogueBusy: another process holds the file.
        CatalogueCorrupt: the file is damaged; it is left as it is.
        CatalogueError: the file is newer than this code, or is no catalogue.
        MachineError: the disk is full or the directory can't be written.
    """

    def __init__(
        self,
        home: Path,
        *,
        wait: float = 60.0,
        clock: Callable[[], float] = time.time,
        migrations: Path = MIGRATIONS,
    ) -> None:
        self.home = home.resolve()
        self.path = self.home / "catalogue.duckdb"
        self.datasets_dir = self.home / "datasets"
        self.models_dir = self.home / "models"
        self.clock = clock
        self.store = Store(self.path, wait=wait, migrations=migrations)
        self.datasets_dir.mkdir(exist_ok=True)
        self.models_dir.mkdir(exist_ok=True)
        if self.store.created and damaged_name(self.path).exists():
            self._take_over(damaged_name(self.path))

    # Runs of the project -------------------------------------------------------------------------------------------

    @contextmanager
    def run_lock(self, command: str) -> Iterator[None]:
        """Be the only run of this project; steps that a killed run left RUNNING are marked as failed.

        Raises:
            CatalogueBusy: another run is active; the message names it.
        """
        try:
            with hold(self.home / "run.lock", command, wait=0):
                self._abandon_steps()
                yield
        except LockHeld as error:
            who = str(error.holder) if error.holder else "a process that left no name"
            end_it = f" or end it (kill {error.holder.pid})" if error.holder else ""
            raise CatalogueBusy(
                f"another run of the project in {self.home} is active: {who}",
                valid="one run per project at a time",
                next_step=f"wait for it{end_it}, then run the same command: it goes on where that one stopped",
            ) from error

    def _abandon_steps(self) -> None:
        if self._read(queries.ANY_RUNNING_STEP):
            with self.store.writing() as con:
                con.execute(queries.ABANDON_STEPS, {"now": self.clock(), "error": ABANDONED, "fingerprint": None})

    # Documents -----------------------------------------------------------------------------------------------------

    def sync_documents(
        self, documents: Sequence[Document], chunks: Sequence[Chunk], refusals: Sequence[tuple[str, str]]
    ) -> DocumentDiff:
        """Make `documents` and `chunks` the current ones.

        What is no longer among them gets a tombstone and stays for lineage; what returns is revived. `refusals` are
        the (path, reason) of files that could not be read, and replace those of the last sync.
        """
        with self.store.reading() as con:
            plan = _plan_sync(con, documents, chunks, refusals)
        if plan.is_empty:
            return plan.diff
        with self.store.writing() as con:
            plan = _plan_sync(con, documents, chunks, refusals)
            now = {"now": self.clock()}
            _bulk(con, queries.UPSERT_DOCUMENTS, rows.table(rows.DOCUMENTS, plan.document_rows), now)
            _bulk(con, queries.UPSERT_CHUNKS, rows.table(rows.CHUNKS, plan.chunk_rows))
            _bulk(con, queries.WITHDRAW_DOCUMENTS, rows.ids(plan.gone_documents), now)
            _bulk(con, queries.WITHDRAW_CHUNKS, rows.ids(plan.gone_chunks), now)
            con.execute(queries.CLEAR_REFUSALS)
            _bulk(con, queries.INSERT_REFUSALS, rows.table(rows.REFUSALS, plan.refusal_rows), now)
        return plan.diff

    def documents(self, current_only: bool = True) -> list[Document]:
        """Return the documents by path; with `current_only=False` the withdrawn ones too."""
        return [rows.document_of(row) for row in self._read(queries.DOCUMENTS, {"current_only": current_only})]

    def chunks(self, split: Split | None = None, current_only: bool = True) -> list[Chunk]:
        """Return the chunks by document path and offset."""
        given = {"current_only": current_only, "split": None if split is None else split.value}
        return [rows.chunk_of(row) for row in self._read(queries.CHUNKS, given)]

    def refusals(self) -> list[tuple[str, str]]:
        """Return (path, reason) of every file that the last sync could not read."""
        return [(path, reason) for path, reason in self._read(queries.REFUSALS)]

    # Requests and completions --------------------------------------------------------------------------------------

    def answered(self, keys: Iterable[str]) -> dict[str, Completion]:
        """Return the stored completions among the request keys `keys`."""
        found = self._read(queries.COMPLETIONS, wanted=rows.ids(keys))
        return {row[0]: rows.completion_of(row) for row in found}

    def requests(self, keys: Iterable[str]) -> list[Request]:
        """Return the stored requests among the keys `keys`, by key."""
        return [rows.request_of(row) for row in self._read(queries.REQUESTS, wanted=rows.ids(keys))]

    def requests_to(self, model: str, purpose: str) -> list[Request]:
        """Return the stored requests to one model for one purpose, by key."""
        return [rows.request_of(row) for row in self._read(queries.REQUESTS_TO, {"model": model, "purpose": purpose})]

    def samples_asked(self, documents: Iterable[str]) -> dict[str, int]:
        """Return by purpose how many samples were asked for at most, of any prompt about these documents."""
        return {row[0]: row[1] for row in self._read(queries.SAMPLES_ASKED, wanted=rows.ids(documents))}

    def add_completions(self, requests: Sequence[Request], completions: Sequence[Completion]) -> None:
        """Store requests and their completions. A request or answer that is already stored is kept as it is.

        A request without a completion was asked and failed for good.

        Raises:
            DataError: a completion answers a request that is neither given nor stored; nothing is written.
        """
        asked = {request.key: request for request in requests}
        answers = {completion.request_key: completion for completion in reversed(completions)}
        if not asked and not answers:
            return
        request_table = rows.table(rows.REQUESTS, (rows.request_row(key, request) for key, request in asked.items()))
        answer_table = rows.table(rows.COMPLETIONS, (rows.completion_row(answer) for answer in answers.values()))
        with self.store.writing() as con:
            now = {"now": self.clock()}
            _bulk(con, queries.INSERT_REQUESTS, request_table, now)
            unknown = _bulk(con, queries.UNKNOWN_REQUESTS, answer_table)
            if unknown:
                raise DataError(
                    f"completions for requests that nobody stored: {', '.join(key for (key,) in unknown)}",
                    valid="every completion comes with its request",
                )
            _bulk(con, queries.INSERT_COMPLETIONS, answer_table, now)

    def answered_keys(self) -> list[str]:
        """Return the keys of all requests that have been answered."""
        return [key for (key,) in self._read(queries.ANSWERED_KEYS)]

    def add_request_failures(self, requests: Sequence[Request], failures: Sequence[RequestFailure]) -> None:
        """Store requests that got no answer, and why; a newer reason replaces the one before."""
        if not failures:
            return
        asked = {request.key: request for request in requests}
        request_table = rows.table(rows.REQUESTS, (rows.request_row(key, request) for key, request in asked.items()))
        newest = {failure.request_key: rows.request_failure_row(failure) for failure in failures}
        with self.store.writing() as con:
            now = {"now": self.clock()}
            _bulk(con, queries.INSERT_REQUESTS, request_table, now)
            _bulk(con, queries.UPSERT_REQUEST_FAILURES, rows.table(rows.REQUEST_FAILURES, newest.values()), now)

    def request_failures(self, keys: Iterable[str]) -> list[RequestFailure]:
        """Return how those of `keys` failed that have no answer, by key."""
        found = self._read(queries.REQUEST_FAILURES, wanted=rows.ids(keys))
        return [rows.request_failure_of(row) for row in found]

    def release_requests(self) -> int:
        """Let quarantined requests be asked again; return how many there were."""
        with self.store.writing() as con:
            return len(con.execute(queries.RELEASE_REQUESTS, {"kind": FailureKind.QUARANTINED.value}).fetchall())

    def request_log(self) -> RequestLog:
        """Count what was asked and what came of it, per recipe (or check) and template."""
        with self.store.reading() as con:
            return read_request_log(con)

    def _take_over(self, damaged: Path) -> None:
        request_table, answer_table = read_answers(damaged)
        exclusion_table = read_exclusions(damaged)
        with self.store.writing() as con:
            now = {"now": self.clock()}
            _bulk(con, queries.INSERT_REQUESTS, request_table, now)
            _bulk(con, queries.INSERT_COMPLETIONS, answer_table, now)
            _bulk(con, queries.TAKE_OVER_EXCLUSIONS, exclusion_table)
        _LOG.warning(
            "took over %d answers and %d exclusions (tutelage forget) from the damaged catalogue %s",
            answer_table.num_rows,
            exclusion_table.num_rows,
            damaged,
        )

    # Items and verdicts --------------------------------------------------------------------------------------------

    def add_items(self, items: Sequence[Item]) -> None:
        """Store items; one with a known id only takes the newer recipe, split and meta."""
        distinct = {item.id: item for item in items}
        if not distinct:
            return
        table = rows.table(rows.ITEMS, map(rows.item_row, distinct.values()))
        with self.store.writing() as con:
            _bulk(con, queries.ADD_ITEM_REQUESTS, table)
            _bulk(con, queries.UPSERT_ITEMS, table, {"now": self.clock()})

    def items(
        self,
        *,
        recipe: str | None = None,
        split: Split | None = None,
        ids: Iterable[str] | None = None,
        current_only: bool = True,
    ) -> list[Item]:
        """Return items by id. Current are those whose document and chunk are; an item's split follows its chunk's."""
        given = {"recipe": recipe, "split": None if split is None else split.value, "current_only": current_only}
        if ids is None:
            found = self._read(queries.ITEMS, given)
        else:
            found = self._read(queries.ITEMS_BY_ID, given, wanted=rows.ids(ids))
        return [rows.item_of(row) for row in found]

    def put_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """Store verdicts; each replaces an earlier one of the same check on the same item.

        An outcome that changes stays on record, so that the diff of two dataset versions can name it as the cause.
        """
        distinct = {(verdict.item_id, verdict.check): verdict for verdict in verdicts}
        if not distinct:
            return
        table = rows.table(rows.VERDICTS, (rows.verdict_row(*entry) for entry in enumerate(distinct.values())))
        with self.store.writing() as con:
            now = {"now": self.clock()}
            _bulk(con, queries.KEEP_REPLACED_VERDICTS, table, now)
            _bulk(con, queries.UPSERT_VERDICTS, table, now)

    def verdicts(self, item_ids: Iterable[str] | None = None) -> list[Verdict]:
        """Return verdicts by item, in the order in which they were given."""
        if item_ids is None:
            found = self._read(queries.VERDICTS)
        else:
            found = self._read(queries.VERDICTS_BY_ITEM, wanted=rows.ids(item_ids))
        return [rows.verdict_of(row) for row in found]

    def funnel(
        self,
        *,
        recipes: Sequence[str] | None = None,
        checks: Sequence[str] | None = None,
        current_only: bool = True,
    ) -> FunnelTable:
        """Count what became of the requests.

        Args:
            recipes: names with version, as in `Item.recipe` and `Request.purpose`; a recipe without any item is only
                seen when it is named here. None: every recipe that has items.
            checks: checks with version that count, in their order. None: every check that left a verdict.
            current_only: leave out what belongs to withdrawn documents.
        """
        with self.store.reading() as con:
            return read_funnel(con, recipes=recipes, checks=checks, current_only=current_only)

    # Steps, metrics, scores, gates ---------------------------------------------------------------------------------

    def start_step(self, step: str, fingerprint: str) -> StepRun:
        """Record that `step` begins. An earlier attempt with this fingerprint that never ended is marked as failed."""
        now = self.clock()
        with self.store.writing() as con:
            con.execute(queries.ABANDON_STEPS, {"now": now, "error": ABANDONED, "fingerprint": fingerprint})
            ((attempts,),) = con.execute(queries.STEP_ATTEMPTS, {"fingerprint": fingerprint}).fetchall()
            run = StepRun(
                id=make_id("run", {"fingerprint": fingerprint, "attempt": attempts + 1}),
                step=step,
                fingerprint=fingerprint,
                status=RunStatus.RUNNING,
                started_at=now,
            )
            _bulk(con, queries.INSERT_STEP, rows.table(rows.STEPS, [rows.step_row(run)]))
        return run

    def finish_step(self, run: StepRun, result: Mapping[str, Any]) -> StepRun:
        """Record that `run` is done, with a result of JSON types; return it as stored."""
        return self._end_step(run, RunStatus.DONE, result, "")

    def fail_step(self, run: StepRun, error: str | BaseException) -> StepRun:
        """Record that `run` failed, and why; return it as stored."""
        return self._end_step(run, RunStatus.FAILED, {}, rows.readable(str(error)) or type(error).__name__)

    def _end_step(self, run: StepRun, status: RunStatus, result: Mapping[str, Any], error: str) -> StepRun:
        given = {
            "id": run.id,
            "status": status.value,
            "now": self.clock(),
            "result": rows.json_text(result),
            "error": error,
        }
        with self.store.writing() as con:
            ended = con.execute(queries.END_STEP, given).fetchall()
            if not ended:
                raise DataError(f"no step with the id {run.id}", valid="a run that start_step returned")
        return rows.step_of(ended[0])

    def done_step(self, fingerprint: str) -> StepRun | None:
        """Return the newest DONE run with this fingerprint."""
        found = self._read(queries.DONE_STEP, {"fingerprint": fingerprint})
        return rows.step_of(found[0]) if found else None

    def step_run(self, run_id: str) -> StepRun | None:
        """Return the run with this id."""
        found = self._read(queries.STEP, {"id": run_id})
        return rows.step_of(found[0]) if found else None

    def step_runs(self, limit: int = 100) -> list[StepRun]:
        """Return the newest runs first."""
        return [rows.step_of(row) for row in self._read(queries.STEPS, {"limit": limit})]

    def add_metrics(self, run_id: str, points: Sequence[Mapping[str, Any]]) -> None:
        """Store points of a training curve: step, epoch, loss, learning_rate, values. A known step is replaced."""
        distinct = {int(point["step"]): rows.metric_row(run_id, point) for point in points}
        if not distinct:
            return
        with self.store.writing() as con:
            _bulk(con, queries.UPSERT_METRICS, rows.table(rows.METRICS, distinct.values()))

    def metrics(self, run_id: str) -> list[dict[str, Any]]:
        """Return the points of a training curve by step, in the form in which they were added."""
        return [rows.metric_of(row) for row in self._read(queries.METRICS, {"run_id": run_id})]

    def put_scores(self, model: str, suite: str, scores: Sequence[SampleScore]) -> None:
        """Store what `suite` said of `model`; it replaces what the suite said of it before."""
        of = {"model": model, "suite": suite}
        entries = (rows.score_row(model, suite, position, score) for position, score in enumerate(scores))
        with self.store.writing() as con:
            con.execute(queries.CLEAR_SCORES, of)
            _bulk(con, queries.INSERT_SCORES, rows.table(rows.SCORES, entries), {"now": self.clock()})

    def scores(self, model: str, suite: str) -> list[SampleScore]:
        """Return the scores of one model on one suite, in the suite's order."""
        return [rows.score_of(row) for row in self._read(queries.SCORES, {"model": model, "suite": suite})]

    def scored_suites(self, model: str) -> list[str]:
        """Return the names of the suites that one model has scores on, sorted."""
        return [suite for (suite,) in self._read(queries.SCORED_SUITES, {"model": model})]

    def put_gate(self, record: GateRecord) -> None:
        """Store a gate's decision; one with a known id is kept as it is."""
        with self.store.writing() as con:
            _bulk(con, queries.INSERT_GATE, rows.table(rows.GATES, [rows.gate_row(record)]))

    def gates(self, candidate: str | None = None) -> list[GateRecord]:
        """Return the gates' decisions, oldest first."""
        return [rows.gate_of(row) for row in self._read(queries.GATES, {"candidate": candidate})]

    def _read(
        self, sql: str, given: Mapping[str, Any] | None = None, *, wanted: pa.Table | None = None
    ) -> list[rows.Row]:
        with self.store.reading() as con:
            if wanted is not None:
                con.register("wanted", wanted)
            return con.execute(sql, dict(given or {})).fetchall()


@dataclass(frozen=True)
class _SyncPlan:
    """What a sync has to write."""

    diff: DocumentDiff
    document_rows: list[dict[str, Any]]
    chunk_rows: list[dict[str, Any]]
    gone_documents: list[str]
    gone_chunks: list[str]
    refusal_rows: list[dict[str, Any]]
    refusals_differ: bool

    @property
    def is_empty(self) -> bool:
        parts = (self.document_rows, self.chunk_rows, self.gone_documents, self.gone_chunks)
        return not (any(parts) or self.refusals_differ)


def _plan_sync(
    con: duckdb.DuckDBPyConnection,
    documents: Sequence[Document],
    chunks: Sequence[Chunk],
    refusals: Sequence[tuple[str, str]],
) -> _SyncPlan:
    # Two files with the same text are one document; the first path in order is the one that is shown.
    given = {document.id: document for document in sorted(documents, key=lambda one: one.path, reverse=True)}
    given_chunks = {chunk.id: chunk for chunk in chunks}
    known = {row[0]: row[1:] for row in con.execute(queries.STORED_DOCUMENTS).fetchall()}
    known_chunks = {row[0]: row[1:] for row in con.execute(queries.STORED_CHUNKS).fetchall()}
    wanted_refusals = sorted({(path, rows.readable(reason)) for path, reason in refusals})
    return _SyncPlan(
        diff=_diff(given, known),
        document_rows=[
            rows.document_row(document)
            for document in given.values()
            if known.get(document.id) != (document.path, document.title, document.media_type, True)
        ],
        chunk_rows=[
            rows.chunk_row(chunk)
            for chunk in given_chunks.values()
            if known_chunks.get(chunk.id) != (list(chunk.heading_path), chunk.split.value, True)
        ],
        gone_documents=[key for key, row in known.items() if row[-1] and key not in given],
        gone_chunks=[key for key, row in known_chunks.items() if row[-1] and key not in given_chunks],
        refusal_rows=[{"path": path, "reason": reason} for path, reason in wanted_refusals],
        refusals_differ=con.execute(queries.REFUSALS).fetchall() != wanted_refusals,
    )


def _diff(given: Mapping[str, Document], known: Mapping[str, rows.Row]) -> DocumentDiff:
    current = {key: row[0] for key, row in known.items() if row[-1]}
    known_paths = set(current.values())
    given_paths = {document.path for document in given.values()}
    new = [document for document in given.values() if document.id not in current]
    return DocumentDiff(
        added=tuple(sorted(document.id for document in new if document.path not in known_paths)),
        changed=tuple(sorted(document.id for document in new if document.path in known_paths)),
        removed=tuple(sorted(key for key, path in current.items() if key not in given and path not in given_paths)),
        unchanged=tuple(sorted(key for key in current if key in given)),
    )


def _bulk(
    con: duckdb.DuckDBPyConnection, sql: str, table: pa.Table, given: Mapping[str, Any] | None = None
) -> list[rows.Row]:
    """Run one statement over a whole Arrow table, which it knows as `incoming` (and `wanted`)."""
    con.register("incoming", table)
    con.register("wanted", table)
    return con.execute(sql, dict(given or {})).fetchall()
