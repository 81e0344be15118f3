"""`needs_all@1`: a question that shall need several chunks is answered by none of them alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_catalog.records import Chunk, Completion, Item, Request, Verdict
from data_catalog.text import answer_words, contains_words, token_f1
from generators.filters.base import (
    CheckPrompt,
    answer_of,
    question_of,
    sources_of,
    verdict_by_answers,
)
from generators.names import numbers

CHECK = "needs_all@1"
MIN_F1 = 0.8
"""Least word F1 at which an answer from one chunk is the whole answer; half of an answer of two facts has less."""


def needs_all_requests(
    items: Sequence[Item], chunks: Mapping[str, Chunk], prompt: CheckPrompt
) -> dict[str, tuple[Request, ...]]:
    """Return the requests of each item whose chunks are there, by item id: the question put to each chunk alone."""
    return {
        item.id: tuple(prompt.request(item, chunk, question=question_of(item)) for chunk in sources_of(item, chunks))
        for item in items
    }


def needs_all_verdicts(
    items: Sequence[Item], requests: Mapping[str, Sequence[Request]], completions: Mapping[str, Completion]
) -> list[Verdict]:
    """Return a verdict for each item: FAILED where one chunk alone gives the answer."""
    return [_verdict(item, requests.get(item.id, ()), completions) for item in items]


def _verdict(item: Item, requests: Sequence[Request], completions: Mapping[str, Completion]) -> Verdict:
    def objection(found: str) -> str:
        return f"one of its chunks alone answers it: {found[:200]}" if _gives(found, answer_of(item)) else ""

    gone = "its chunk is not there any more"
    return verdict_by_answers(item, CHECK, requests, completions, objection, gone=gone)


def _gives(found: str, answer: str) -> bool:
    """Say whether an answer from one chunk says all that the answer says: it has the same words, or nearly."""
    if contains_words(answer_words(found), answer_words(answer)):
        return True
    return numbers(found) == numbers(answer) and token_f1(found, answer) >= MIN_F1
