"""What the commands and the `promote` flow say to the registry, and how its answers read.

A promotion is one transaction of its own and takes no run lock: production must be able to go back at once while a
pipeline trains for hours.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_catalog.catalogue import Catalogue
from data_catalog.errors import ConfigError
from data_catalog.evaluation_records import GateRecord
from data_catalog.records import ModelVersion, Stage
from data_catalog.registry import ModelDetails, ModelSummary, Registry, RegistryEvent

Row = dict[str, object]
NOTHING = "none"
"""What a stage that was never promoted to points to, in the words of the command line."""
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


@dataclass(frozen=True)
class StageChange:
    """A stage that points somewhere else now."""

    action: str
    stage: str
    model: str
    replaced: str | None
    override: str | None
    """The reason, where the gates were overridden."""
    approved_by: str | None
    """Who approved it, where the stage demands an approval."""
    actor: str
    at: str
    entry: int
    """Its number in the registry's log."""

    @property
    def sentence(self) -> str:
        """The change in one line."""
        was = f" (was {self.replaced})" if self.replaced and self.replaced != self.model else ""
        approved = f", approved by {self.approved_by}" if self.approved_by else ""
        despite = f", gates overridden: {self.override}" if self.override else ""
        return f"{self.stage} is {self.model} now{was}{approved}{despite}"


@dataclass(frozen=True)
class GivenApproval:
    """What somebody has approved."""

    model: str
    stage: str
    gates: tuple[str, ...]
    """Stage and outcome of each gate that the approval is bound to."""
    approved_by: str
    expires: str
    entry: int
    """Its number in the registry's log."""

    @property
    def sentence(self) -> str:
        """The approval in one line."""
        gates = ", ".join(self.gates) or "no gate"
        return f"{self.model} ({gates}) is approved for {self.stage} by {self.approved_by} until {self.expires}"


def promote_model(
    home: Path,
    version: str,
    to: Stage,
    *,
    actor: str,
    override_reason: str | None = None,
    expected: str | None = None,
    needs_approval: Collection[str] = (),
) -> StageChange:
    """Let a stage point to a version; see `data_catalog.registry.Registry.promote`.

    Args:
        home: the project's home.
        version: id, beginning of an id, or stage.
        to: the stage.
        actor: who does it.
        override_reason: why the gates are overridden.
        expected: what the stage must point to now: an id, the beginning of one, or `none`; None does not look.
        needs_approval: the stages that the configuration opens only with an approval.

    Raises:
        RegistryError: the version is unknown, not approved, altered, or an override has no reason.
    """
    registry = Registry(Catalogue(home))
    current = expected and ("" if expected == NOTHING else registry.resolve(expected).id)
    event = registry.promote(
        version,
        to,
        actor=actor,
        override_reason=override_reason,
        expected_current=current,
        needs_approval=to in needs_approval,
    )
    return _change(event)


def approve_model(home: Path, version: str, to: Stage, *, actor: str, expires: str) -> GivenApproval:
    """Approve a version for a stage, for as long as `expires` (such as `7d`) says.

    Raises:
        ConfigError: `expires` is no duration.
        RegistryError: the version is unknown or altered.
    """
    event = Registry(Catalogue(home)).approve(version, to, actor=actor, seconds=duration(expires))
    return GivenApproval(
        model=event.model_id,
        stage=event.stage.value,
        gates=tuple(f"{gate['stage']} {gate['outcome']}" for gate in event.details["gates"]),
        approved_by=event.actor,
        expires=moment(event.details["expires_at"]),
        entry=event.seq,
    )


def roll_back(home: Path, stage: Stage, *, actor: str) -> StageChange:
    """Let a stage point to what it pointed to before.

    Raises:
        RegistryError: there is no earlier version, or its bytes have changed.
    """
    return _change(Registry(Catalogue(home)).rollback(stage, actor))


def list_models(home: Path) -> list[Row]:
    """Return one row per version, the newest first."""
    return [_model_row(model) for model in Registry(Catalogue(home)).models()]


def stage_history(home: Path, stage: Stage) -> list[Row]:
    """Return one row per event of a stage, the oldest first."""
    return [
        {
            "when": moment(event.happened_at),
            "action": event.action,
            "model": event.model_id,
            "replaced": event.details.get("replaced"),
            "actor": event.actor,
            "approved_by": _approver(event),
            "override": event.details.get("override"),
        }
        for event in Registry(Catalogue(home)).history(stage)
    ]


def log_rows(events: Sequence[RegistryEvent]) -> list[Row]:
    """Return one row per entry of the log, in the order given."""
    return [
        {
            "entry": event.seq,
            "when": moment(event.happened_at),
            "actor": event.actor,
            "what": _event_line(event),
            "sha256": event.hash[:12],
        }
        for event in events
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
        *([f"  removed       {moment(details.removed_at)}"] if details.removed_at else []),
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
    lines += [f"  {moment(event.happened_at)}  {_event_line(event)}  by {event.actor}" for event in details.events]
    return lines


def actor() -> str:
    """Return who acts on the command line, for the registry's log: `user@machine`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def duration(text: str) -> float:
    """Return the seconds of `90s`, `30m`, `12h`, `7d` or `2w`.

    Raises:
        ConfigError: it is something else, or nothing.
    """
    match = re.fullmatch(r"([1-9]\d{0,5})([smhdw])", text.strip())
    if match is None:
        raise ConfigError(f"`{text}` is no duration", valid="a whole number above 0 and s, m, h, d or w, such as 7d")
    return int(match[1]) * _SECONDS[match[2]]


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
        approved_by=_approver(event),
        actor=event.actor,
        at=moment(event.happened_at),
        entry=event.seq,
    )


def _event_line(event: RegistryEvent) -> str:
    if event.action == "approve":
        return f"approve: {event.model_id} for {event.stage} until {moment(event.details['expires_at'])}"
    if event.action == "remove":
        return f"remove: the files of {event.model_id}"
    if event.action == "serve":
        return f"serve: {event.model_id} answers for {event.stage} now"
    if event.action == "refuse":
        kept = event.details.get("kept") or "nothing"
        return f"refuse: {event.model_id} for {event.stage}, {kept} still answers: {event.details.get('reason', '')}"
    return f"{event.action}: {_change(event).sentence}"


def _approver(event: RegistryEvent) -> str | None:
    approval: Mapping[str, Any] = event.details.get("approval", {})
    return approval.get("by")


def _model_row(model: ModelSummary) -> Row:
    return {
        "model": model.id,
        "stages": _stage_names(model),
        "gates": ", ".join(model.gates),
        "registered": moment(model.registered_at),
        "MB": f"{model.bytes / 1e6:.1f}" if model.removed_at is None else "removed",
    }


def _stage_names(model: ModelSummary | ModelDetails) -> str:
    return ", ".join(stage.value for stage in model.stages)


def _megabytes(version: ModelVersion) -> str:
    return f"{sum(size for _, size, _ in version.manifest) / 1e6:.1f}"


def _stage_line(stage: Mapping[str, Any]) -> str:
    return f"{stage.get('name')}: {stage.get('dataset_id')}, {stage.get('run_id')}, {stage.get('gate_id') or 'no gate'}"


def _gate_lines(gate: GateRecord) -> list[str]:
    reasons = [f"    {comparison['reason']}" for comparison in gate.comparisons if comparison.get("reason")]
    return [f"  {gate.outcome}  {gate.stage_name}  {gate.id}", *reasons]
