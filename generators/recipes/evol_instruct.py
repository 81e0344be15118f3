"""`evol_instruct`: seed tasks made harder or turned into others, then done; no document is needed.

After WizardLM (arXiv 2304.12244): five operators in depth (constraints, deepening, concretising, reasoning steps, a
more complicated input) and one in breadth, each a template of the first step; the second step does the evolved task.
What the paper's eliminator drops is refused: tasks that did not change or speak of the prompt, responses that decline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from data_catalog.records import Item, Request, Split
from data_catalog.text import contains_words, normalise_answer, words
from generators.prompts import neutralise
from generators.recipes.answers import Answer, ParseFailure, json_object, object_of_texts
from generators.recipes.base import Ask, FollowUp, Recipe, Source

EVOLVED = object_of_texts(instruction=400)
LEAKS = ("given task", "rewritten task", "new task", "原任务", "改写后的任务", "新任务")
"""A task that speaks of itself as one speaks of the prompt."""
DECLINES = ("sorry", "as an ai", "抱歉", "对不起", "作为一个ai")
SHORT = 80
"""A response with one of `DECLINES` and fewer words than this does not do the task (WizardLM, section 3.2)."""


class EvolInstruct(Recipe):
    """One evolved task per seed and operator, and its response."""

    name: ClassVar[str] = "evol_instruct"
    version: ClassVar[int] = 1
    needs_seeds: ClassVar[bool] = True

    @property
    def first_template(self) -> str:
        """The first step's templates are the operators."""
        return "evol_instruct_plan"

    def schema_of(self, origin: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the evolved task's schema; the response is free text."""
        return None if "from" in origin else EVOLVED

    def asks(self, source: Source) -> Iterator[Ask]:
        """Yield every seed."""
        for seed in source.seeds:
            yield Ask({"task": seed.instruction}, {"split": Split.TRAIN.value, "seeds": [seed.instruction]})

    def read(self, request: Request, answer: Answer) -> Item | ParseFailure | FollowUp:
        """Go from an evolved task to the request for its response, or from that to a conversation."""
        if "from" in request.origin:
            return self._done(request, answer)
        parsed = json_object(answer, EVOLVED)
        if isinstance(parsed, ParseFailure):
            return parsed
        task, (seed,) = parsed["instruction"], request.origin["seeds"]
        if normalise_answer(task) == normalise_answer(seed):
            return ParseFailure("the task is the same as before")
        if _has(task, LEAKS):
            return ParseFailure("the task speaks of the prompt")
        origin = {"split": request.origin["split"], "seeds": [seed], "task": task, "from": request.key}
        return FollowUp((Ask({"task": task}, origin),))

    def _done(self, request: Request, answer: Answer) -> Item | ParseFailure:
        if declines(answer):
            return ParseFailure("the teacher declines the task")
        task = neutralise(request.origin["task"]).text
        return self.conversation(request, [(task, neutralise(answer).text)], seeds=list(request.origin["seeds"]))


def declines(response: str) -> bool:
    """Say whether a response does not do the task."""
    return len(words(response)) < SHORT and _has(response, DECLINES)


def _has(text: str, phrases: tuple[str, ...]) -> bool:
    said = words(text)
    return any(contains_words(said, words(phrase)) for phrase in phrases)
