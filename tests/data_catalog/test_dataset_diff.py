"""The diff of two dataset versions: each row once, with the cause that the catalogue has on record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.dataset_diff import Change, DatasetDiff, diff_datasets
from data_catalog.dataset_lookup import known_datasets, models_of, resolve_dataset
from data_catalog.datasets import write_dataset
from data_catalog.diff_causes import Cause
from data_catalog.errors import ConfigError, DataError
from data_catalog.records import Chunk, Document, Item, Kind, Outcome, Request, Split
from tests.data_catalog.small_world import chunk, completion, document, fill, request, verdict


class World:
    """A catalogue whose clock moves on with every write, and items that are asked for as a recipe does it."""

    def __init__(self, home: Path) -> None:
        self._now = 0.0
        self.catalogue = Catalogue(home, clock=self._tick)

    def _tick(self) -> float:
        self._now += 1
        return self._now

    def documents(self, *documents: Document) -> list[Chunk]:
        chunks = [chunk(one) for one in documents]
        self.catalogue.sync_documents(documents, chunks, [])
        return chunks

    def make(
        self, of: Chunk, question: str, answer: str, *, template: str = "direct.v1#a", model: str = "teacher"
    ) -> Item:
        asked = request(f"{question} {template}", origin=of).model_copy(update={"template": template, "model": model})
        return self.keep(of, question, answer, asked)

    def keep(self, of: Chunk, question: str, answer: str, asked: Request) -> Item:
        self.catalogue.add_completions([asked], [completion(asked)])
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        item = Item.of(
            kind=Kind.MESSAGES,
            payload={"messages": turns},
            recipe="grounded_qa",
            split=Split.TRAIN,
            chunk_id=of.id,
            document_id=of.document_id,
            request_keys=(asked.key,),
            meta={"question": question, "answer": answer, "template": asked.template},
        )
        self.catalogue.add_items([item])
        return item

    def say(self, item: Item, outcome: Outcome, reason: str = "", check: str = "evidence@1") -> None:
        self.catalogue.put_verdicts([verdict(item, check, outcome, reason)])

    def version(self, *items: Item) -> str:
        return write_dataset(self.catalogue, "learn", Kind.MESSAGES, items).id

    def diff(self, first: str = "learn~1", second: str = "learn") -> DatasetDiff:
        return diff_datasets(
            self.catalogue, resolve_dataset(self.catalogue, first), resolve_dataset(self.catalogue, second)
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def causes(found: DatasetDiff) -> list[tuple[Change, Cause]]:
    return [(row.change, row.cause) for row in found.rows]


def ids(rows: Sequence[object]) -> list[object]:
    return [entry["id"] if isinstance(entry, dict) else None for entry in rows]


def test_a_changed_document_explains_what_went_and_what_came(world: World) -> None:
    (old, kept) = world.documents(document("a.md"), document("b.md"))
    stays = world.make(kept, "Who?", "Ilsa")
    gone, other = world.make(old, "What weighs it?", "40 kg"), world.make(old, "Where?", "Holm")
    world.version(stays, gone, other)
    (new, _) = world.documents(document("a.md", "The text of a.md has changed."), document("b.md"))
    come = world.make(new, "What weighs it?", "41 kg")
    world.version(stays, come)

    found = world.diff()
    assert found.same == 1
    changed, removed = found.rows
    assert (changed.change, changed.cause, changed.path) == (Change.CHANGED, Cause.DOCUMENT_CHANGED, "a.md")
    assert ids([changed.before, changed.after]) == [gone.id, come.id]
    assert changed.detail == f"{old.document_id} became {new.document_id}"
    assert (removed.change, removed.cause) == (Change.REMOVED, Cause.DOCUMENT_CHANGED)
    assert ids([removed.before, removed.after]) == [other.id, None]


def test_documents_that_came_and_went(world: World) -> None:
    (a, b) = world.documents(document("a.md"), document("b.md"))
    items = [world.make(a, "A?", "a"), world.make(b, "B?", "b")]
    world.version(*items)
    (_, c) = world.documents(document("a.md"), document("c.md"))
    world.version(items[0], world.make(c, "C?", "c"))
    assert causes(world.diff()) == [
        (Change.ADDED, Cause.DOCUMENT_NEW),
        (Change.REMOVED, Cause.DOCUMENT_REMOVED),
    ]


def test_a_verdict_that_changed_is_named_with_its_reason(world: World) -> None:
    (a,) = world.documents(document("a.md"))
    first, second = world.make(a, "One?", "1"), world.make(a, "Two?", "2")
    world.say(first, Outcome.PASSED)
    world.say(second, Outcome.FAILED, "not in the text")
    world.version(first)
    world.say(first, Outcome.FAILED, "too short")
    world.say(second, Outcome.PASSED)
    world.version(second)
    # Another run says the same again: what was first seen as the cause stays it.
    world.say(first, Outcome.FAILED, "too short")
    world.say(second, Outcome.PASSED)

    added, removed = world.diff().rows
    assert (added.cause, added.detail) == (
        Cause.VERDICT_CHANGED,
        "evidence@1 said failed: not in the text; it passes now",
    )
    assert (removed.cause, removed.detail) == (Cause.VERDICT_CHANGED, "evidence@1 said failed: too short")


def test_a_check_that_is_no_longer_made_lets_items_in(world: World) -> None:
    (a,) = world.documents(document("a.md"))
    first, second = world.make(a, "One?", "1"), world.make(a, "Two?", "2")
    world.say(second, Outcome.FAILED, "the judge says no", "judge@1")
    world.version(first)
    world.version(first, second)
    (added,) = world.diff().rows
    assert added.cause is Cause.VERDICT_CHANGED
    assert added.detail == "judge@1 said failed: the judge says no; that check is no longer made"


def test_an_old_verdict_of_a_check_that_is_no_longer_made_removes_nothing(world: World) -> None:
    (a,) = world.documents(document("a.md"))
    first, second = world.make(a, "One?", "1"), world.make(a, "Two?", "2")
    world.say(second, Outcome.FAILED, "no", "judge@1")
    world.version(first, second)
    world.version(first)
    assert causes(world.diff()) == [(Change.REMOVED, Cause.SELECTION_CHANGED)]


def test_another_template_and_another_model(world: World) -> None:
    (a,) = world.documents(document("a.md"))
    world.version(world.make(a, "One?", "1"))
    world.version(world.make(a, "One?", "one", template="direct.v2#b"))
    world.version(world.make(a, "One?", "eins", template="direct.v2#b", model="bigger"))
    (by_template,), (by_model,) = world.diff("learn~2", "learn~1").rows, world.diff().rows
    assert (by_template.cause, by_template.detail) == (Cause.TEMPLATE_CHANGED, "direct.v1#a → direct.v2#b")
    assert (by_model.cause, by_model.detail) == (Cause.MODEL_CHANGED, "teacher → bigger")
    assert by_template.change is by_model.change is Change.CHANGED


def test_new_items_of_a_known_source_and_a_changed_selection(world: World) -> None:
    (a,) = world.documents(document("a.md"))
    first, unused = world.make(a, "One?", "1"), world.make(a, "Two?", "2")
    world.version(first)
    world.version(first, unused, world.make(a, "Three?", "3"))
    found = world.diff()
    assert causes(found) == [(Change.ADDED, Cause.NEW_ITEM), (Change.ADDED, Cause.SELECTION_CHANGED)]
    assert found.causes == ((Change.ADDED, Cause.NEW_ITEM, 1), (Change.ADDED, Cause.SELECTION_CHANGED, 1))


def test_other_cuts_and_another_side_of_the_split(world: World) -> None:
    a, b = document("a.md"), document("b.md")
    (cut, held) = world.documents(a, b)
    items = [world.make(cut, "One?", "1"), world.make(held, "Two?", "2")]
    world.version(*items)
    longer = chunk(a, end=20)
    world.catalogue.sync_documents([a, b], [longer, chunk(b, split=Split.EVALUATION)], [])
    world.version(world.make(longer, "Three?", "3"))
    assert causes(world.diff()) == [
        (Change.ADDED, Cause.CHUNKING_CHANGED),
        (Change.REMOVED, Cause.CHUNKING_CHANGED),
        (Change.REMOVED, Cause.SPLIT_CHANGED),
    ]


def test_the_older_version_comes_first_whichever_is_given_first(world: World) -> None:
    (a,) = world.documents(document("a.md"))
    first, second = world.make(a, "One?", "1"), world.make(a, "Two?", "2")
    older, newer = world.version(first), world.version(first, second)
    assert world.diff("learn", "learn~1") == world.diff()
    assert (world.diff().older.id, world.diff().newer.id) == (older, newer)
    same = world.diff("learn", "learn")
    assert (same.same, same.rows) == (2, ())


def test_versions_of_different_kinds_have_no_diff(world: World) -> None:
    (a,) = world.documents(document("a.md"))
    world.version(world.make(a, "One?", "1"))
    text = Item.of(kind=Kind.TEXT, payload={"text": "t"}, recipe="document", split=Split.TRAIN)
    world.catalogue.add_items([text])
    write_dataset(world.catalogue, "read", Kind.TEXT, [text])
    with pytest.raises(DataError, match="two versions of one kind"):
        world.diff("learn", "read")


class TestLookup:
    def test_by_name_id_prefix_and_steps_back(self, world: World) -> None:
        (a,) = world.documents(document("a.md"))
        first, second = world.make(a, "One?", "1"), world.make(a, "Two?", "2")
        older, newer = world.version(first), world.version(second)
        assert [one.version.id for one in known_datasets(world.catalogue)] == [newer, older]
        for wanted, expected in (
            ("learn", newer),
            ("learn~0", newer),
            ("learn~1", older),
            (older, older),
            (older[:20], older),
            (older.removeprefix("dataset-")[:12], older),
        ):
            assert resolve_dataset(world.catalogue, wanted).version.id == expected

    @pytest.mark.parametrize("wanted", ["", "lern", "learn~2", "dataset-", "~1"])
    def test_what_fits_nothing_or_several_is_told(self, world: World, wanted: str) -> None:
        (a,) = world.documents(document("a.md"))
        world.version(world.make(a, "One?", "1"))
        world.version(world.make(a, "Two?", "2"))
        with pytest.raises(ConfigError, match="learn"):
            resolve_dataset(world.catalogue, wanted)

    def test_the_models_that_were_trained_on_a_version(self, catalogue: Catalogue, tmp_path: Path) -> None:
        whole = fill(catalogue, tmp_path / "model")
        assert models_of(catalogue, whole.dataset.id) == [(whole.model.id, "sft")]
        assert models_of(catalogue, "dataset-none") == []
