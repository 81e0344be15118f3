"""The model registry: immutable versions, and stages that point to one version each.

The truth is an append-only log whose every entry covers the hash of the one before it; the stages are a view on it. A
version is promoted only if each gate in its lineage passed, the last of them on exactly these bytes, and the bytes are
still what was registered. Small pointer files beside the models say the same to other programs; the log wins.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_catalog import queries, rows
from data_catalog.errors import RegistryError
from data_catalog.evaluation_records import GateRecord
from data_catalog.files import write_durably
from data_catalog.identity import digest
from data_catalog.locks import LockHeld, hold
from data_catalog.model_files import (
    candidate_id,
    first_difference,
    gated_id,
    model_manifest,
    take_in,
)
from data_catalog.records import ModelVersion, Record, Stage

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

    from data_catalog.catalogue import Catalogue

__all__ = ["ModelDetails", "Registry", "RegistryEvent", "candidate_id", "model_manifest"]

_LOG = logging.getLogger(__name__)
_GENESIS = "0" * 64
_TARGETS = (Stage.STAGING, Stage.PRODUCTION)
_POINTER_WAIT = 10.0


class RegistryEvent(Record):
    """One entry of the log. `hash` covers every other field."""

    seq: int
    happened_at: float
    actor: str
    action: str
    """`register`, `promote`, `archive` or `rollback`."""
    stage: Stage
    model_id: str
    """The version that `stage` points to from now on."""
    details: Mapping[str, Any]
    """What it replaced, the gates it stood on, the reason of an override."""
    previous_hash: str
    hash: str

    def computed_hash(self) -> str:
        """Return the SHA-256 that this entry must have."""
        return digest(self.model_dump(mode="json", exclude={"hash"}))


class ModelDetails(Record):
    """All that is known of one version."""

    version: ModelVersion
    registered_at: float
    stages: tuple[Stage, ...]
    gates: tuple[GateRecord, ...]
    """The gates of its lineage that are in the catalogue."""
    events: tuple[RegistryEvent, ...]


class Registry:
    """The model versions and stages of one catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._directory = catalogue.models_dir

    # Taking in and verifying ---------------------------------------------------------------------------------------

    def register(self, directory: Path, lineage: Mapping[str, Any], *, actor: str = "run") -> ModelVersion:
        """Copy a model directory into the registry as the new candidate.

        The same bytes are the same version; registered again they are only copied where the registry's own copy is
        damaged, and a newer lineage replaces the older.

        Args:
            directory: config.json, safetensors, tokenizer files.
            lineage: {"base", "stages": [{"name", "run_id", "dataset_id", "gate_id"}], "config_digest", "project"}.
            actor: who does it, for the log.

        Raises:
            RegistryError: the directory holds a link, a pickle or code, or is no model.
            MachineError: the disk is full; nothing was registered.
        """
        stages = _lineage_stages(lineage)
        manifest = model_manifest(directory)
        version_id = ModelVersion.identity(manifest)
        version = ModelVersion(
            id=version_id, path=f"{self._directory.name}/{version_id}", manifest=manifest, lineage=lineage
        )
        if first_difference(self._path(version), manifest) is not None:
            take_in(directory, manifest, self._path(version))
        self._record(version, stages, actor)
        self._write_pointers()
        return version

    def _record(self, version: ModelVersion, stages: Sequence[Mapping[str, Any]], actor: str) -> None:
        lineage_digest = digest(version.lineage)
        with self._catalogue.store.writing() as con:
            known = _find_version(con, version.id)
            current = _pointers(con).get(Stage.CANDIDATE)
            if known is not None and digest(known.lineage) == lineage_digest and current == version.id:
                return
            given = {
                "id": version.id,
                "path": version.path,
                "manifest": rows.json_text(version.manifest),
                "lineage": rows.json_text(version.lineage),
                "now": self._catalogue.clock(),
            }
            con.execute(queries.UPSERT_MODEL, given)
            con.execute(queries.CLEAR_MODEL_SOURCES, {"id": version.id})
            con.register("incoming", rows.table(rows.MODEL_SOURCES, rows.model_source_rows(version.id, stages)))
            con.execute(queries.INSERT_MODEL_SOURCES)
            self._append(
                con, actor, "register", Stage.CANDIDATE, version.id, {"lineage": lineage_digest, "replaced": current}
            )

    def verify(self, version_id: str) -> ModelVersion:
        """Compare every file of a version with its manifest.

        Raises:
            RegistryError: names the first file that is missing, added or changed.
        """
        version = self.resolve(version_id)
        self._verify(version)
        return version

    def _verify(self, version: ModelVersion) -> None:
        if ModelVersion.identity(version.manifest) != version.id:
            raise RegistryError(
                f"the manifest of {version.id} in the catalogue was changed: it hashes to another id",
                next_step="restore the catalogue from a backup, or register the model again",
            )
        difference = first_difference(self._path(version), version.manifest)
        if difference is not None:
            raise RegistryError(
                f"{version.id} is not what was registered: {difference}",
                valid="exactly the bytes of its manifest; any change voids the approval",
                next_step=f"restore {self._path(version)} from a backup, register it again, or use another version",
            )

    # Moving stages -------------------------------------------------------------------------------------------------

    def promote(
        self,
        version: str,
        to: Stage,
        *,
        actor: str,
        override_reason: str | None = None,
        expected_current: str | None = None,
    ) -> RegistryEvent:
        """Let `to` (staging or production) point to a version, in one transaction.

        A former production version becomes the archived one.

        Args:
            version: id, unique prefix, or the name of a stage.
            to: Stage.STAGING or Stage.PRODUCTION.
            actor: who does it.
            override_reason: promotes without the gates' approval, and stands in the log; changed bytes are refused
                even so.
            expected_current: the version that `to` is believed to point to ("" for none); None does not look.

        Raises:
            RegistryError: not gated, a gate did not pass, other bytes than those gated or registered, or somebody else
                has moved the stage.
        """
        if to not in _TARGETS:
            raise RegistryError(f"nothing can be promoted to `{to}`", valid="staging, production")
        if override_reason is not None and not override_reason.strip():
            raise RegistryError("an override without a reason", valid="a reason that will stand in the log")
        chosen = self.resolve(version)
        self._verify(chosen)
        with self._catalogue.store.writing() as con:
            current = _pointers(con).get(to)
            _check_expected(to, current, expected_current)
            gates = _approval(con, chosen, overridden=override_reason is not None)
            details: dict[str, Any] = {"replaced": current, "gates": gates}
            if override_reason is not None:
                details["override"] = override_reason.strip()
            event = self._append(con, actor, "promote", to, chosen.id, details)
            self._archive(con, actor, to, current, chosen.id)
        self._write_pointers()
        return event

    def rollback(self, stage: Stage, actor: str) -> RegistryEvent:
        """Let `stage` point to the version it pointed to before; a second rollback goes one further back.

        Raises:
            RegistryError: there is no earlier version, or its bytes have changed.
        """
        if stage not in _TARGETS:
            raise RegistryError(f"`{stage}` can't be rolled back", valid="staging, production")
        target = self._earlier(stage)
        self._verify(self.resolve(target))
        with self._catalogue.store.writing() as con:
            current = _pointers(con)[stage]
            if _stack(_events(con, stage))[-2:] != [target, current]:
                raise RegistryError(f"`{stage}` was moved by somebody else just now", next_step="look at its history")
            event = self._append(con, actor, "rollback", stage, target, {"replaced": current})
            self._archive(con, actor, stage, current, target)
        self._write_pointers()
        return event

    def _earlier(self, stage: Stage) -> str:
        stack = _stack(self.history(stage))
        if len(stack) < 2:
            raise RegistryError(
                f"`{stage}` has no earlier version to go back to",
                valid="a stage that was promoted to at least twice",
                next_step=f"promote a version: tutelage promote VERSION --to {stage}",
            )
        return stack[-2]

    def _archive(self, con: duckdb.DuckDBPyConnection, actor: str, stage: Stage, former: str | None, now: str) -> None:
        if stage is Stage.PRODUCTION and former is not None and former != now:
            self._append(con, actor, "archive", Stage.ARCHIVED, former, {"after": now})

    def _append(
        self,
        con: duckdb.DuckDBPyConnection,
        actor: str,
        action: str,
        stage: Stage,
        model_id: str,
        details: Mapping[str, Any],
    ) -> RegistryEvent:
        last = con.execute(queries.LAST_EVENT).fetchone()
        seq, previous_hash = (last[0] + 1, last[1]) if last else (1, _GENESIS)
        draft = RegistryEvent(
            seq=seq,
            happened_at=self._catalogue.clock(),
            actor=actor,
            action=action,
            stage=stage,
            model_id=model_id,
            details=details,
            previous_hash=previous_hash,
            hash="",
        )
        event = draft.model_copy(update={"hash": draft.computed_hash()})
        con.execute(
            queries.APPEND_EVENT,
            event.model_dump(mode="json") | {"details": rows.json_text(event.details)},
        )
        return event

    # Looking -------------------------------------------------------------------------------------------------------

    def stages(self) -> dict[Stage, ModelVersion | None]:
        """Return what every stage points to. Pointer files that say otherwise are written anew."""
        with self._catalogue.store.reading() as con:
            pointers = _pointers(con)
            found = {stage: _find_version(con, pointers[stage]) if stage in pointers else None for stage in Stage}
        if not self._pointer_files_agree(pointers):
            self._write_pointers()
        return found

    def models(self) -> list[ModelVersion]:
        """Return every version, the newest first."""
        with self._catalogue.store.reading() as con:
            return [rows.model_of(row) for row in con.execute(queries.MODELS).fetchall()]

    def show(self, name: str) -> ModelDetails:
        """Return all that is known of the version with this id, unique prefix, or stage name."""
        version = self.resolve(name)
        with self._catalogue.store.reading() as con:
            pointers = _pointers(con)
            ((*_, registered_at),) = con.execute(queries.MODEL, {"id": version.id}).fetchall()
            return ModelDetails(
                version=version,
                registered_at=registered_at,
                stages=tuple(stage for stage in Stage if pointers.get(stage) == version.id),
                gates=tuple(_gates_of(con, version)),
                events=tuple(event for event in _events(con, None) if event.model_id == version.id),
            )

    def resolve(self, name: str) -> ModelVersion:
        """Return the version with this id, unique prefix (with or without `model-`), or stage name.

        Raises:
            RegistryError: none or several fit, or the stage is empty.
        """
        if name in set(Stage):
            version = self.stages()[Stage(name)]
            if version is None:
                raise RegistryError(f"no model in stage `{name}`", next_step="list what there is: tutelage models")
            return version
        known = self.models()
        fitting = [one for one in known if one.id == name] or [
            one for one in known if name and (one.id.startswith(name) or one.id.removeprefix("model-").startswith(name))
        ]
        if len(fitting) == 1:
            return fitting[0]
        raise RegistryError(
            f"`{name}` fits {len(fitting) or 'no'} model versions"
            + (f": {', '.join(one.id for one in fitting[:5])}" if fitting else ""),
            valid="an id, a prefix that fits one version, or candidate, staging, production, archived",
            next_step="list what there is: tutelage models",
        )

    def history(self, stage: Stage | None = None) -> list[RegistryEvent]:
        """Return the log of one stage, or all of it, the oldest entry first."""
        with self._catalogue.store.reading() as con:
            return _events(con, stage)

    def verify_chain(self) -> int:
        """Recompute the log's hashes and return how many entries it has.

        Raises:
            RegistryError: names the first entry that was changed, removed or put in, or says that the end is missing.
        """
        events = self.history()
        previous = _GENESIS
        for position, event in enumerate(events, start=1):
            if event.seq != position:
                raise _tampered(position, f"is missing; entry {event.seq} follows")
            if event.computed_hash() != event.hash:
                raise _tampered(position, f"({event.action} {event.stage} {event.model_id}) was changed")
            if event.previous_hash != previous:
                raise _tampered(position, "does not follow from the one before it, which was replaced")
            previous = event.hash
        self._check_head(events)
        return len(events)

    # Pointer files -------------------------------------------------------------------------------------------------

    def _check_head(self, events: Sequence[RegistryEvent]) -> None:
        """A cut-off end leaves the chain whole; the head file remembers how far it went."""
        head = _read_json(self._head_file)
        seq, expected = head.get("seq", 0), head.get("hash", _GENESIS)
        if not isinstance(seq, int) or seq > len(events):
            raise _tampered(len(events) + 1, f"is missing: the log once had {seq} entries ({self._head_file})")
        if seq and events[seq - 1].hash != expected:
            raise _tampered(seq, f"is not the one that {self._head_file} remembers")

    @property
    def _head_file(self) -> Path:
        return self._directory / "log-head.json"

    def _pointer_file(self, stage: Stage) -> Path:
        return self._directory / f"{stage}.json"

    def _pointer_files_agree(self, pointers: Mapping[Stage, str]) -> bool:
        return all(_read_json(self._pointer_file(stage)).get("model_id") == pointers.get(stage) for stage in Stage)

    def _write_pointers(self) -> None:
        """Write every stage's pointer and the log's head. Taking turns, the last writer has read the newest log."""
        try:
            with hold(self._directory / "pointers.lock", "registry", wait=_POINTER_WAIT):
                self._write_pointers_in_turn()
        except (LockHeld, OSError) as error:
            # The log is the truth and already has the move; the next reader writes the files again.
            _LOG.warning("the pointer files in %s were not written: %s", self._directory, error)

    def _write_pointers_in_turn(self) -> None:
        with self._catalogue.store.reading() as con:
            current = con.execute(queries.STAGE_POINTERS).fetchall()
            last = con.execute(queries.LAST_EVENT).fetchone()
        for stage, model_id, seq, event_hash in current:
            content = {
                "stage": stage,
                "model_id": model_id,
                "path": f"{self._directory.name}/{model_id}",
                "seq": seq,
                "hash": event_hash,
            }
            if _read_json(self._pointer_file(Stage(stage))) != content:
                write_durably(self._pointer_file(Stage(stage)), _pretty(content))
        for stage in set(Stage) - {Stage(row[0]) for row in current}:
            self._pointer_file(stage).unlink(missing_ok=True)
        if last and _read_json(self._head_file).get("seq", 0) < last[0]:
            write_durably(self._head_file, _pretty({"seq": last[0], "hash": last[1]}))

    def _path(self, version: ModelVersion) -> Path:
        return self._catalogue.home / version.path


