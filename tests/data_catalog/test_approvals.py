"""Approvals: of exactly these bytes and gates, for one stage, until a time; and what happens without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_catalog.approvals import NEEDS_APPROVAL, approval_details, gate_notes, gates_of
from data_catalog.catalogue import Catalogue
from data_catalog.errors import RegistryError
from data_catalog.records import ModelVersion, Stage
from data_catalog.registry import Registry
from tests.data_catalog.small_world import register_gated, write_model

DAY = 86_400.0


class Clock:
    """Time that passes when a test says so."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(catalogue: Catalogue) -> Clock:
    stopped = Clock()
    catalogue.clock = stopped
    return stopped


def gated(catalogue: Catalogue, directory: Path, *, outcome: str = "PASS") -> ModelVersion:
    return register_gated(catalogue, write_model(directory, directory.name.encode()), outcome=outcome)


def production(registry: Registry) -> str | None:
    version = registry.stages()[Stage.PRODUCTION]
    return version.id if version else None


def test_an_approved_version_is_promoted_and_the_log_says_by_whom(
    catalogue: Catalogue, clock: Clock, tmp_path: Path
) -> None:
    registry, version = Registry(catalogue), gated(catalogue, tmp_path / "one")
    approval = registry.approve("candidate", Stage.PRODUCTION, actor="ada", seconds=7 * DAY)
    assert production(registry) is None, "an approval moves nothing"
    assert approval.details["expires_at"] == clock.now + 7 * DAY
    clock.now += 6 * DAY
    event = registry.promote(version.id, Stage.PRODUCTION, actor="bob", needs_approval=True)
    assert event.details["approval"] == {
        "entry": approval.seq,
        "hash": approval.hash,
        "by": "ada",
        "expires_at": approval.details["expires_at"],
    }
    assert production(registry) == version.id
    assert [entry.action for entry in registry.history(Stage.PRODUCTION)] == ["approve", "promote"]
    assert registry.verify_chain() == 3


def test_an_approval_that_expired_is_refused_until_it_is_given_again(
    catalogue: Catalogue, clock: Clock, tmp_path: Path
) -> None:
    registry, version = Registry(catalogue), gated(catalogue, tmp_path / "one")
    registry.approve(version.id, Stage.PRODUCTION, actor="ada", seconds=DAY)
    clock.now += DAY
    with pytest.raises(RegistryError, match=r"entry 2, by ada\) expired at 1970-01-13 13:46:40Z"):
        registry.promote(version.id, Stage.PRODUCTION, actor="bob", needs_approval=True)
    registry.approve(version.id, Stage.PRODUCTION, actor="ada", seconds=DAY)
    registry.promote(version.id, Stage.PRODUCTION, actor="bob", needs_approval=True)


def test_the_approval_of_another_version_or_stage_is_none(catalogue: Catalogue, tmp_path: Path) -> None:
    registry = Registry(catalogue)
    one, two = gated(catalogue, tmp_path / "one"), gated(catalogue, tmp_path / "two")
    registry.approve(one.id, Stage.PRODUCTION, actor="ada", seconds=DAY)
    registry.approve(two.id, Stage.STAGING, actor="ada", seconds=DAY)
    with pytest.raises(
        RegistryError, match=f"{two.id} was not approved for `production`; .* is of {one.id}"
    ) as refused:
        registry.promote(two.id, Stage.PRODUCTION, actor="bob", needs_approval=True)
    assert f"tutelage approve {two.id} --to production" in refused.value.next_step
    assert production(registry) is None


def test_an_approval_is_void_when_the_gates_have_changed(catalogue: Catalogue, tmp_path: Path) -> None:
    registry, version = Registry(catalogue), gated(catalogue, tmp_path / "one")
    registry.approve(version.id, Stage.PRODUCTION, actor="ada", seconds=DAY)
    gated_again = register_gated(catalogue, tmp_path / "one", baseline="another")
    assert gated_again.id == version.id
    with pytest.raises(RegistryError, match="is stale: the gates say something else now"):
        registry.promote(version.id, Stage.PRODUCTION, actor="bob", needs_approval=True)


def test_an_approval_of_other_bytes_is_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    registry = Registry(catalogue)
    one, two = gated(catalogue, tmp_path / "one"), gated(catalogue, tmp_path / "two")
    with catalogue.store.writing() as con:
        details = approval_details(one, gate_notes(gates_of(con, two)), 4e9)
        registry._append(con, "mallory", "approve", Stage.PRODUCTION, two.id, details)
    with pytest.raises(RegistryError, match="is about other bytes"):
        registry.promote(two.id, Stage.PRODUCTION, actor="bob", needs_approval=True)


