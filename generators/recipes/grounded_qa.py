"""`grounded_qa`: a question, its answer and the exact quote that proves it, one for each sentence of each chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from data_catalog.records import Item, Request
from generators.prompts import neutralise
from generators.recipes.answers import Answer, ParseFailure, all_alike, json_object
from generators.recipes.base import GROUNDED, Ask, Check, Recipe, Source, asks_per_sentence

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    # The evidence first: the question and the answer are then written with the quote in view.
    "properties": {
        "evidence": {"type": "string", "minLength": 1, "maxLength": 600},
        "question": {"type": "string", "minLength": 1, "maxLength": 400},
        "answer": {"type": "string", "minLength": 1, "maxLength": 400},
    },
    "required": ["evidence", "question", "answer"],
    "additionalProperties": False,
}


class GroundedQA(Recipe):
    """One question per sentence, so that late chunks and dull sentences are covered like the first ones."""

    name: ClassVar[str] = "grounded_qa"
    version: ClassVar[int] = 1
    checks: ClassVar[frozenset[Check]] = GROUNDED
    response_schema: ClassVar[Mapping[str, Any] | None] = SCHEMA

    def asks(self, source: Source) -> Iterator[Ask]:
        """Return every sentence that carries a fact, with its chunk."""
        return asks_per_sentence(source)

    def read(self, request: Request, answer: Answer) -> Item | ParseFailure:
        """Make a one-turn conversation; question, answer and evidence stay readable in `meta`."""
        parsed = json_object(answer, SCHEMA)
        if isinstance(parsed, ParseFailure):
            return parsed
        if all_alike(parsed):
            return ParseFailure("the teacher finds nothing to ask", declined=True)  # such as "none" three times
        question, reply, evidence = (neutralise(parsed[name]).text for name in ("question", "answer", "evidence"))
        return self.conversation(request, [(question, reply)], evidence=evidence, focus=request.origin["focus"])
