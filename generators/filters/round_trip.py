"""`round_trip@1`: asked again with the chunk alone, the teacher gives the same answer (arXiv 1906.05416)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_catalog.records import Chunk, Completion, Item, Request, Verdict
from data_catalog.text import answer_words, contains_words, token_f1
from generators.filters.base import (
    CheckPrompt,
    abstains,
    answer_text,
    exchanges_of,
    failed,
    passed,
    unscored,
    with_chunks,
)
from generators.recipes.answers import ParseFailure

CHECK = "round_trip@1"
MIN_F1 = 0.6
"""Least word F1 between two wordings of one answer that counts as agreement."""
MIN_CONTAINED_SHARE = 0.2
"""An answer that is contained in the other must have this share of its words: `5` is not the answer of a page."""


def round_trip_requests(
    items: Sequence[Item], chunks: Mapping[str, Chunk], prompt: CheckPrompt
) -> dict[str, tuple[Request, ...]]:
    """Return the requests of each item whose chunk is there, by item id: one per question that it answers."""
    return {
        item.id: tuple(prompt.request(item, chunk, question=exchange.question) for exchange in exchanges_of(item))
        for item, chunk in with_chunks(items, chunks)
    }


def round_trip_verdicts(
    items: Sequence[Item],
    requests: Mapping[str, Sequence[Request]],
    completions: Mapping[str, Completion],
    abstention_phrases: Sequence[str],
) -> list[Verdict]:
    """Return a verdict for each item; abstaining is no agreement.

    The score is the word F1 of the two answers, the least one where an item answers several questions.
    """
    return [_verdict(item, requests.get(item.id, ()), completions, abstention_phrases) for item in items]


def agree(answer: str, other: str) -> bool:
    """Say whether two answers mean the same.

    Equal or contained in one another after normalisation, or word F1 of at least 0.6; and the same numbers, because
    `12 turns a minute` and `15 turns a minute` share three words of four. A contained answer may have fewer numbers.
    """
    ours, theirs = answer_words(answer), answer_words(other)
    shorter, longer = sorted((ours, theirs), key=len)
    if contains_words(longer, shorter):
        return len(shorter) >= MIN_CONTAINED_SHARE * len(longer)
    return _numbers(ours) == _numbers(theirs) and token_f1(answer, other) >= MIN_F1


def _numbers(found: Sequence[str]) -> set[str]:
    return {word for word in found if any(character.isdigit() for character in word)}


def _verdict(
    item: Item, requests: Sequence[Request], completions: Mapping[str, Completion], phrases: Sequence[str]
) -> Verdict:
    if not requests:
        return unscored(item, CHECK, "its chunk is not there any more")
    keys = [request.key for request in requests]
    missing, least = "", 1.0
    for exchange, key in zip(exchanges_of(item), keys, strict=True):
        answer = answer_text(completions, key)
        if isinstance(answer, ParseFailure):
            missing = answer.reason
            continue
        if abstains(answer, phrases):
            return failed(item, CHECK, "asked again, the teacher found no answer", keys=keys)
        score = token_f1(exchange.answer, answer)
        if not agree(exchange.answer, answer):
            return failed(item, CHECK, f"asked again, the teacher said: {answer[:200]}", score=score, keys=keys)
        least = min(least, score)
    if missing:
        return unscored(item, CHECK, f"the second answer: {missing}", keys=keys)
    return passed(item, CHECK, score=least, keys=keys)
