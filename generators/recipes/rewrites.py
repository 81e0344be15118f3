"""`rewrites`: a whole chunk in another form, as text for continued pretraining. Each template is one form.

The forms are those that FinePhrase found to teach most: table, questions and answers, tutorial, worked problem. Two of
them ask questions, so only chunks on the training side are rewritten.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from data_catalog.records import Item, Kind, Request
from generators.recipes.answers import Answer, ParseFailure, long_text
from generators.recipes.base import Ask, Check, Recipe, Source


class Rewrites(Recipe):
    """One text per chunk and form; its numbers and names must be those of the chunk."""

    name: ClassVar[str] = "rewrites"
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = Kind.TEXT
    checks: ClassVar[frozenset[Check]] = frozenset({Check.ANCHORED})

    def asks(self, source: Source) -> Iterator[Ask]:
        """Yield every chunk of the training side that has a sentence with a fact."""
        for chunk in source.training_chunks():
            yield Ask(
                {"heading": chunk.heading, "chunk": chunk.text},
                {"chunk_id": chunk.id, "document_id": chunk.document_id, "split": chunk.split.value},
            )

    def read(self, request: Request, answer: Answer) -> Item | ParseFailure:
        """Make a text item."""
        text = long_text(answer)
        return text if isinstance(text, ParseFailure) else self.text(request, text)
