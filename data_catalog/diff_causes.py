"""Why a row is in one dataset version only: the causes, each read from what the catalogue has on record."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

from data_catalog.records import Kind, Split


class Cause(StrEnum):
    """Why a row is in one version only.

    SELECTION_CHANGED: the item could be in both, and the stage's recipes, part or samples decide. NEW_ITEM: it was made
    after the older version, from a source and by a template that the older version knew.
    """

    DOCUMENT_NEW = "document new"
    DOCUMENT_CHANGED = "document changed"
    DOCUMENT_REMOVED = "document removed"
    CHUNKING_CHANGED = "chunking changed"
    SPLIT_CHANGED = "split changed"
    TEMPLATE_CHANGED = "template changed"
    MODEL_CHANGED = "model changed"
    VERDICT_CHANGED = "verdict changed"
    SELECTION_CHANGED = "selection changed"
    NEW_ITEM = "new item"


class Origin(NamedTuple):
    """One item and all that a cause can be read from."""

    id: str
    kind: str
    payload: str
    recipe: str
    split: str
    meta: Mapping[str, Any]
    added_at: float
    chunk_id: str | None
    document_id: str | None
    path: str | None
    first_seen_at: float | None
    document_withdrawn_at: float | None
    chunk_withdrawn_at: float | None
    template: str | None
    model: str | None

    @property
    def place(self) -> tuple[str, str, str] | None:
        """What an item that takes this one's place has in common with it; None where nothing is asked."""
        asked = self.meta.get("question")
        if asked is None and self.kind != Kind.TEXT:
            payload = json.loads(self.payload)
            asked = json.dumps(payload.get("prompt") or payload.get("messages", [])[:-1])
        return None if asked is None else (self.recipe, self.path or "", str(asked))

    @property
    def content(self) -> dict[str, Any]:
        """The item's id and payload."""
        return {"id": self.id, "payload": json.loads(self.payload)}


class Side:
    """One version as a whole: which documents, chunks, templates and models its items come from."""

    def __init__(self, items: Iterable[Origin]) -> None:
        self.items = {item.id: item for item in items}

    @cached_property
    def documents(self) -> frozenset[str | None]:
        """The ids of the documents."""
        return frozenset(item.document_id for item in self.items.values())

    @cached_property
    def chunks(self) -> frozenset[str | None]:
        """The ids of the chunks."""
        return frozenset(item.chunk_id for item in self.items.values())

    @cached_property
    def paths(self) -> Mapping[str | None, str | None]:
        """The documents' ids by path."""
        return {item.path: item.document_id for item in self.items.values()}

    @cached_property
    def withdrawn_chunks(self) -> frozenset[str | None]:
        """The documents of which a chunk was cut anew since."""
        withdrawn = (item for item in self.items.values() if item.chunk_withdrawn_at is not None)
        return frozenset(item.document_id for item in withdrawn)

    def values(self, recipe: str, name: str) -> set[str]:
        """Return what the recipe's items have as `template` or `model`."""
        return self._values.get((recipe, name), set())

    @cached_property
    def _values(self) -> Mapping[tuple[str, str], set[str]]:
        found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for item in self.items.values():
            found[item.recipe, "template"].add(item.template or "")
            found[item.recipe, "model"].add(item.model or "")
        return found


class Said(NamedTuple):
    """A verdict that was no pass."""

    check: str
    outcome: str
    reason: str
    at: float
    """When it was decided, or replaced."""

    def __str__(self) -> str:
        return f"{self.check} said {self.outcome}" + (f": {self.reason}" if self.reason else "")


