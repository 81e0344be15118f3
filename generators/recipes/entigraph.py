"""`entigraph`: what a chunk says of each pair and triple of its entities, as text for continued pretraining.

After EntiGraph (arXiv 2409.07431): first the entities, then texts on how they relate. The original works on whole
documents; here the unit is the chunk, so that late parts are covered like the first ones. With `documents.chunk_tokens`
as large as the teacher can read, a chunk is a document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar

from data_catalog.identity import digest
from data_catalog.records import Item, Kind, Request, Split
from data_catalog.text import contains_words, words
from generators.recipes.answers import Answer, ParseFailure, long_text
from generators.recipes.base import Ask, Check, Source
from generators.recipes.two_steps import TwoStepRecipe, object_of_list

MAX_PAIRS = 8
MAX_TRIPLES = 4
"""Of a chunk with many entities so many pairs and triples are written about, a fixed choice of all."""


class EntiGraph(TwoStepRecipe):
    """One text per pair or triple of entities."""

    name: ClassVar[str] = "entigraph"
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = Kind.TEXT
    checks: ClassVar[frozenset[Check]] = frozenset({Check.ANCHORED})
    plan_schema: ClassVar[Mapping[str, Any]] = object_of_list("entities", 12)

    def asks(self, source: Source) -> Iterator[Ask]:
        """Yield every chunk that has a sentence with a fact.

        The texts are on the training side whatever the chunk's side is: held out are questions, not what may be read.
        """
        for chunk in source.telling_chunks():
            yield self.first_ask(chunk, Split.TRAIN)

    def follow(self, request: Request, parts: Sequence[str]) -> Sequence[Ask]:
        """Return the pairs and triples of entities that do stand in the chunk."""
        stated = words(f"{request.origin['heading']}\n{request.origin['chunk']}")
        entities = [entity for entity in parts if ";" not in entity and contains_words(stated, words(entity))]
        groups = _some(combinations(entities, 2), MAX_PAIRS) + _some(combinations(entities, 3), MAX_TRIPLES)
        return [self.next_ask(request, entities="; ".join(group)) for group in groups]

    def write(self, request: Request, answer: Answer) -> Item | ParseFailure:
        """Make a text item, which must speak of all its entities."""
        text = long_text(answer)
        if isinstance(text, ParseFailure):
            return text
        said = words(text)
        for entity in request.origin["entities"].split("; "):
            if not contains_words(said, words(entity)):
                return ParseFailure("does not speak of one of its entities")
        return self.text(request, text, entities=request.origin["entities"])


def _some(groups: Iterator[tuple[str, ...]], most: int) -> list[tuple[str, ...]]:
    """Return at most `most` of the groups, chosen by their hash, in their own order."""
    everything = list(groups)
    chosen = set(sorted(everything, key=digest)[:most])
    return [group for group in everything if group in chosen]
