"""What a promotion stands on: the gates of a version's lineage, and a person's approval of these bytes and these gates.

An approval is an entry of the registry's log. It names the manifest and the gates by their hashes and ends at a time,
so it is void when any byte, any gate or the clock has moved on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from data_catalog import queries, rows
from data_catalog.errors import RegistryError
from data_catalog.evaluation_records import GateRecord
from data_catalog.identity import digest
from data_catalog.model_files import gated_id
from data_catalog.records import ModelVersion, Stage
from data_catalog.registry_log import RegistryEvent, read_events

if TYPE_CHECKING:
    import duckdb

NEEDS_APPROVAL = "needs_approval"
"""Key of a lineage: the stages that a version made under such a configuration enters only with an approval."""

GateNote = dict[str, str]
"""How a log entry names a gate: id, training stage, outcome, digest of the whole record."""


def lineage_stages(lineage: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the training stages of a lineage.

    Raises:
        RegistryError: they have another form.
    """
    stages = lineage.get("stages", ())
    if not isinstance(stages, Sequence) or not all(isinstance(stage, Mapping) for stage in stages):
        raise RegistryError(
            "the lineage's `stages` can't be read", valid='a list of {"name", "run_id", "dataset_id", "gate_id"}'
        )
    return stages


def gates_of(con: duckdb.DuckDBPyConnection, version: ModelVersion) -> list[GateRecord]:
    """Return the gates of a version's lineage that are in the catalogue, the oldest first."""
    wanted = [stage["gate_id"] for stage in lineage_stages(version.lineage) if stage.get("gate_id")]
    con.register("wanted", rows.ids(wanted))
    return [rows.gate_of(row) for row in con.execute(queries.GATES_BY_ID).fetchall()]


def gate_notes(gates: Sequence[GateRecord]) -> list[GateNote]:
    """Return what a log entry says of gates."""
    return [
        {"id": gate.id, "stage": gate.stage_name, "outcome": gate.outcome, "digest": digest(gate)} for gate in gates
    ]


def check_gates(con: duckdb.DuckDBPyConnection, version: ModelVersion, *, overridden: bool) -> list[GateNote]:
    """Return the gates that the promotion stands on; an override is let through with what there is.

    Raises:
        RegistryError: a gate is missing, did not pass, or was about other bytes.
    """
    problem = standing_problem(con, version)
    if problem and not overridden:
        raise RegistryError(
            f"{version.id} is not approved: {problem}",
            valid="every gate of its lineage passed, the last one on exactly these bytes",
            next_step="run the gates again (tutelage run CONFIG), or promote with --override --reason TEXT, "
            "which stands in the log",
        )
    return gate_notes(gates_of(con, version))


def standing_problem(con: duckdb.DuckDBPyConnection, version: ModelVersion) -> str:
    """Return why the gates do not allow a version to be promoted; nothing where they do."""
    return _lineage_problem(con, version) or _gate_problem(version, gates_of(con, version))


def _lineage_problem(con: duckdb.DuckDBPyConnection, version: ModelVersion) -> str:
    registered = [event for event in read_events(con, Stage.CANDIDATE, version.id) if event.action == "register"]
    if not registered or registered[-1].details.get("lineage") != digest(version.lineage):
        return "its lineage is not the one that it was registered with"
    return ""


def _gate_problem(version: ModelVersion, gates: Sequence[GateRecord]) -> str:
    stages = lineage_stages(version.lineage)
    wanted = [stage.get("gate_id") for stage in stages]
    if not wanted or not wanted[-1]:
        return "no gate stands behind its last training stage"
    found = {gate.id: gate for gate in gates}
    for gate_id in filter(None, wanted):
        gate = found.get(gate_id)
        if gate is None:
            return f"{gate_id} of its lineage is not in the catalogue"
        if not gate.passed:
            return f"{gate.id} behind stage `{gate.stage_name}` says {gate.outcome}"
    last = found[wanted[-1]]
    if last.candidate not in (version.id, gated_id(version.manifest)):
        return f"{last.id} was about {last.candidate}, which are other bytes"
    return ""


def approval_details(version: ModelVersion, gates: Sequence[GateNote], expires_at: float) -> dict[str, Any]:
    """Return what an `approve` entry binds: the bytes, the gates, and until when (seconds since the epoch)."""
    return {
        "manifest": digest(version.manifest),
        "gates": list(gates),
        "gates_digest": digest(list(gates)),
        "expires_at": expires_at,
    }


def check_approval(
    con: duckdb.DuckDBPyConnection, version: ModelVersion, to: Stage, gates: Sequence[GateNote], now: float
) -> dict[str, Any]:
    """Return the approval that a promotion stands on, as the promotion's entry shall name it.

    Args:
        con: the session of the promotion's transaction.
        version: what is promoted.
        to: the stage it is promoted to.
        gates: what its gates say now.
        now: seconds since the epoch.

    Raises:
        RegistryError: nobody approved it for this stage, or the approval has expired or was about something else.
    """
    given = [event for event in read_events(con, to) if event.action == "approve"]
    own = [event for event in given if event.model_id == version.id]
    problem = _approval_problem(own[-1], version, gates, now) if own else _none_given(given, version, to)
    if problem:
        raise RegistryError(
            problem,
            valid=f"an approval for `{to}` that has not expired, of exactly these bytes and these gates",
            next_step=f"look at it (tutelage models show {version.id}), then: tutelage approve {version.id} --to {to}",
        )
    last = own[-1]
    return {"entry": last.seq, "hash": last.hash, "by": last.actor, "expires_at": last.details["expires_at"]}


def _none_given(given: Sequence[RegistryEvent], version: ModelVersion, to: Stage) -> str:
    other = f"; the last approval is of {given[-1].model_id} ({_named(given[-1])})" if given else ""
    return f"{version.id} was not approved for `{to}`{other}"


def _approval_problem(event: RegistryEvent, version: ModelVersion, gates: Sequence[GateNote], now: float) -> str:
    details = event.details
    start = f"the approval of {version.id} for `{event.stage}` ({_named(event)})"
    if details.get("manifest") != digest(version.manifest):
        return f"{start} is about other bytes"
    if details.get("gates_digest") != digest(list(gates)):
        return f"{start} is stale: the gates say something else now than when it was given"
    if (expires_at := details.get("expires_at", 0.0)) <= now:
        return f"{start} expired at {datetime.fromtimestamp(expires_at, UTC):%Y-%m-%d %H:%M:%SZ}"
    return ""


def _named(event: RegistryEvent) -> str:
    return f"entry {event.seq}, by {event.actor}"