class Explainer:
    """Reads the cause of a row from what is on record; the first that applies is the cause."""

    def __init__(
        self,
        *,
        before: Side,
        after: Side,
        made_at: float,
        not_passed: Mapping[str, Sequence[Said]],
        formerly: Mapping[str, Sequence[Said]],
    ) -> None:
        self._before, self._after, self._made_at = before, after, made_at
        self._not_passed, self._formerly = not_passed, formerly

    def added(self, item: Origin) -> tuple[Cause, str]:
        """Return why an item is in the newer version only."""
        return (
            self._added_source(item)
            or self._readmitted(item)
            or self._origin_changed(item, self._before, to_after=True)
            or self._made_since(item)
        )

    def removed(self, item: Origin) -> tuple[Cause, str]:
        """Return why an item is in the older version only."""
        return (
            self._removed_source(item)
            or self._rejected(item)
            or self._origin_changed(item, self._after, to_after=False)
            or (Cause.SELECTION_CHANGED, self._left_out(item))
        )

    def _added_source(self, item: Origin) -> tuple[Cause, str] | None:
        if item.document_id is None or item.document_id in self._before.documents:
            cut_anew = item.document_id in self._before.withdrawn_chunks and item.chunk_id not in self._before.chunks
            return (Cause.CHUNKING_CHANGED, "the document is cut in other places") if cut_anew else None
        if item.path in self._before.paths:
            return Cause.DOCUMENT_CHANGED, f"{self._before.paths[item.path]} became {item.document_id}"
        if item.first_seen_at is not None and item.first_seen_at > self._made_at:
            return Cause.DOCUMENT_NEW, item.document_id
        return None

    def _removed_source(self, item: Origin) -> tuple[Cause, str] | None:
        if item.document_id is not None and item.document_id not in self._after.documents:
            if item.path in self._after.paths:
                return Cause.DOCUMENT_CHANGED, f"{item.document_id} became {self._after.paths[item.path]}"
            if item.document_withdrawn_at is not None:
                return Cause.DOCUMENT_REMOVED, item.document_id
        if item.split != Split.TRAIN:
            return Cause.SPLIT_CHANGED, "its chunk is held out for evaluation"
        if item.chunk_withdrawn_at is not None and item.document_withdrawn_at is None:
            return Cause.CHUNKING_CHANGED, "the document is cut in other places"
        return None

    def _rejected(self, item: Origin) -> tuple[Cause, str] | None:
        """What was accepted for the older version has been judged otherwise since."""
        now = [said for said in self._not_passed.get(item.id, ()) if said.at >= self._made_at]
        later = [said for said in self._formerly.get(item.id, ()) if said.at > self._made_at]
        return (Cause.VERDICT_CHANGED, str((now or later)[-1])) if now or later else None

    def _readmitted(self, item: Origin) -> tuple[Cause, str] | None:
        """What was there when the older version was made, and did not pass then."""
        if item.added_at > self._made_at:
            return None
        said = [entry for entry in self._formerly.get(item.id, ()) if entry.at > self._made_at]
        if said:
            return Cause.VERDICT_CHANGED, f"{said[0]}; it passes now"
        unasked = self._not_passed.get(item.id, ())
        return (Cause.VERDICT_CHANGED, f"{unasked[0]}; that check is no longer made") if unasked else None

    def _origin_changed(self, item: Origin, other: Side, *, to_after: bool) -> tuple[Cause, str] | None:
        for cause, name, value in (
            (Cause.TEMPLATE_CHANGED, "template", item.template or ""),
            (Cause.MODEL_CHANGED, "model", item.model or ""),
        ):
            known = other.values(item.recipe, name)
            if known and value not in known:
                ours, theirs = value or "none", ", ".join(sorted(known))
                return cause, f"{theirs} → {ours}" if to_after else f"{ours} → {theirs}"
        return None

    def _made_since(self, item: Origin) -> tuple[Cause, str]:
        if not self._before.values(item.recipe, "template"):
            return Cause.SELECTION_CHANGED, f"the older version has no items of {item.recipe}"
        if item.added_at > self._made_at:
            return Cause.NEW_ITEM, "made after the older version"
        return Cause.SELECTION_CHANGED, "it was there, and no verdict on it has changed"

    def _left_out(self, item: Origin) -> str:
        if not self._after.values(item.recipe, "template"):
            return f"the newer version has no items of {item.recipe}"
        return "it is still there, and no verdict on it has changed"
