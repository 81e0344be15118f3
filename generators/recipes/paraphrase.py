"""`paraphrase`: each sentence in other words, as text for continued pretraining.

Paraphrases belong to the training side whatever their chunk's side is: held out are questions, not what may be read
(see `generators.recipes.document.document_text_items`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from data_catalog.records import Item, Kind, Request, Split
from generators.prompts import neutralise
from generators.recipes.answers import Answer, ParseFailure, one_line
from generators.recipes.base import Ask, Check, Recipe, Source


class Paraphrase(Recipe):
    """One sentence in, one sentence out that can stand alone."""

    name: ClassVar[str] = "paraphrase"
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = Kind.TEXT
    checks: ClassVar[frozenset[Check]] = frozenset({Check.FAITHFUL})

    def asks(self, source: Source) -> Iterator[Ask]:
        """Yield every sentence that carries a fact, with its heading."""
        for chunk, sentence in source.sentences():
            yield Ask(
                {"heading": chunk.heading, "sentence": sentence},
                {
                    "chunk_id": chunk.id,
                    "document_id": chunk.document_id,
                    "split": Split.TRAIN.value,
                    "heading": chunk.heading,
                    "sentence": sentence,
                },
            )

    def read(self, request: Request, answer: Answer) -> Item | ParseFailure:
        """Make a text item; the source sentence stays in `meta` for the faithfulness check."""
        line = one_line(answer)
        if isinstance(line, ParseFailure):
            return line
        return self.text(
            request,
            neutralise(line).text,
            sentence=request.origin["sentence"],
            heading=request.origin["heading"],
        )
