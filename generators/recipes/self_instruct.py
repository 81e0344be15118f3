"""`self_instruct`: new tasks in the manner of a few seeds, with their responses; no document is needed.

After Self-Instruct (arXiv 2212.10560): each prompt shows three seed tasks and asks for another kind of task. What is
too like a seed that was shown is rejected (`novel`), what is too like another item by the duplicate checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from data_catalog.identity import digest
from data_catalog.records import Item, Request, Split
from generators.recipes.answers import Answer, ParseFailure, json_object, neutral, object_of_texts
from generators.recipes.base import Ask, Check, Recipe, Source
from generators.seeds import Seed

SCHEMA = object_of_texts(instruction=400, response=1200)
SHOWN = 3
"""Seeds in a prompt."""


class SelfInstruct(Recipe):
    """One prompt per seed, which shows it among others; more of each by `samples`."""

    name: ClassVar[str] = "self_instruct"
    version: ClassVar[int] = 1
    needs_seeds: ClassVar[bool] = True
    checks: ClassVar[frozenset[Check]] = frozenset({Check.NOVEL})
    response_schema: ClassVar[Mapping[str, Any] | None] = SCHEMA

    def asks(self, source: Source) -> Iterator[Ask]:
        """Yield each seed together with others, a fixed choice."""
        for seed in source.seeds:
            shown = [seed, *_others(seed, source.seeds)]
            yield Ask(
                {"tasks": "\n\n".join(_written(one) for one in shown)},
                {"split": Split.TRAIN.value, "seeds": [one.instruction for one in shown]},
            )

    def read(self, request: Request, answer: Answer) -> Item | ParseFailure:
        """Make a one-turn conversation that belongs to no document."""
        parsed = json_object(answer, SCHEMA)
        if isinstance(parsed, ParseFailure):
            return parsed
        said = neutral(parsed)
        return self.conversation(
            request, [(said["instruction"], said["response"])], seeds=list(request.origin["seeds"])
        )


def _others(seed: Seed, seeds: Sequence[Seed]) -> list[Seed]:
    return sorted((one for one in seeds if one != seed), key=lambda one: digest([seed.id, one.id]))[: SHOWN - 1]


def _written(seed: Seed) -> str:
    return f"- {seed.instruction}\n  {seed.response}" if seed.response else f"- {seed.instruction}"
