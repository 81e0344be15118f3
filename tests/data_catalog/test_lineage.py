"""Every byte can be traced: from a path down to the models that learned from it, and from a model back up."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.errors import ConfigError
from data_catalog.forgetting import plan_forgetting
from data_catalog.lineage import TraceNode, render_tree, trace
from data_catalog.records import Stage
from data_catalog.registry import Registry
from tests.data_catalog.small_world import World, chunk, document, fill, item


@pytest.fixture
def world(catalogue: Catalogue, tmp_path: Path) -> World:
    return fill(catalogue, tmp_path / "model")


def chain(node: TraceNode, *, upwards: bool) -> list[tuple[str, str]]:
    """Every (kind, id) below a root, in the order of the tree."""
    children = node.up if upwards else node.down
    return [entry for child in children for entry in [(child.kind, child.id), *chain(child, upwards=upwards)]]


def test_a_document_is_followed_to_the_model_that_learned_it(catalogue: Catalogue, world: World) -> None:
    root = trace(catalogue, world.documents[0].id)
    assert chain(root, upwards=True) == [("path", "first.md")]
    found = chain(root, upwards=False)
    # The first time each thing is met; the item is met again below the request that it was parsed from.
    assert list(dict.fromkeys(found)) == [
        ("chunk", world.chunks[0].id),
        ("item", world.items[0].id),
        ("dataset", world.dataset.id),
        ("run", world.run.id),
        ("model", world.model.id),
        ("request", world.requests[0].key),
    ]
    assert root.reached("model").ids == (world.model.id,)
    assert root.reached("item").ids == (world.items[0].id,)


def test_a_model_is_followed_back_to_every_path(catalogue: Catalogue, world: World) -> None:
    root = trace(catalogue, world.model.id)
    found = set(chain(root, upwards=True))
    assert chain(root, upwards=False) == []
    assert found == {
        ("gate", world.gate.id),
        ("run", world.run.id),
        ("dataset", world.dataset.id),
        *(("item", one.id) for one in world.items),
        *(("request", one.key) for one in world.requests),
        *(("chunk", one.id) for one in world.chunks),
        *(("document", one.id) for one in world.documents),
        ("path", "first.md"),
        ("path", "second.md"),
    }
    assert root.reached("path", down=False).ids == ("first.md", "second.md")


def test_every_link_goes_both_ways(catalogue: Catalogue, world: World) -> None:
    everything = {world.model.id, *(one for _, one in chain(trace(catalogue, world.model.id), upwards=True))}
    nodes = {one: trace(catalogue, one) for one in everything}
    down = {(node.id, child.id) for node in nodes.values() for child in node.down}
    up = {(parent.id, node.id) for node in nodes.values() for parent in node.up}
    assert down == up
    # Six links for each of the two documents, then dataset to run, run to model, gate to model.
    assert len(down) == 2 * 6 + 3


def test_an_item_of_two_chunks_is_traced_from_both(catalogue: Catalogue, world: World) -> None:
    first, second = world.chunks[:2]
    both = item("What do both say?", of=first, by=world.requests[:1]).model_copy(
        update={"id": "item-of-both", "meta": {"chunk_ids": [first.id, second.id]}}
    )
    catalogue.add_items([both])
    for one in (first, second):
        assert ("item", both.id) in chain(trace(catalogue, one.id), upwards=False)
        assert ("item", both.id) in chain(trace(catalogue, one.document_id), upwards=False)
    above = chain(trace(catalogue, both.id), upwards=True)
    assert {("chunk", first.id), ("chunk", second.id)} <= set(above)
    assert set(plan_forgetting(catalogue, world.documents[1].id).items) == {world.items[1].id, both.id}


@pytest.mark.parametrize(
    "name", ["first.md", "chunk", "request", "item", "dataset", "run", "gate", "model", "candidate"]
)
def test_anything_can_be_asked_about(catalogue: Catalogue, world: World, name: str) -> None:
    ids = {
        "chunk": world.chunks[0].id,
        "request": world.requests[0].key,
        "item": world.items[0].id,
        "dataset": world.dataset.id,
        "run": world.run.id,
        "gate": world.gate.id,
        "model": world.model.id,
        "candidate": world.model.id,
        "first.md": "first.md",
    }
    wanted = name if name in ("candidate", "first.md") else ids[name][:14]
    root = trace(catalogue, wanted)
    assert root.id == ids[name]
    assert render_tree(root).startswith(f"{root.kind} {root.id}\n")


def test_what_was_withdrawn_is_still_traced_and_marked(catalogue: Catalogue, world: World) -> None:
    catalogue.sync_documents([world.documents[1]], [world.chunks[1]], [])
    root = trace(catalogue, "first.md")
    assert root.reached("model").ids == (world.model.id,)
    assert "withdrawn" in root.down[0].label


def test_a_wide_tree_is_cut_and_says_by_how_much(catalogue: Catalogue) -> None:
    a = document("a.md")
    catalogue.sync_documents([a], [chunk(a)], [])
    catalogue.add_items([item(str(number), of=chunk(a)) for number in range(220)])
    root = trace(catalogue, chunk(a).id, fan_out=8)
    assert len(root.down) == 8
    assert root.hidden_down == {"item": 212}
    assert root.reached("item").count == 220
    text = render_tree(root)
    assert "became: 220 items" in text
    assert "└─ and 212 more items" in text
    assert len(text.splitlines()) < 20


def test_all_models_that_learned_from_something_are_named_even_where_the_tree_is_cut(
    catalogue: Catalogue, world: World, tmp_path: Path
) -> None:
    registry = Registry(catalogue)
    directory = tmp_path / "model"
    others = []
    for number in range(3):
        (directory / "config.json").write_text(f'{{"number": {number}}}')
        others.append(registry.register(directory, world.model.lineage).id)
    text = render_tree(trace(catalogue, "first.md", fan_out=2))
    assert all(model in text.splitlines()[-1] for model in [world.model.id, *others])


def test_the_text_shows_the_whole_way(catalogue: Catalogue, world: World) -> None:
    Registry(catalogue).promote(world.model.id, Stage.STAGING, actor="me")
    lines = render_tree(trace(catalogue, world.items[0].id)).splitlines()
    assert lines[0] == f"item {world.items[0].id}"
    assert "grounded_qa@1 · train · length@1 passed" in lines[1]
    assert "made of: 1 chunk, 1 document, 1 path, 1 request" in lines
    assert "became: 1 dataset, 1 model, 1 run" in lines
    assert any(line.endswith("(see above)") for line in lines)
    (model,) = [line for line in lines if "─ model" in line]
    assert "candidate, staging · trained from base" in model


def test_a_lineage_may_name_what_the_catalogue_lacks(catalogue: Catalogue, world: World, tmp_path: Path) -> None:
    stage = {"name": "sft", "run_id": "run-elsewhere", "dataset_id": "dataset-elsewhere", "gate_id": None}
    (tmp_path / "model" / "config.json").write_text("{}")
    model = Registry(catalogue).register(tmp_path / "model", {"base": "b", "stages": [stage]})
    text = render_tree(trace(catalogue, model.id))
    assert "dataset dataset-elsewhere  not in this catalogue" in text


def test_a_name_that_fits_nothing_or_too_much_is_refused(catalogue: Catalogue, world: World) -> None:
    for nothing in ("zzz", "", "production"):
        with pytest.raises(ConfigError, match="fits nothing"):
            trace(catalogue, nothing)
    with pytest.raises(ConfigError, match="fits several things") as several:
        trace(catalogue, "item-")
    assert all(one.id in several.value.message for one in world.items)
