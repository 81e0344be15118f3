"""A recipe of one's own: what a term of the documents means, with the quote that says so, one term per chunk.

The configuration names it under `generate.recipes`, with paths relative to itself:
`{recipe: recipes/definitions.py, templates: [recipes/definition.jinja]}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from data_catalog.records import Item, Request
from generators.recipes.answers import Answer, ParseFailure, json_object, neutral, object_of_texts
from generators.recipes.base import Ask, Check, Recipe, Source

SCHEMA = object_of_texts(evidence=600, term=100, definition=400)


class Definitions(Recipe):
    """A question for a term's meaning, answered in one sentence."""

    name: ClassVar[str] = "definitions"
    version: ClassVar[int] = 1
    variables: ClassVar[frozenset[str]] = frozenset({"heading", "chunk"})
    checks: ClassVar[frozenset[Check]] = frozenset({Check.EVIDENCE, Check.ANCHORED, Check.JUDGE})
    response_schema: ClassVar[Mapping[str, Any] | None] = SCHEMA

    def asks(self, source: Source) -> Iterator[Ask]:
        """Yield every chunk."""
        for chunk in source.chunks:
            yield Ask(
                {"heading": chunk.heading, "chunk": chunk.text},
                {"chunk_id": chunk.id, "document_id": chunk.document_id, "split": chunk.split.value},
            )

    def read(self, request: Request, answer: Answer) -> Item | ParseFailure:
        """Make a conversation of one turn; what the checks look at stands in `meta`."""
        parsed = json_object(answer, SCHEMA)
        if isinstance(parsed, ParseFailure):
            return parsed
        said = neutral(parsed)
        return self.conversation(request, [(f"What is {said['term']}?", said["definition"])], evidence=said["evidence"])
