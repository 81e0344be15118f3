"""Forgetting: what a document has touched, how to get to a model that never saw it, and that it stays out."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.datasets import write_dataset
from data_catalog.errors import ConfigError
from data_catalog.exclusions import exclude, exclusion_of, list_exclusions, readmit
from data_catalog.forgetting import plan_forgetting
from data_catalog.lineage import NodeKey
from data_catalog.records import Kind, ModelVersion, Stage
from data_catalog.registry import Registry
from data_catalog.retention import remove_unreachable
from tests.data_catalog.small_world import World, document, fill, register_gated, write_model


@pytest.fixture
def world(catalogue: Catalogue, tmp_path: Path) -> World:
    return fill(catalogue, tmp_path / "model")


def clean(catalogue: Catalogue, directory: Path, *, outcome: str = "PASS") -> ModelVersion:
    """Register a model that was trained on none of the documents."""
    return register_gated(catalogue, write_model(directory, directory.name.encode()), outcome=outcome)


def test_the_plan_names_every_item_dataset_and_model(catalogue: Catalogue, world: World) -> None:
    Registry(catalogue).promote(world.model.id, Stage.PRODUCTION, actor="me")
    plan = plan_forgetting(catalogue, "first.md")
    assert (plan.kind, plan.id, plan.documents) == ("path", "first.md", (world.documents[0].id,))
    assert plan.items == (world.items[0].id,)
    ((dataset),) = plan.datasets
    assert (dataset.id, dataset.names, dataset.rows, dataset.items) == (world.dataset.id, ("sft",), 2, 1)
    ((model),) = plan.models
    assert (model.id, model.stages) == (world.model.id, (Stage.CANDIDATE, Stage.PRODUCTION))
    assert [cost.name for cost in model.retrained] == ["sft"]
    assert plan_forgetting(catalogue, world.documents[0].id).items == plan.items


def test_a_document_that_no_model_saw_asks_for_nothing(catalogue: Catalogue, world: World) -> None:
    catalogue.sync_documents([*world.documents, document("new.md")], world.chunks, [])
    plan = plan_forgetting(catalogue, "new.md")
    assert (plan.items, plan.datasets, plan.models, plan.ways) == ((), (), (), ())


def test_to_roll_back_is_the_cheapest_way_where_the_version_before_never_saw_it(
    catalogue: Catalogue, world: World, tmp_path: Path
) -> None:
    registry = Registry(catalogue)
    before = clean(catalogue, tmp_path / "before")
    for version in (before, world.model):
        registry.promote(version.id, Stage.PRODUCTION, actor="me")
    rollback, again = plan_forgetting(catalogue, "first.md").ways
    assert (rollback.model_id, rollback.commands, rollback.seconds) == (before.id, ("tutelage rollback production",), 0)
    assert again.model_id is None
    assert again.commands == (
        "tutelage forget first.md --apply",
        "tutelage run CONFIG",
        "tutelage promote candidate --to production",
    )
    assert again.seconds is not None
    registry.rollback(Stage.PRODUCTION, actor="me")
    assert plan_forgetting(catalogue, "first.md").ways == ()


def test_another_version_is_offered_only_if_it_could_be_promoted(
    catalogue: Catalogue, world: World, tmp_path: Path
) -> None:
    registry = Registry(catalogue)
    registry.promote(world.model.id, Stage.STAGING, actor="me")
    good = clean(catalogue, tmp_path / "good")
    clean(catalogue, tmp_path / "bad", outcome="FAIL")
    promote, _ = plan_forgetting(catalogue, "first.md").ways
    assert promote.commands == (f"tutelage promote {good.id} --to staging",)
    remove_unreachable(catalogue, [], actor="me")
    (again,) = plan_forgetting(catalogue, "first.md").ways
    assert again.model_id is None, "the files of the good one are gone"


def test_only_the_stages_from_the_first_that_saw_it_are_trained_again(
    catalogue: Catalogue, world: World, tmp_path: Path
) -> None:
    other = write_dataset(catalogue, "read", Kind.TEXT, world.items[1:])
    stages = [
        {"name": "read", "run_id": "run-read", "dataset_id": other.id, "gate_id": None},
        {"name": "learn", "run_id": world.run.id, "dataset_id": world.dataset.id, "gate_id": world.gate.id},
    ]
    two_stages = Registry(catalogue).register(write_model(tmp_path / "two", b"two"), {"base": "b", "stages": stages})
    plan = plan_forgetting(catalogue, "first.md")
    model = next(model for model in plan.models if model.id == two_stages.id)
    assert (model.reused, [cost.name for cost in model.retrained]) == (("read",), ["learn"])
    (way,) = plan.ways
    assert way.commands == ("tutelage forget first.md --apply", "tutelage run CONFIG")
    assert "read as before" in way.note


def test_a_model_that_started_from_one_that_saw_it_has_seen_it(
    catalogue: Catalogue, world: World, tmp_path: Path
) -> None:
    lineage = {"base": "b", "base_path": str(catalogue.home / world.model.path), "stages": [{"name": "more"}]}
    child = Registry(catalogue).register(write_model(tmp_path / "child", b"child"), lineage)
    plan = plan_forgetting(catalogue, "second.md")
    assert {model.id for model in plan.models} == {world.model.id, child.id}


def test_an_excluded_path_withdraws_all_its_texts_and_an_excluded_text_only_itself(
    catalogue: Catalogue, world: World
) -> None:
    assert exclude(catalogue, NodeKey("path", "first.md"), actor="ada") == 1
    assert [one.id for one in catalogue.items()] == [world.items[1].id]
    assert exclude(catalogue, NodeKey("document", world.documents[1].id), actor="ada") == 1
    assert catalogue.items() == []
    assert exclude(catalogue, NodeKey("path", "first.md"), actor="bob") == 0, "once is enough"
    found = list_exclusions(catalogue)
    assert [(one.kind, one.actor) for one in found] == [("path", "ada"), ("document", "ada")]
    changed, moved, other = (
        document("first.md", "new text"),
        document("moved.md", world.documents[1].text),
        document("x"),
    )
    assert exclusion_of(changed, found) == found[0]
    assert exclusion_of(moved, found) == found[1]
    assert exclusion_of(document("second.md", "new text"), found) is None
    assert exclusion_of(other, found) is None


def test_an_exclusion_can_be_taken_back(catalogue: Catalogue, world: World) -> None:
    key = NodeKey("path", "first.md")
    exclude(catalogue, key, actor="ada")
    assert readmit(catalogue, key)
    assert not readmit(catalogue, key)
    catalogue.sync_documents(world.documents, world.chunks, [])
    assert len(catalogue.items()) == 2


def test_only_documents_can_be_forgotten(catalogue: Catalogue, world: World) -> None:
    with pytest.raises(ConfigError, match="is of kind item"):
        plan_forgetting(catalogue, world.items[0].id)
    with pytest.raises(ConfigError, match="fits nothing"):
        plan_forgetting(catalogue, "nowhere.md")


def test_a_new_catalogue_takes_over_the_exclusions_of_a_damaged_one(catalogue: Catalogue, world: World) -> None:
    exclude(catalogue, NodeKey("path", "first.md"), actor="ada")
    before = list_exclusions(catalogue)
    catalogue.path.rename(catalogue.path.with_name("catalogue.duckdb.damaged"))
    assert list_exclusions(Catalogue(catalogue.home)) == before
