"""In-context examples: approved answers shown to the teacher before it is asked, chosen for each chunk.

An example stands in the prompt as a turn that was answered: the template rendered with the example's data, then the
answer. Chosen are those that are like what is asked about and unlike each other (maximal marginal relevance, Carbonell
and Goldstein 1998), by words alone: no model is needed, and equal input gives equal examples.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from data_catalog.identity import digest
from data_catalog.records import Message
from data_catalog.text import ARTICLES, words
from generators.prompts import Prompt, Template, neutralise

RELEVANCE = 0.7
"""Weight of likeness to what is asked about; the rest is that of being unlike the examples chosen before."""
CANDIDATES = 32
"""Of the most alike examples, so many are compared with each other."""
MAX_POOL = 2000
"""More examples than this are not looked at: a fixed choice of them is, by the hash of their ids."""


@dataclass(frozen=True)
class Example:
    """A question to the teacher that has a good answer."""

    id: str
    """Of the item that the answer became, or file and line, such as `examples.jsonl:3`."""
    variables: Mapping[str, str] = field(repr=False)
    """What the template is given."""
    response: str
    """What the teacher should answer to it, word for word."""
    chunk_id: str | None = None
    document_id: str | None = None

    @property
    def text(self) -> str:
        """What it is compared by."""
        return compared(self.variables)


def compared(variables: Mapping[str, str]) -> str:
    """Return what tells one question from another.

    The focus is left out where the chunk is there: all questions about a chunk get the same examples, so that their
    prompts begin alike and the server's prefix cache holds them.
    """
    left_out = {"focus"} if "chunk" in variables else set()
    return "\n".join(variables[name] for name in sorted(variables) if name not in left_out)


def with_examples(template: Template, variables: Mapping[str, str], examples: Sequence[Example]) -> Prompt:
    """Return the prompt with its examples before it, each one turn of the user and one of the assistant."""
    prompt = template.render(**variables)
    if not examples:
        return prompt
    shown: list[Message] = []
    count = prompt.neutralised
    for example in examples:
        asked, answer = template.render(**example.variables), neutralise(example.response)
        shown += [asked.messages[-1], Message(role="assistant", content=answer.text)]
        count += asked.neutralised + answer.count
    return Prompt((*prompt.messages[:-1], *shown, prompt.messages[-1]), count)


class ExamplePool:
    """Chooses examples for what is asked about.

    Args:
        examples: any order; ids differ.
        count: how many are chosen, at most.
        max_tokens: of all chosen together, questions and answers.
        count_tokens: tokens of a text.
    """

    def __init__(
        self, examples: Sequence[Example], *, count: int, max_tokens: int, count_tokens: Callable[[str], int]
    ) -> None:
        by_hash = sorted(examples, key=lambda example: digest(["examples", example.id]))[:MAX_POOL]
        self._examples = sorted(by_hash, key=lambda example: example.id)
        self._count = count
        self._max_tokens = max_tokens
        self._costs = [count_tokens(f"{one.text}\n{one.response}") for one in self._examples]
        counts = [Counter(_said(example.text)) for example in self._examples]
        found = Counter(word for count in counts for word in count)
        self._idf = {word: math.log(1 + len(counts) / times) for word, times in found.items()}
        self._vectors = [self._vector(count) for count in counts]
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, vector in enumerate(self._vectors):
            for word, weight in vector.items():
                self._postings[word].append((place, weight))
        self._chosen: dict[tuple[str, str | None, str | None], tuple[Example, ...]] = {}

    def choose(
        self, variables: Mapping[str, str], *, chunk_id: str | None, document_id: str | None
    ) -> tuple[Example, ...]:
        """Return the examples for a question, the most alike last, next to it.

        Args:
            variables: what the template is given for the question.
            chunk_id: an example of the same chunk is never chosen.
            document_id: where the question is about a document as a whole (no chunk), none of the same document is.
        """
        key = (compared(variables), chunk_id, document_id)
        if key not in self._chosen:
            self._chosen[key] = self._choose(*key)
        return self._chosen[key]

    def _choose(self, text: str, chunk_id: str | None, document_id: str | None) -> tuple[Example, ...]:
        likeness: dict[int, float] = defaultdict(float)
        for word, weight in self._vector(Counter(_said(text))).items():
            for place, other in self._postings.get(word, ()):
                likeness[place] += weight * other
        foreign = [place for place, one in enumerate(self._examples) if not _is_kin(one, chunk_id, document_id)]
        ranked = heapq.nsmallest(
            CANDIDATES, foreign, key=lambda place: (-likeness.get(place, 0.0), self._examples[place].id)
        )
        chosen: list[int] = []
        left = self._max_tokens
        while len(chosen) < self._count:
            fitting = [place for place in ranked if place not in chosen and self._costs[place] <= left]
            if not fitting:
                break
            best = max(fitting, key=lambda place: self._merit(likeness[place], place, chosen))
            chosen.append(best)
            left -= self._costs[best]
        return tuple(self._examples[place] for place in sorted(chosen, key=lambda place: likeness[place]))

    def _merit(self, likeness: float, place: int, chosen: Sequence[int]) -> float:
        """MMR = λ sim(question, example) - (1 - λ) max sim(example, chosen), sim the cosine of TF-IDF vectors."""
        closest = max((_dot(self._vectors[place], self._vectors[other]) for other in chosen), default=0.0)
        return RELEVANCE * likeness - (1 - RELEVANCE) * closest

    def _vector(self, counts: Counter[str]) -> dict[str, float]:
        weights = {word: (1 + math.log(times)) * self._idf.get(word, 0.0) for word, times in counts.items()}
        length = math.sqrt(math.fsum(weight * weight for weight in weights.values())) or 1.0
        return {word: weight / length for word, weight in weights.items() if weight}


def _said(text: str) -> list[str]:
    return [word for word in words(text) if word not in ARTICLES]


def _is_kin(example: Example, chunk_id: str | None, document_id: str | None) -> bool:
    if chunk_id is not None and example.chunk_id is not None:
        return example.chunk_id == chunk_id
    return document_id is not None and example.document_id == document_id


def _dot(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    shorter, longer = (one, other) if len(one) <= len(other) else (other, one)
    return math.fsum(weight * longer.get(word, 0.0) for word, weight in shorter.items())
