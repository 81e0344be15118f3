"""The best over the worst of several answers, by a judge's ratings of each on four aspects.

Each answer is rated by itself, so that no position can be favoured: 1 to 5 points on each aspect, the reason before the
points. An answer's rating is the mean of the four (UltraFeedback, arXiv 2310.01377, section 2.3). Questions that the
documents leave open are left out: whether an answer abstains is known without a judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_catalog.records import Chunk, Completion, Item, Request, Sampling, Verdict
from generators.filters.base import answer_text, failed, passed, source_of, unscored
from generators.pairs.base import Candidate, Question, Sampled, as_item, differ, pair
from generators.prompts import Template
from generators.recipes.answers import ParseFailure, json_object

NAME = "aspect_ratings@1"
RATING = "rating@1"
"""The check that the chosen answer is rated higher by the margin."""
ASPECTS = ("instruction_following", "truthfulness", "honesty", "helpfulness")
POINTS = ("1", "2", "3", "4", "5")
EQUAL = 1e-9
"""Means that differ by less are the same."""


def _properties() -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for aspect in ASPECTS:
        # The reason first: the points are then given with it in view.
        found[f"{aspect}_reason"] = {"type": "string", "maxLength": 200}
        found[aspect] = {"type": "string", "enum": list(POINTS)}
    return found


SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": _properties(),
    "required": list(_properties()),
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Rated:
    """An answer with what the judge's reply says of it, or why that can't be read."""

    sample: Sampled
    request: Request
    said: Mapping[str, str] | ParseFailure

    @property
    def mean(self) -> float | None:
        """The mean of the four ratings, 1 to 5; None where the reply can't be read."""
        if isinstance(self.said, ParseFailure):
            return None
        return sum(int(self.said[aspect]) for aspect in ASPECTS) / len(ASPECTS)


@dataclass(frozen=True)
class RatedBy:
    """The judge: its fingerprint, the template of its prompt, and the longest reply in tokens."""

    model: str
    template: Template
    max_tokens: int


def distinct(sampled: Iterable[Sampled]) -> list[Sampled]:
    """Return the whole answers to each question that differ, where there are at least two of them."""
    of_question: dict[str, list[Sampled]] = {}
    for sample in sampled:
        known = of_question.setdefault(sample.question.text, [])
        if sample.text and all(differ(sample.text, other.text) for other in known):
            known.append(sample)
    return [sample for known in of_question.values() if len(known) > 1 for sample in known]


def rating_requests(
    sampled: Iterable[Sampled], judge: RatedBy, chunks: Mapping[str, Chunk]
) -> list[tuple[Sampled, Request]]:
    """Return what the judge is asked about each answer, with the chunk and the accepted answer in view."""
    return [(sample, _request(sample, judge, source_of(sample.question.item, chunks))) for sample in sampled]


def _request(sample: Sampled, judge: RatedBy, chunk: Chunk | None) -> Request:
    question = sample.question
    prompt = judge.template.render(
        heading=chunk.heading if chunk is not None else "",
        chunk=chunk.text if chunk is not None else "",
        question=question.text,
        answer=sample.text,
        reference=question.answer,
    )
    return Request(
        model=judge.model,
        messages=prompt.messages,
        sampling=Sampling(temperature=0.0, max_tokens=judge.max_tokens),
        response_schema=SCHEMA,
        purpose=RATING,
        template=judge.template.identity,
        origin={
            "item_id": question.item.id,
            "chunk_id": question.item.chunk_id,
            "document_id": question.item.document_id,
            "answer": sample.request.key,
        },
    )


def read_ratings(asked: Iterable[tuple[Sampled, Request]], completions: Mapping[str, Completion]) -> Iterator[Rated]:
    """Yield each answer with its ratings."""
    for sample, request in asked:
        text = answer_text(completions, request.key)
        yield Rated(sample, request, text if isinstance(text, ParseFailure) else json_object(text, SCHEMA))


def candidates(rated: Iterable[Rated], margin: float) -> list[Candidate]:
    """Return a pair for each question: the best against the worst, with the verdict whether the margin is reached.

    Of equally rated ones the first counts. Where fewer than two answers could be rated the pair is UNSCORED.
    """
    of_question: dict[str, list[Rated]] = {}
    for one in rated:
        of_question.setdefault(one.sample.question.text, []).append(one)
    return [_candidate(answers[0].sample.question, answers, margin) for answers in of_question.values()]


def _candidate(question: Question, answers: Sequence[Rated], margin: float) -> Candidate:
    scored = sorted((one for one in answers if one.mean is not None), key=lambda one: -(one.mean or 0))
    best, *others = scored if len(scored) > 1 else answers
    worst = min(others, key=lambda one: one.mean or 0)
    sides = {"chosen": best, "rejected": worst}
    item = pair(
        NAME,
        question,
        chosen=best.sample.text,
        rejected=worst.sample.text,
        keys=[best.sample.request.key, worst.sample.request.key],
        meta={
            "answered_by": {side: one.sample.who for side, one in sides.items()},
            "ratings": {side: one.said for side, one in sides.items() if not isinstance(one.said, ParseFailure)},
        },
    )
    single = as_item(question, best.sample.text, NAME, [best.sample.request.key])
    return Candidate(item, single, (_verdict(item, answers, margin),))


def _verdict(item: Item, answers: Sequence[Rated], margin: float) -> Verdict:
    keys = [one.request.key for one in answers]
    means = [one.mean for one in answers if one.mean is not None]
    if len(means) < 2:
        reason = next(one.said.reason for one in answers if isinstance(one.said, ParseFailure))
        return unscored(item, RATING, f"fewer than two answers could be rated: {reason}", keys=keys)
    gap = max(means) - min(means)
    if gap < margin - EQUAL:
        return failed(item, RATING, f"rated too much alike: {gap:g} of {margin:g} points apart", score=gap, keys=keys)
    return passed(item, RATING, score=gap, keys=keys)