def _lineage_stages(lineage: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    stages = lineage.get("stages", ())
    if not isinstance(stages, Sequence) or not all(isinstance(stage, Mapping) for stage in stages):
        raise RegistryError(
            "the lineage's `stages` can't be read", valid='a list of {"name", "run_id", "dataset_id", "gate_id"}'
        )
    return stages


def _approval(con: duckdb.DuckDBPyConnection, version: ModelVersion, *, overridden: bool) -> list[dict[str, str]]:
    """Return the gates that the promotion stands on, or refuse it; an override is let through with what there is."""
    gates = _gates_of(con, version)
    problem = _lineage_problem(con, version) or _gate_problem(version, gates)
    if problem and not overridden:
        raise RegistryError(
            f"{version.id} is not approved: {problem}",
            valid="every gate of its lineage passed, the last one on exactly these bytes",
            next_step="run the gates again (tutelage run CONFIG), or promote with --override --reason TEXT, "
            "which stands in the log",
        )
    return [{"id": gate.id, "outcome": gate.outcome, "digest": digest(gate)} for gate in gates]


def _lineage_problem(con: duckdb.DuckDBPyConnection, version: ModelVersion) -> str:
    registered = [event for event in _events(con, Stage.CANDIDATE) if event.model_id == version.id]
    if not registered or registered[-1].details.get("lineage") != digest(version.lineage):
        return "its lineage is not the one that it was registered with"
    return ""


def _gate_problem(version: ModelVersion, gates: Sequence[GateRecord]) -> str:
    stages = _lineage_stages(version.lineage)
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


def _gates_of(con: duckdb.DuckDBPyConnection, version: ModelVersion) -> list[GateRecord]:
    wanted = [stage["gate_id"] for stage in _lineage_stages(version.lineage) if stage.get("gate_id")]
    con.register("wanted", rows.ids(wanted))
    return [rows.gate_of(row) for row in con.execute(queries.GATES_BY_ID).fetchall()]


def _check_expected(stage: Stage, current: str | None, expected: str | None) -> None:
    if expected is not None and expected != (current or ""):
        raise RegistryError(
            f"`{stage}` points to {current or 'nothing'}, not to {expected or 'nothing'}: somebody moved it",
            next_step="look at the stages (tutelage models) and decide again",
        )


def _find_version(con: duckdb.DuckDBPyConnection, model_id: str) -> ModelVersion | None:
    row = con.execute(queries.MODEL, {"id": model_id}).fetchone()
    return None if row is None else rows.model_of(row)


def _pointers(con: duckdb.DuckDBPyConnection) -> dict[Stage, str]:
    return {Stage(row[0]): row[1] for row in con.execute(queries.STAGE_POINTERS).fetchall()}


def _events(con: duckdb.DuckDBPyConnection, stage: Stage | None) -> list[RegistryEvent]:
    found = con.execute(queries.EVENTS, {"stage": None if stage is None else stage.value}).fetchall()
    return [
        RegistryEvent(
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
        for row in found
    ]


def _stack(events: Sequence[RegistryEvent]) -> list[str]:
    """Return the versions a stage could go back through, the current one last: promotions push, rollbacks pop."""
    stack: list[str] = []
    for event in events:
        if event.action == "rollback":
            stack.pop()
        elif not stack or stack[-1] != event.model_id:
            stack.append(event.model_id)
    return stack


def _tampered(seq: int, what: str) -> RegistryError:
    return RegistryError(
        f"the registry's log was tampered with: entry {seq} {what}",
        valid="an unbroken chain of hashes from entry 1",
        next_step="restore catalogue.duckdb from a backup; do not promote from this one",
    )


def _read_json(path: Path) -> dict[str, Any]:
    """Return a small file's mapping; an empty one where it is missing or garbled, since it can be written again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _pretty(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
