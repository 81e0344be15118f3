"""What is kept and what is not: on random graphs against another way to count, and on real files."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog import registry_log, rows
from data_catalog.catalogue import Catalogue
from data_catalog.datasets import list_datasets, read_dataset, write_dataset
from data_catalog.errors import RegistryError
from data_catalog.lineage import NodeKey
from data_catalog.records import Kind, ModelVersion, Stage
from data_catalog.registry import Registry
from data_catalog.retention import find_unreachable, reachable, remove_unreachable
from tests.data_catalog.small_world import item, register_gated, write_model

KEYS = [NodeKey("model", str(number)) for number in range(12)]


@given(
    st.dictionaries(st.sampled_from(KEYS), st.sets(st.sampled_from(KEYS), max_size=3)),
    st.sets(st.sampled_from(KEYS), max_size=3),
)
def test_reachable_is_the_smallest_closed_set_that_holds_the_roots(
    needs: Mapping[NodeKey, set[NodeKey]], roots: set[NodeKey]
) -> None:
    found = reachable(roots, needs)
    assert roots <= found
    assert all(needs.get(key, set()) <= found for key in found), "closed"
    closed = roots
    for _ in KEYS:
        closed = closed.union(*(needs.get(key, set()) for key in closed))
    assert found == closed, "and no larger"


def random_project(catalogue: Catalogue, rng: random.Random) -> dict[NodeKey, set[NodeKey]]:
    """Fill a catalogue with models, datasets and runs that need one another at random; return what needs what.

    Rows and log entries are written in one transaction: registering each model would take a minute.
    """
    datasets = [f"dataset-{number:02}" for number in range(rng.randint(1, 6))]
    runs = [f"run-{number:02}" for number in range(rng.randint(1, 8))]
    models = [f"model-{number:02}" for number in range(rng.randint(1, 10))]
    needs: dict[NodeKey, set[NodeKey]] = {}
    with catalogue.store.writing() as con:
        for number, one in enumerate(datasets):
            (catalogue.datasets_dir / f"{one}.parquet").write_bytes(b"rows")
            (catalogue.datasets_dir / f"{one}.sha256").write_bytes(b"digest")
            con.execute(
                "INSERT INTO dataset_versions VALUES (?, 'text', 1, ?, '', 1.0, NULL)", [one, f"datasets/{one}.parquet"]
            )
            con.execute("INSERT INTO dataset_names VALUES (?, ?, ?)", [f"name-{rng.randrange(3)}", one, float(number)])
        for one in runs:
            values = [one, "train:sft", f"print-{rng.randrange(5)}", rng.choice(["done", "done", "failed", "running"])]
            con.execute("INSERT INTO step_runs VALUES (?, ?, ?, ?, 1.0, 2.0, '{}', '')", values)
        for one in models:
            directory = catalogue.models_dir / one
            directory.mkdir()
            (directory / "model.safetensors").write_bytes(b"weights")
            directory.chmod(0o555)
            base = rng.choice([*models, None, None])
            lineage = {"base_path": str(catalogue.models_dir / base) if base else "/somewhere/else"}
            con.execute(
                "INSERT INTO models VALUES (?, ?, '[]', ?, 1.0, NULL)", [one, f"models/{one}", rows.json_text(lineage)]
            )
            stages = [
                {"run_id": rng.choice(runs), "dataset_id": rng.choice(datasets)} for _ in range(rng.randint(0, 2))
            ]
            con.register("incoming", rows.table(rows.MODEL_SOURCES, rows.model_source_rows(one, stages)))
            con.execute("INSERT INTO model_sources BY NAME SELECT * FROM incoming")
            needs[NodeKey("model", one)] = {
                *(NodeKey(kind, stage[f"{kind}_id"]) for stage in stages for kind in ("run", "dataset")),
                *([NodeKey("model", base)] if base else []),
            }
        for _ in range(rng.randint(0, 6)):
            action, stage = rng.choice(
                [
                    ("register", Stage.CANDIDATE),
                    ("promote", Stage.STAGING),
                    ("promote", Stage.PRODUCTION),
                    ("approve", Stage.PRODUCTION),
                    ("archive", Stage.ARCHIVED),
                ]
            )
            expires = {"expires_at": catalogue.clock() + rng.choice([-100.0, 100.0])}
            model_id, details = rng.choice(models), expires if action == "approve" else {}
            registry_log.append(
                con, now=1.0, actor="me", action=action, stage=stage, model_id=model_id, details=details
            )
    return needs


def expected_roots(catalogue: Catalogue) -> set[NodeKey]:
    """What the rules say, read from the tables in another way than the code does."""
    events = Registry(catalogue).history()
    roots = {
        NodeKey("model", event.model_id)
        for position, event in enumerate(events)
        if event.action == "promote"
        or (event.action == "approve" and event.details["expires_at"] > catalogue.clock())
        or (
            event.action in ("register", "archive")
            and not any(later.action == event.action for later in events[position + 1 :])
        )
    }
    with catalogue.store.reading() as con:
        names = con.execute("SELECT name, dataset_id FROM dataset_names ORDER BY named_at").fetchall()
        runs = con.execute("SELECT id, fingerprint, status FROM step_runs").fetchall()
    done = {fingerprint for _, fingerprint, status in runs if status == "done"}
    roots |= {NodeKey("dataset", one) for one in dict(names).values()}
    return roots | {NodeKey("run", one) for one, fingerprint, _ in runs if fingerprint not in done}


def on_disk(catalogue: Catalogue) -> set[NodeKey]:
    found = {NodeKey("model", path.name) for path in catalogue.models_dir.glob("model-*")}
    return found | {NodeKey("dataset", path.stem) for path in catalogue.datasets_dir.glob("*.parquet")}


@pytest.mark.parametrize("seed", range(8))
def test_random_projects_lose_exactly_what_nothing_needs(catalogue: Catalogue, seed: int) -> None:
    rng = random.Random(seed)
    needs = random_project(catalogue, rng)
    before = on_disk(catalogue)
    keep = set(rng.sample(sorted(before), 1))
    kept = reachable(expected_roots(catalogue) | keep, needs)

    found = find_unreachable(catalogue, keep)
    listed = {NodeKey(kind, one) for kind, ids in (("model", found.models), ("dataset", found.datasets)) for one in ids}
    assert listed == before - kept
    assert on_disk(catalogue) == before, "to list deletes nothing"
    assert not {run_id for run in found.runs for run_id in run.run_ids} & {key.id for key in kept if key.kind == "run"}

    assert remove_unreachable(catalogue, keep, actor="me") == found
    assert on_disk(catalogue) == before & kept
    assert not list(catalogue.models_dir.glob(".removed-*"))
    assert {path.stem for path in catalogue.datasets_dir.glob("*.sha256")} == {
        key.id for key in before & kept if key.kind == "dataset"
    }
    removed = [event.model_id for event in Registry(catalogue).history() if event.action == "remove"]
    assert sorted(removed) == sorted(found.models)
    Registry(catalogue).verify_chain()
    again = find_unreachable(catalogue, keep)
    assert (again.models, again.datasets) == ({}, {})


def gated(catalogue: Catalogue, directory: Path) -> ModelVersion:
    return register_gated(catalogue, write_model(directory, directory.name.encode()))


def test_every_rollback_still_works_and_what_was_removed_is_refused_by_name(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    registry = Registry(catalogue)
    one, two, never, three = (gated(catalogue, tmp_path / name) for name in ("one", "two", "never", "three"))
    for version in (one, two, three):
        registry.promote(version.id, Stage.PRODUCTION, actor="me")
    assert set(remove_unreachable(catalogue, [], actor="me").models) == {never.id}
    assert registry.show(never.id).removed_at is not None
    with pytest.raises(RegistryError, match="is missing"):
        registry.promote(never.id, Stage.PRODUCTION, actor="me")
    assert registry.rollback(Stage.PRODUCTION, actor="me").model_id == two.id
    assert registry.rollback(Stage.PRODUCTION, actor="me").model_id == one.id
    again = gated(catalogue, tmp_path / "never")
    assert again.id == never.id
    assert registry.show(never.id).removed_at is None
    registry.promote(never.id, Stage.PRODUCTION, actor="me")


def test_a_version_that_is_removed_after_it_was_verified_is_not_promoted(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(catalogue)
    one, two = gated(catalogue, tmp_path / "one"), gated(catalogue, tmp_path / "two")
    verify = registry._verify

    def verify_then_remove(version: ModelVersion) -> None:
        verify(version)
        assert set(remove_unreachable(catalogue, [], actor="me").models) == {one.id}

    monkeypatch.setattr(registry, "_verify", verify_then_remove)
    with pytest.raises(RegistryError, match=f"the files of {one.id} were removed"):
        registry.promote(one.id, Stage.PRODUCTION, actor="me")
    assert registry.stages()[Stage.CANDIDATE] == two


def test_what_a_kill_left_undeleted_is_found_again(catalogue: Catalogue, tmp_path: Path) -> None:
    one = gated(catalogue, tmp_path / "one")
    gated(catalogue, tmp_path / "two")
    with catalogue.store.writing() as con:
        con.execute("UPDATE models SET removed_at = 1.0 WHERE id = ?", [one.id])
    (catalogue.models_dir / ".removed-model-of-old").mkdir()
    assert set(remove_unreachable(catalogue, [], actor="me").models) == {one.id}
    assert not (catalogue.home / one.path).exists()
    assert not list(catalogue.models_dir.glob(".removed-*"))


def test_a_removed_dataset_is_written_again_and_the_newest_of_a_name_is_the_one_named_last(
    catalogue: Catalogue,
) -> None:
    catalogue.clock = iter(range(1, 1000)).__next__
    first, second = ([item(text)] for text in ("one", "two"))
    catalogue.add_items([*first, *second])
    old = write_dataset(catalogue, "sft", Kind.TEXT, first)
    new = write_dataset(catalogue, "sft", Kind.TEXT, second)
    assert set(remove_unreachable(catalogue, [], actor="me").datasets) == {old.id}
    assert {one.id for one in list_datasets(catalogue)} == {old.id, new.id}, "the lineage keeps it"
    assert write_dataset(catalogue, "sft", Kind.TEXT, first) == old
    assert read_dataset(catalogue.home / old.path).num_rows == 1
    assert set(find_unreachable(catalogue).datasets) == {new.id}