def test_changed_bytes_are_neither_approved_nor_promoted(catalogue: Catalogue, tmp_path: Path) -> None:
    registry, version = Registry(catalogue), gated(catalogue, tmp_path / "one")
    registry.approve(version.id, Stage.PRODUCTION, actor="ada", seconds=DAY)
    weights = catalogue.home / version.path / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(RegistryError, match=r"model\.safetensors has SHA-256"):
        registry.promote(version.id, Stage.PRODUCTION, actor="bob", needs_approval=True)
    with pytest.raises(RegistryError, match=r"model\.safetensors has SHA-256"):
        registry.approve(version.id, Stage.PRODUCTION, actor="ada", seconds=DAY)


def test_an_override_of_the_gates_is_no_approval(catalogue: Catalogue, tmp_path: Path) -> None:
    registry, version = Registry(catalogue), gated(catalogue, tmp_path / "one", outcome="FAIL")
    with pytest.raises(RegistryError, match="was not approved for"):
        registry.promote(version.id, Stage.PRODUCTION, actor="bob", override_reason="hurry", needs_approval=True)
    registry.approve(version.id, Stage.PRODUCTION, actor="ada", seconds=DAY)
    with pytest.raises(RegistryError, match="says FAIL"):
        registry.promote(version.id, Stage.PRODUCTION, actor="bob", needs_approval=True)
    event = registry.promote(version.id, Stage.PRODUCTION, actor="bob", override_reason="hurry", needs_approval=True)
    assert (event.details["override"], event.details["approval"]["by"]) == ("hurry", "ada")


def test_a_version_that_was_made_under_the_rule_keeps_it(catalogue: Catalogue, tmp_path: Path) -> None:
    registry, version = Registry(catalogue), gated(catalogue, tmp_path / "one")
    registry.register(tmp_path / "one", {**version.lineage, NEEDS_APPROVAL: ["production"]})
    registry.promote(version.id, Stage.STAGING, actor="bob")
    with pytest.raises(RegistryError, match="was not approved for `production`"):
        registry.promote(version.id, Stage.PRODUCTION, actor="bob")


def test_a_rollback_needs_no_approval_and_skips_none(catalogue: Catalogue, clock: Clock, tmp_path: Path) -> None:
    registry = Registry(catalogue)
    one, two = gated(catalogue, tmp_path / "one"), gated(catalogue, tmp_path / "two")
    for version in (one, two):
        registry.approve(version.id, Stage.PRODUCTION, actor="ada", seconds=DAY)
        registry.promote(version.id, Stage.PRODUCTION, actor="bob", needs_approval=True)
    registry.approve(one.id, Stage.PRODUCTION, actor="ada", seconds=DAY)
    clock.now += 2 * DAY
    assert registry.rollback(Stage.PRODUCTION, actor="bob").model_id == one.id
    assert production(registry) == one.id


@pytest.mark.parametrize(
    ("actor", "seconds"), [("ada", 0.0), ("ada", -1.0), ("ada", float("nan")), ("ada", float("inf")), (" ", DAY)]
)
def test_an_approval_has_a_name_and_a_time(catalogue: Catalogue, tmp_path: Path, actor: str, seconds: float) -> None:
    version = gated(catalogue, tmp_path / "one")
    with pytest.raises(RegistryError, match="a name, and a time above zero"):
        Registry(catalogue).approve(version.id, Stage.PRODUCTION, actor=actor, seconds=seconds)
    with pytest.raises(RegistryError, match="nothing can be approved for `candidate`"):
        Registry(catalogue).approve(version.id, Stage.CANDIDATE, actor="ada", seconds=DAY)


def test_nothing_is_promoted_or_approved_from_a_log_that_was_tampered_with(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    registry, version = Registry(catalogue), gated(catalogue, tmp_path / "one")
    with catalogue.store.writing() as con:
        con.execute("UPDATE registry_events SET actor = 'somebody'")
    with pytest.raises(RegistryError, match="tampered with: entry 1"):
        registry.promote(version.id, Stage.PRODUCTION, actor="bob")
    with pytest.raises(RegistryError, match="tampered with: entry 1"):
        registry.approve(version.id, Stage.PRODUCTION, actor="ada", seconds=DAY)
