"""`personas`: who would need a chunk, and what each of them asks about it, with answer and evidence.

After Persona Hub (arXiv 2406.20094), from the text to the persona: the same fact is asked for in the words of a
technician, a buyer, an inspector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from data_catalog.records import Item, Request
from generators.recipes.answers import Answer, ParseFailure, json_object, neutral, object_of_texts
from generators.recipes.base import GROUNDED, Ask, Check, Source
from generators.recipes.two_steps import TwoStepRecipe, object_of_list

SCHEMA = object_of_texts(evidence=600, question=400, answer=400)


class Personas(TwoStepRecipe):
    """One grounded question per chunk and persona."""

    name: ClassVar[str] = "personas"
    version: ClassVar[int] = 1
    checks: ClassVar[frozenset[Check]] = GROUNDED
    response_schema: ClassVar[Mapping[str, Any] | None] = SCHEMA
    plan_schema: ClassVar[Mapping[str, Any]] = object_of_list("personas", 4)

    def asks(self, source: Source) -> Iterator[Ask]:
        """Yield every chunk that has a sentence with a fact."""
        for chunk in source.telling_chunks():
            yield self.first_ask(chunk, chunk.split)

    def follow(self, request: Request, parts: Sequence[str]) -> Sequence[Ask]:
        """Return one thing to ask for each persona."""
        return [self.next_ask(request, persona=persona) for persona in parts]

    def write(self, request: Request, answer: Answer) -> Item | ParseFailure:
        """Make a one-turn conversation that remembers who asks."""
        parsed = json_object(answer, SCHEMA)
        if isinstance(parsed, ParseFailure):
            return parsed
        said = neutral(parsed)
        return self.conversation(
            request,
            [(said["question"], said["answer"])],
            evidence=said["evidence"],
            persona=request.origin["persona"],
        )
