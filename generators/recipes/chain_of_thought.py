"""`chain_of_thought`: a question whose answer is reached in steps, which are what the student learns to write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from data_catalog.records import Item, Request
from data_catalog.text import words
from generators.recipes.answers import Answer, ParseFailure, json_object, neutral, object_of_texts
from generators.recipes.base import GROUNDED, Ask, Check, Recipe, Source, asks_per_sentence

SCHEMA = object_of_texts(evidence=600, question=400, reasoning=900, answer=400)
MIN_WORDS = 5
"""Shorter reasoning is none."""


class ChainOfThought(Recipe):
    """One question per sentence; the student's answer is the reasoning, then the answer on a line of its own.

    The judge is shown both. The round trip and the held-out questions go by the short answer.
    """

    name: ClassVar[str] = "chain_of_thought"
    version: ClassVar[int] = 1
    checks: ClassVar[frozenset[Check]] = GROUNDED
    response_schema: ClassVar[Mapping[str, Any] | None] = SCHEMA

    def asks(self, source: Source) -> Iterator[Ask]:
        """Return every sentence that carries a fact, with its chunk."""
        return asks_per_sentence(source)

    def read(self, request: Request, answer: Answer) -> Item | ParseFailure:
        """Make a one-turn conversation; the reasoning stays readable in `meta`."""
        parsed = json_object(answer, SCHEMA)
        if isinstance(parsed, ParseFailure):
            return parsed
        said = neutral(parsed)
        if len(words(said["reasoning"])) < MIN_WORDS:
            return ParseFailure("an answer without reasoning")
        return self.conversation(
            request,
            [(said["question"], f"{said['reasoning']}\n\n{said['answer']}")],
            answer=said["answer"],
            reasoning=said["reasoning"],
            evidence=said["evidence"],
            focus=request.origin["focus"],
        )
