"""`active_reading`: the teacher thinks of ways to study a chunk, then studies it in each of them, as text to read.

After Active Reading (arXiv 2508.09494): strategies that fit the text at hand make more varied material than one form
for all. A strategy may be to ask oneself questions, so only chunks on the training side are studied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from data_catalog.records import Item, Kind, Request
from generators.recipes.answers import Answer, ParseFailure, long_text
from generators.recipes.base import Ask, Check, Source
from generators.recipes.two_steps import TwoStepRecipe, object_of_list


class ActiveReading(TwoStepRecipe):
    """One text per chunk and strategy."""

    name: ClassVar[str] = "active_reading"
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = Kind.TEXT
    checks: ClassVar[frozenset[Check]] = frozenset({Check.ANCHORED})
    plan_schema: ClassVar[Mapping[str, Any]] = object_of_list("strategies", 5)

    def asks(self, source: Source) -> Iterator[Ask]:
        """Yield every chunk of the training side that has a sentence with a fact."""
        for chunk in source.training_chunks():
            yield self.first_ask(chunk, chunk.split)

    def follow(self, request: Request, parts: Sequence[str]) -> Sequence[Ask]:
        """Return one thing to ask for each strategy."""
        return [self.next_ask(request, strategy=strategy) for strategy in parts]

    def write(self, request: Request, answer: Answer) -> Item | ParseFailure:
        """Make a text item that remembers its strategy."""
        text = long_text(answer)
        return text if isinstance(text, ParseFailure) else self.text(request, text, strategy=request.origin["strategy"])
