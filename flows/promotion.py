"""What the commands and the `promote` flow say to the registry, and how its answers read.

A promotion is one transaction of its own and takes no run lock: production must be able to go back at once while a
pipeline trains for hours.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_catalog.catalogue import Catalogue
from data_catalog.evaluation_records import GateRecord
from data_catalog.records import ModelVersion, Stage
from data_catalog.registry import ModelDetails, Registry, RegistryEvent

Row = dict[str, object]


@dataclass(frozen=True)
class StageChange:
    """A stage that points somewhere else now."""

    action: str
    stage: str
    model: str
    replaced: str | None
    override: str | None
    """The reason, where the gates were overridden."""
    actor: str
    at: str
    entry: int
    """Its number in the registry's log."""

    @property
    def sentence(self) -> str:
        """The change in one line."""
        was = f" (was {self.replaced})" if self.replaced and self.replaced != self.model else ""
        despite = f", gates overridden: {self.override}" if self.override else ""
        return f"{self.stage} is {self.model} now{was}{despite}"


def promote_model(
    home: Path,
    version: str,
    to: Stage,
    *,
    actor: str,
    override_reason: str | None = None,
    expected_current: str | None = None,
) -> StageChange:
    """Let a stage point to a version; see `data_catalog.registry.Registry.promote`.

    Raises:
        RegistryError: the version is unknown, not approved, altered, or an override has no reason.
    """
    event = Registry(Catalogue(home)).promote(
        version, to, actor=actor, override_reason=override_reason, expected_current=expected_current
    )
    return _change(event)


def roll_back(home: Path, stage: Stage, *, actor: str) -> StageChange:
    """Let a stage point to what it pointed to before.

    Raises:
        RegistryError: there is no earlier version, or its bytes have changed.
    """
    return _change(Registry(Catalogue(home)).rollback(stage, actor))


def list_models(home: Path) -> list[Row]:
    """Return one row per version, the newest first."""
    registry = Registry(Catalogue(home))
    return [_model_row(registry.show(version.id)) for version in registry.models()]


def stage_history(home: Path, stage: Stage) -> list[Row]:
    """Return one row per event of a stage, the oldest first."""
    return [
        {
            "when": moment(event.happened_at),
            "action": event.action,
            "model": event.model_id,
            "replaced": event.details.get("replaced"),
            "actor": event.actor,
            "override": event.details.get("override"),
        }
        for event in Registry(Catalogue(home)).history(stage)
    ]


def describe_model(home: Path, name: str) -> ModelDetails:
    """Return all that is known of the version with this id, prefix of an id, or stage name.

    Raises:
        RegistryError: none or several fit.
    """
    return Registry(Catalogue(home)).show(name)


def description_lines(details: ModelDetails) -> list[str]:
    """Return what `tutelage models show` prints: identity, lineage, gates with their figures, files, events."""
    version = details.version
    lineage = version.lineage
    lines = [
        version.id,
        f"  stages        {_stage_names(details) or 'none'}",
        f"  registered    {moment(details.registered_at)}",
        f"  files in      {version.path}  ({_megabytes(version)} MB in {len(version.manifest)} files)",
    ]
    known = ("project", "base_path", "base", "teacher", "licence", "config_digest")
    lines += [f"  {key:<13} {lineage[key]}" for key in known if lineage.get(key)]
    lines += ["", "training stages"]
    lines += [f"  {_stage_line(stage)}" for stage in lineage.get("stages", [])] or ["  none recorded"]
    lines += ["", "gates"]
    lines += [line for gate in details.gates for line in _gate_lines(gate)] or ["  none"]
    lines += ["", "files"]
    lines += [f"  {sha256[:16]}  {size:>12,}  {path}" for path, size, sha256 in version.manifest]
    lines += ["", "events"]
    lines += [f"  {moment(event.happened_at)}  {_change(event).sentence}  by {event.actor}" for event in details.events]
    return lines


def actor() -> str:
    """Return who acts on the command line, for the registry's log: `user@machine`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def moment(seconds: float) -> str:
    """Return seconds since the epoch as `2026-11-22 13:05:09Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _change(event: RegistryEvent) -> StageChange:
    return StageChange(
        action=event.action,
        stage=event.stage.value,
        model=event.model_id,
        replaced=event.details.get("replaced"),
        override=event.details.get("override"),
        actor=event.actor,
        at=moment(event.happened_at),
        entry=event.seq,
    )


def _model_row(details: ModelDetails) -> Row:
    return {
        "model": details.version.id,
        "stages": _stage_names(details),
        "gates": ", ".join(f"{gate.stage_name} {gate.outcome}" for gate in details.gates),
        "registered": moment(details.registered_at),
        "MB": _megabytes(details.version),
    }


def _stage_names(details: ModelDetails) -> str:
    return ", ".join(stage.value for stage in details.stages)


def _megabytes(version: ModelVersion) -> str:
    return f"{sum(size for _, size, _ in version.manifest) / 1e6:.1f}"


def _stage_line(stage: Mapping[str, Any]) -> str:
    return f"{stage.get('name')}: {stage.get('dataset_id')}, {stage.get('run_id')}, {stage.get('gate_id') or 'no gate'}"


def _gate_lines(gate: GateRecord) -> list[str]:
    reasons = [f"    {comparison['reason']}" for comparison in gate.comparisons if comparison.get("reason")]
    return [f"  {gate.outcome}  {gate.stage_name}  {gate.id}", *reasons]
