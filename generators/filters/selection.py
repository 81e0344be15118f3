"""`selection@1`: of all training conversations the N best that are not too alike (Deita, arXiv 2312.15685).

A conversation's score is complexity x quality, each 1 to 6 points (the paper's "evol score"). Taken in the order of
their scores, one is left out where an earlier one is too like it, until there are N (its "score-first, diversity-aware"
selection). The paper scores with models that were trained on a teacher's rankings; here the teacher gives the points
itself, the reason first. How alike two are is told by the cosine of their vectors where there is an embedder, as in the
paper, and by their five-word runs (Jaccard) where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.records import Completion, Item, Kind, Request, Sampling, Split, Verdict
from data_catalog.text import words
from generators.embeddings import Embedder, Source, alike
from generators.filters.base import answer_text, exchanges_of, failed, origin_of, passed, unscored
from generators.filters.semantic_duplicate import spoken
from generators.near_duplicates import near_duplicates
from generators.prompts import Template, load_template
from generators.recipes.answers import ParseFailure, json_object
from generators.specs import SelectSpec

CHECK = "selection@1"
POINTS = ("1", "2", "3", "4", "5", "6")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    # The reason first: the points are then given with it in view.
    "properties": {
        "reason": {"type": "string", "maxLength": 300},
        "points": {"type": "string", "enum": list(POINTS)},
    },
    "required": ["reason", "points"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Graded:
    """What is asked about a conversation: how complex its questions are, how good its answers."""

    complexity: Request
    quality: Request

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of both."""
        return (self.complexity.key, self.quality.key)


@dataclass(frozen=True)
class Grader:
    """Who gives the points: the teacher's fingerprint, its two prompts, and the longest reply in tokens."""

    model: str
    complexity: Template
    quality: Template
    max_tokens: int

    def asks(self, item: Item) -> Graded:
        """Return what is asked about a conversation."""
        exchanges = exchanges_of(item)
        question = "\n\n".join(one.question for one in exchanges)
        answer = "\n\n".join(one.said for one in exchanges)
        return Graded(
            self._request(item, self.complexity, question=question),
            self._request(item, self.quality, question=question, answer=answer),
        )

    def _request(self, item: Item, template: Template, **variables: str) -> Request:
        return Request(
            model=self.model,
            messages=template.render(**variables).messages,
            sampling=Sampling(temperature=0.0, max_tokens=self.max_tokens),
            response_schema=SCHEMA,
            purpose=CHECK,
            template=template.identity,
            origin=origin_of(item),
        )


def load_grader(spec: SelectSpec, language: str, model: str, base_dir: Path | None) -> Grader:
    """Return who gives the points, with the templates that the specification names.

    Raises:
        ConfigError: a template can't be used.
    """
    return Grader(
        model,
        load_template(spec.complexity_template, "complexity", language, base_dir),
        load_template(spec.quality_template, "quality", language, base_dir),
        spec.max_tokens,
    )


def selectable(items: Sequence[Item]) -> list[Item]:
    """Return the items among which is chosen: conversations of the training side."""
    return [item for item in items if item.kind is Kind.MESSAGES and item.split is Split.TRAIN and exchanges_of(item)]


def check(
    items: Sequence[Item],
    asked: Mapping[str, Graded],
    completions: Mapping[str, Completion],
    spec: SelectSpec,
    embedder: Embedder | None,
) -> list[Verdict]:
    """Return a verdict for each item; the score is complexity x quality, 1 to 36.

    Args:
        items: those of `selectable`, in a fixed order: of equal scores the earlier one comes first.
        asked: what was asked about each, by its id.
        completions: the teacher's replies, by request key.
        spec: how many are wanted, and when two are too alike.
        embedder: gives the vectors, if there are any.
    """
    points = {item.id: _points(asked[item.id], completions) for item in items}
    known = {id_: found for id_, found in points.items() if not isinstance(found, ParseFailure)}
    ranked = sorted((item for item in items if item.id in known), key=lambda item: -known[item.id].score)
    too_alike = _too_alike(ranked, spec, embedder)
    chosen = [item for item in ranked if item.id not in too_alike][: spec.items]
    chosen_ids = {item.id for item in chosen}
    verdicts = []
    for item in items:
        found, keys = points[item.id], asked[item.id].keys
        if isinstance(found, ParseFailure):
            verdicts.append(unscored(item, CHECK, f"the points: {found.reason}", keys=keys))
        elif item.id in chosen_ids:
            verdicts.append(passed(item, CHECK, score=found.score, keys=keys))
        else:
            why = too_alike.get(item.id, f"{len(chosen):,} others come first")
            verdicts.append(failed(item, CHECK, f"{found}: {why}", score=found.score, keys=keys))
    return verdicts


@dataclass(frozen=True)
class _Points:
    complexity: int
    quality: int

    @property
    def score(self) -> int:
        return self.complexity * self.quality

    def __str__(self) -> str:
        return f"complexity {self.complexity} x quality {self.quality} = {self.score}"


def _points(asked: Graded, completions: Mapping[str, Completion]) -> _Points | ParseFailure:
    found = []
    for key in asked.keys:
        answer = answer_text(completions, key)
        parsed = answer if isinstance(answer, ParseFailure) else json_object(answer, SCHEMA)
        if isinstance(parsed, ParseFailure):
            return parsed
        found.append(int(parsed["points"]))
    return _Points(*found)


def _too_alike(ranked: Sequence[Item], spec: SelectSpec, embedder: Embedder | None) -> dict[str, str]:
    """Return why items are left out that are too like one before them, by id."""
    texts = [spoken(item) for item in ranked]
    if embedder is not None:
        # One without a vector is like nothing: what would be left out for it is left in.
        found = embedder.embed([Source(text, origin_of(item)) for text, item in zip(texts, ranked, strict=True)])
        return {
            ranked[pair.place].id: f"too like {ranked[pair.first].id} (cosine {pair.cosine:.3f})"
            for pair in alike(found.vectors, spec.max_cosine)
        }
    said: dict[int, str] = {}
    for pair in near_duplicates(map(words, texts), spec.max_jaccard):
        # In the order of places: whether the first one is left out itself is known by now.
        if pair.first not in said:
            said.setdefault(pair.second, f"too like {ranked[pair.first].id} (Jaccard {pair.similarity:.2f})")
    return {ranked[place].id: why for place, why in said.items()}
