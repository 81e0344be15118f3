"""`instructions`: a task on a passage that comes with it: summarise, extract, classify. Each template is one task.

Only chunks on the training side are asked about: the passage stands in the row, and a question about a held-out one
would not be held out any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from data_catalog.records import Item, Request
from generators.prompts import neutralise
from generators.recipes.answers import Answer, ParseFailure, json_object, neutral, object_of_texts
from generators.recipes.base import Ask, Check, Recipe, Source

SCHEMA = object_of_texts(instruction=400, response=1200)


class Instructions(Recipe):
    """One instruction per chunk and template, with the passage that it is about."""

    name: ClassVar[str] = "instructions"
    version: ClassVar[int] = 1
    checks: ClassVar[frozenset[Check]] = frozenset({Check.ANCHORED, Check.JUDGE})
    response_schema: ClassVar[Mapping[str, Any] | None] = SCHEMA

    def asks(self, source: Source) -> Iterator[Ask]:
        """Yield every chunk of the training side that has a sentence with a fact."""
        for chunk in source.training_chunks():
            yield Ask(
                {"heading": chunk.heading, "chunk": chunk.text},
                {
                    "chunk_id": chunk.id,
                    "document_id": chunk.document_id,
                    "split": chunk.split.value,
                    "passage": f"{chunk.heading}\n\n{chunk.text}" if chunk.heading else chunk.text,
                },
            )

    def read(self, request: Request, answer: Answer) -> Item | ParseFailure:
        """Make a one-turn conversation: instruction and passage, then the response."""
        parsed = json_object(answer, SCHEMA)
        if isinstance(parsed, ParseFailure):
            return parsed
        said = neutral(parsed)
        passage = neutralise(request.origin["passage"]).text
        return self.conversation(
            request,
            [(f"{said['instruction']}\n\n{passage}", said["response"])],
            question=said["instruction"],
            instruction=said["instruction"],
        )
