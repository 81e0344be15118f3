"""Recipes that ask twice: a plan of what there is to write about, then one text or question for each part of it.

An answer of the first step makes no item; it leads to the requests of the second, whose origin names the request that
it came from, and so does the item's lineage. Samples and targets (`samples`, `target`) are of the first step; each part
of a plan is asked about once per template of the second.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from data_catalog.records import Chunk, Item, Request, Split
from generators.recipes.answers import Answer, ParseFailure, json_texts
from generators.recipes.base import Ask, FollowUp, Recipe


def object_of_list(name: str, most: int) -> Mapping[str, Any]:
    """Return the schema of an object with one list of at most `most` texts."""
    return {
        "type": "object",
        "properties": {
            name: {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 300}, "maxItems": most}
        },
        "required": [name],
        "additionalProperties": False,
    }


class TwoStepRecipe(Recipe):
    """Asks for a list (`plan_schema`), then about its parts."""

    plan_schema: ClassVar[Mapping[str, Any]]

    @property
    def first_template(self) -> str:
        """The first step has templates of its own."""
        return f"{self.name}_plan"

    def schema_of(self, origin: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the plan's schema, or that of the second step."""
        return self.response_schema if "from" in origin else self.plan_schema

    def read(self, request: Request, answer: Answer) -> Item | ParseFailure | FollowUp:
        """Go from a plan to what is asked next, or from an answer of the second step to an item."""
        if "from" in request.origin:
            return self.write(request, answer)
        parts = json_texts(answer, self.plan_schema)
        if isinstance(parts, ParseFailure):
            return parts
        asks = self.follow(request, parts)
        return FollowUp(tuple(asks)) if asks else ParseFailure("the plan has nothing to write about", declined=True)

    @abstractmethod
    def follow(self, request: Request, parts: Sequence[str]) -> Sequence[Ask]:
        """Return what is asked because of a plan; nothing where the plan is of no use."""

    @abstractmethod
    def write(self, request: Request, answer: Answer) -> Item | ParseFailure:
        """Make an item from an answer of the second step."""

    def first_ask(self, chunk: Chunk, split: Split) -> Ask:
        """Return what is asked about a chunk; its text is in the origin too, for the second step."""
        shown = {"heading": chunk.heading, "chunk": chunk.text}
        return Ask(shown, {"chunk_id": chunk.id, "document_id": chunk.document_id, "split": split.value, **shown})

    def next_ask(self, request: Request, **more: str) -> Ask:
        """Return what is asked about the same chunk with one part of the plan; `more` goes to template and origin."""
        shown, origin = (
            {name: request.origin[name] for name in names}
            for names in (("heading", "chunk"), ("chunk_id", "document_id", "split"))
        )
        return Ask({**shown, **more}, {**origin, **more, "from": request.key})
