"""The model registry: immutable versions, and stages that point to one version each.

The truth is an append-only log (`data_catalog.registry_log`); the stages are a view on it. A version is promoted only
if each gate in its lineage passed, the last of them on exactly these bytes, if the bytes are still what was registered,
and, where a stage demands it, if somebody has approved them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_catalog import queries, registry_log, rows
from data_catalog.approvals import (
    NEEDS_APPROVAL,
    approval_details,
    check_approval,
    check_gates,
    gate_notes,
    gates_of,
    lineage_stages,
)
from data_catalog.errors import MachineError, RegistryError
from data_catalog.evaluation_records import GateRecord
from data_catalog.identity import digest
from data_catalog.model_files import candidate_id, first_difference, model_manifest, take_in
from data_catalog.pointer_files import PointerFiles
from data_catalog.records import ModelVersion, Record, Stage
from data_catalog.registry_log import (
    RegistryEvent,
    StagePointer,
    pointers,
    read_events,
    stage_pointers,
    version_stack,
)

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

    from data_catalog.catalogue import Catalogue

__all__ = ["ModelDetails", "ModelSummary", "Registry", "RegistryEvent", "candidate_id", "model_manifest"]

_LOG = logging.getLogger(__name__)
_TARGETS = (Stage.STAGING, Stage.PRODUCTION)


class ModelSummary(Record):
    """One version as a list of all shows it."""

    id: str
    registered_at: float
    removed_at: float | None
    """When its files were removed, in seconds since the epoch; None while they are kept."""
    bytes: int
    stages: tuple[Stage, ...]
    gates: tuple[str, ...]
    """Training stage and outcome of each gate that is in the catalogue, the oldest first."""


class ModelDetails(Record):
    """All that is known of one version."""

    version: ModelVersion
    registered_at: float
    removed_at: float | None
    """When its files were removed, in seconds since the epoch; None while they are kept."""
    stages: tuple[Stage, ...]
    gates: tuple[GateRecord, ...]
    """The gates of its lineage that are in the catalogue."""
    events: tuple[RegistryEvent, ...]


class Registry:
    """The model versions and stages of one catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._directory = catalogue.models_dir
        self._files = PointerFiles(catalogue.models_dir, catalogue.store)

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
        stages = lineage_stages(lineage)
        manifest = model_manifest(directory)
        version_id = ModelVersion.identity(manifest)
        version = ModelVersion(
            id=version_id, path=f"{self._directory.name}/{version_id}", manifest=manifest, lineage=lineage
        )
        if first_difference(self._path(version), manifest) is not None:
            take_in(directory, manifest, self._path(version))
        self._record(version, stages, actor)
        self._files.write()
        return version

    def _record(self, version: ModelVersion, stages: Sequence[Mapping[str, Any]], actor: str) -> None:
        lineage_digest = digest(version.lineage)
        with self._catalogue.store.writing() as con:
            known = _find_version(con, version.id)
            current = pointers(con).get(Stage.CANDIDATE)
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
        needs_approval: bool = False,
    ) -> RegistryEvent:
        """Let `to` (staging or production) point to a version, in one transaction.

        A former production version becomes the archived one.

        Args:
            version: id, unique prefix, or the name of a stage.
            to: Stage.STAGING or Stage.PRODUCTION.
            actor: who does it.
            override_reason: promotes although the gates did not pass, and stands in the log; changed bytes and a
                missing approval are refused even so.
            expected_current: the version that `to` is believed to point to ("" for none); None does not look.
            needs_approval: whether an approval in force is demanded; where the version's lineage demands one, it is
                in any case.

        Raises:
            RegistryError: not gated, a gate did not pass, other bytes than those gated or registered, no approval where
                one is demanded, somebody else has moved the stage, or the log was tampered with.
            MachineError: the stage was moved, but the pointer files could not be written.
        """
        if to not in _TARGETS:
            raise RegistryError(f"nothing can be promoted to `{to}`", valid="staging, production")
        if override_reason is not None and not override_reason.strip():
            raise RegistryError("an override without a reason", valid="a reason that will stand in the log")
        self.verify_chain()
        chosen = self.resolve(version)
        self._verify(chosen)
        with self._catalogue.store.writing() as con:
            current = pointers(con).get(to)
            _check_expected(to, current, expected_current)
            _check_kept(con, chosen.id)
            gates = check_gates(con, chosen, overridden=override_reason is not None)
            details: dict[str, Any] = {"replaced": current, "gates": gates}
            if needs_approval or to in chosen.lineage.get(NEEDS_APPROVAL, ()):
                details["approval"] = check_approval(con, chosen, to, gates, self._catalogue.clock())
            if override_reason is not None:
                details["override"] = override_reason.strip()
            event = self._append(con, actor, "promote", to, chosen.id, details)
            self._archive(con, actor, to, current, chosen.id)
        self._files.write()
        return event

    def approve(self, version: str, to: Stage, *, actor: str, seconds: float) -> RegistryEvent:
        """Approve exactly these bytes and what their gates say now for a stage; it moves nothing.

        Args:
            version: id, unique prefix, or the name of a stage.
            to: Stage.STAGING or Stage.PRODUCTION.
            actor: who approves.
            seconds: how long the approval is in force.

        Raises:
            RegistryError: the version is unknown or its bytes have changed, or the time is none.
        """
        if to not in _TARGETS:
            raise RegistryError(f"nothing can be approved for `{to}`", valid="staging, production")
        if not actor.strip() or not 0 < seconds < math.inf:
            raise RegistryError(f"an approval by `{actor}` for {seconds} s", valid="a name, and a time above zero")
        self.verify_chain()
        chosen = self.resolve(version)
        self._verify(chosen)
        with self._catalogue.store.writing() as con:
            notes = gate_notes(gates_of(con, chosen))
            details = approval_details(chosen, notes, self._catalogue.clock() + seconds)
            event = self._append(con, actor.strip(), "approve", to, chosen.id, details)
        self._files.write()
        return event

    def note_serving(
        self, version_id: str, stage: Stage, *, switched: bool, actor: str, details: Mapping[str, Any]
    ) -> RegistryEvent:
        """Write down that a server of `stage` switched to a version, or refused it; it moves nothing.

        Args:
            version_id: the version that was tried.
            stage: the stage that is served.
            switched: whether it answers now; otherwise the server stayed with what it had.
            actor: which server.
            details: backend, what the canary set said, what it replaced, the reason of a refusal.
        """
        with self._catalogue.store.writing() as con:
            event = self._append(con, actor, "serve" if switched else "refuse", stage, version_id, details)
        self._files.write()
        return event

    def rollback(self, stage: Stage, actor: str) -> RegistryEvent:
        """Let `stage` point to the version it pointed to before; a second rollback goes one further back.

        Raises:
            RegistryError: there is no earlier version, or its bytes have changed; nothing was moved.
            MachineError: the stage was moved, but the pointer files could not be written.
        """
        if stage not in _TARGETS:
            raise RegistryError(f"`{stage}` can't be rolled back", valid="staging, production")
        target = self._earlier(stage)
        self._verify(self.resolve(target))
        with self._catalogue.store.writing() as con:
            current = pointers(con)[stage]
            if version_stack(read_events(con, stage))[-2:] != [target, current]:
                raise RegistryError(f"`{stage}` was moved by somebody else just now", next_step="look at its history")
            _check_kept(con, target)
            event = self._append(con, actor, "rollback", stage, target, {"replaced": current})
            self._archive(con, actor, stage, current, target)
        self._files.write()
        return event

    def _earlier(self, stage: Stage) -> str:
        stack = version_stack(self.history(stage))
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
        return registry_log.append(
            con,
            now=self._catalogue.clock(),
            actor=actor,
            action=action,
            stage=stage,
            model_id=model_id,
            details=details,
        )

    # Looking -------------------------------------------------------------------------------------------------------

    def stages(self) -> dict[Stage, ModelVersion | None]:
        """Return what every stage points to. Pointer files that say otherwise are written anew."""
        with self._catalogue.store.reading() as con:
            current = pointers(con)
            found = {stage: _find_version(con, current[stage]) if stage in current else None for stage in Stage}
        if not self._files.agree(current):
            try:
                self._files.write()
            except MachineError as error:
                # The log was read and is the truth; who only looks may do so without the right to write.
                _LOG.warning("%s", error.message)
        return found

    def pointer(self, stage: Stage) -> StagePointer | None:
        """Return what one stage points to, and the entry of the log that says so; None where it is empty."""
        with self._catalogue.store.reading() as con:
            return next((pointer for pointer in stage_pointers(con) if pointer.stage is stage), None)

    def models(self) -> list[ModelSummary]:
        """Return every version, the newest first."""
        with self._catalogue.store.reading() as con:
            return [
                ModelSummary(
                    id=row[0],
                    registered_at=row[1],
                    removed_at=row[2],
                    bytes=row[3],
                    stages=tuple(stage for stage in Stage if stage in row[4]),
                    gates=tuple(row[5]),
                )
                for row in con.execute(queries.MODEL_SUMMARIES).fetchall()
            ]

    def show(self, name: str) -> ModelDetails:
        """Return all that is known of the version with this id, unique prefix, or stage name."""
        version = self.resolve(name)
        with self._catalogue.store.reading() as con:
            current = pointers(con)
            ((*_, registered_at, removed_at),) = con.execute(queries.MODEL, {"id": version.id}).fetchall()
            return ModelDetails(
                version=version,
                registered_at=registered_at,
                removed_at=removed_at,
                stages=tuple(stage for stage in Stage if current.get(stage) == version.id),
                gates=tuple(gates_of(con, version)),
                events=tuple(read_events(con, model_id=version.id)),
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
        with self._catalogue.store.reading() as con:
            fitting = [one for (one,) in con.execute(queries.MODEL_IDS, {"name": name}).fetchall()]
            chosen = name if name in fitting else fitting[0] if len(fitting) == 1 else ""
            version = _find_version(con, chosen)
        if version is not None:
            return version
        raise RegistryError(
            f"`{name}` fits {len(fitting) or 'no'} model versions" + (f": {', '.join(fitting[:5])}" if fitting else ""),
            valid="an id, a prefix that fits one version, or candidate, staging, production, archived",
            next_step="list what there is: tutelage models",
        )

    def history(self, stage: Stage | None = None) -> list[RegistryEvent]:
        """Return the log of one stage, or all of it, the oldest entry first."""
        with self._catalogue.store.reading() as con:
            return read_events(con, stage)

    def audit(self) -> registry_log.Audit:
        """Recompute the log's hashes; say how many entries it has and which is the first that was not written so."""
        # Read before the log: what is appended in between must not look cut off.
        head = self._files.head()
        with self._catalogue.store.reading() as con:
            return registry_log.audit(con, head)

    def verify_chain(self) -> int:
        """Recompute the log's hashes and return how many entries it has.

        Raises:
            RegistryError: names the first entry that was changed, removed or put in, or says that the end is missing.
        """
        report = self.audit()
        if report.broken is not None:
            raise registry_log.tampered(report.broken)
        return report.entries

    def _path(self, version: ModelVersion) -> Path:
        return self._catalogue.home / version.path


def _check_expected(stage: Stage, current: str | None, expected: str | None) -> None:
    if expected is not None and expected != (current or ""):
        raise RegistryError(
            f"`{stage}` points to {current or 'nothing'}, not to {expected or 'nothing'}: somebody moved it",
            next_step="look at the stages (tutelage models) and decide again",
        )


def _check_kept(con: duckdb.DuckDBPyConnection, model_id: str) -> None:
    """Refuse a version whose files were removed after they had been verified."""
    if con.execute(queries.MODEL_REMOVED_AT, {"id": model_id}).fetchall()[0][0] is not None:
        raise RegistryError(
            f"the files of {model_id} were removed by `tutelage gc`: nothing pointed to it",
            next_step="make it again (tutelage run CONFIG), or use another version: tutelage models",
        )


def _find_version(con: duckdb.DuckDBPyConnection, model_id: str) -> ModelVersion | None:
    row = con.execute(queries.MODEL, {"id": model_id}).fetchone()
    return None if row is None else rows.model_of(row)
