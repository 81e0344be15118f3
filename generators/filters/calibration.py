"""How well the judge judges: wrong answers are planted among the right ones, and it has to tell.

The planted rows are made from items that passed every check before the judge, by changes that a careless model makes.
They are no items: nothing is ever trained on them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from data_catalog.errors import DataError
from data_catalog.identity import digest
from data_catalog.records import Chunk, Completion, Item, Request
from data_catalog.text import contains_words, is_cjk, words
from generators.filters.base import CheckPrompt, answer_of, answer_text, question_of, source_text, with_chunks
from generators.filters.judge import SCHEMA
from generators.recipes.answers import ParseFailure, json_object

PURPOSE = "judge-calibration@1"


@dataclass(frozen=True)
class Planted:
    """A wrong answer to an item's question."""

    kind: str
    """`number`: another number; `entity`: an answer of another item; `claim`: the right answer and one more;
    `source`: the right answer, judged against a chunk of another document that does not hold it."""
    item: Item
    answer: str
    chunk: Chunk


@dataclass(frozen=True)
class Calibration:
    """What the judge said of the planted answers."""

    planted: Mapping[str, int]
    """Kind to how many were planted."""
    caught: Mapping[str, int]
    """Kind to how many of them the judge refused; a reply that can't be read catches nothing."""

    @property
    def recall(self) -> float:
        """The share of planted answers that the judge refused; 1 where there was nothing to plant."""
        planted = sum(self.planted.values())
        return sum(self.caught.values()) / planted if planted else 1.0

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {self.caught.get(kind, 0)} of {count}" for kind, count in self.planted.items())
        return f"the judge refused {self.recall:.0%} of {sum(self.planted.values())} planted wrong answers ({kinds})"


def plant(items: Sequence[Item], chunks: Sequence[Chunk], count: int) -> list[Planted]:
    """Return at most `count` wrong answers, one an item, the kinds in turn; the same ones for the same items."""
    pairs = with_chunks(items, {chunk.id: chunk for chunk in chunks})
    pairs.sort(key=lambda pair: digest([PURPOSE, pair[0].id]))
    answers = sorted({answer_of(item) for item, _ in pairs})
    others = sorted(chunks, key=lambda chunk: digest([PURPOSE, chunk.id]))
    planted: list[Planted] = []
    so_far: Counter[str] = Counter()
    for item, chunk in pairs[:count]:
        for kind in sorted(_CHANGES, key=lambda kind: so_far[kind]):  # the rarest that this item allows
            changed = _CHANGES[kind](item, chunk, answers, others)
            if changed is not None:
                planted.append(Planted(kind, item, *changed))
                so_far[kind] += 1
                break
    return planted


def calibration_requests(planted: Sequence[Planted], prompt: CheckPrompt) -> list[Request]:
    """Return the judge's question on each planted answer."""
    return [
        prompt.request(one.item, one.chunk, question=question_of(one.item), answer=one.answer).model_copy(
            update={"purpose": PURPOSE}
        )
        for one in planted
    ]


def calibrate(
    planted: Sequence[Planted], requests: Sequence[Request], completions: Mapping[str, Completion]
) -> Calibration:
    """Count what the judge refused."""
    caught: Counter[str] = Counter()
    for one, request in zip(planted, requests, strict=True):
        answer = answer_text(completions, request.key)
        parsed = answer if isinstance(answer, ParseFailure) else json_object(answer, SCHEMA)
        caught[one.kind] += not isinstance(parsed, ParseFailure) and parsed["verdict"] == "no"
    return Calibration(Counter(one.kind for one in planted), caught)


def demand_recall(calibration: Calibration | None, floor: float) -> None:
    """Raise DataError where the judge refused a smaller share of the planted answers than `floor`."""
    if calibration is not None and calibration.recall < floor:
        raise DataError(
            f"{calibration}: what it lets through can't be trusted",
            valid=f"at least {floor:.0%} (curate.judge.min_recall)",
            next_step="judge with a stronger teacher or another template, or lower the floor and say why",
        )


_Change = Callable[[Item, Chunk, Sequence[str], Sequence[Chunk]], tuple[str, Chunk] | None]


def _number(item: Item, chunk: Chunk, answers: Sequence[str], others: Sequence[Chunk]) -> tuple[str, Chunk] | None:
    found = re.search(r"\d+", answer_of(item))
    if found is None:
        return None
    stated = set(words(source_text(chunk)))
    for other in _neighbours(found[0]):
        changed = answer_of(item)[: found.start()] + other + answer_of(item)[found.end() :]
        if not set(words(changed)) <= stated:
            return changed, chunk
    return None


def _neighbours(number: str) -> Iterator[str]:
    """Yield numbers of as many digits, from the first place on another digit."""
    for place in range(len(number)):
        for step in range(1, 10):
            digit = (int(number[place]) + step) % 10
            if place or digit:
                yield f"{number[:place]}{digit}{number[place + 1 :]}"


def _entity(item: Item, chunk: Chunk, answers: Sequence[str], others: Sequence[Chunk]) -> tuple[str, Chunk] | None:
    other = _foreign_answer(item, chunk, answers)
    return None if other is None else (other, chunk)


def _claim(item: Item, chunk: Chunk, answers: Sequence[str], others: Sequence[Chunk]) -> tuple[str, Chunk] | None:
    other = _foreign_answer(item, chunk, answers)
    if other is None:
        return None
    joint = "，以及" if any(map(is_cjk, answer_of(item))) else " and "
    return f"{answer_of(item).rstrip('.。 ')}{joint}{other}", chunk


def _foreign_answer(item: Item, chunk: Chunk, answers: Sequence[str]) -> str | None:
    """Return an answer of another item that the chunk does not hold, as like this one in form as there is."""
    stated, shape = words(source_text(chunk)), _shape(answer_of(item))
    foreign = [answer for answer in answers if not contains_words(stated, words(answer))]
    return min(foreign, key=lambda answer: (_shape(answer) != shape, digest([item.id, answer])), default=None)


def _shape(answer: str) -> str:
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", answer))


def _source(item: Item, chunk: Chunk, answers: Sequence[str], others: Sequence[Chunk]) -> tuple[str, Chunk] | None:
    answer = words(answer_of(item))
    for other in others:
        if other.document_id != chunk.document_id and not contains_words(words(source_text(other)), answer):
            return answer_of(item), other
    return None


_CHANGES: Mapping[str, _Change] = {"number": _number, "entity": _entity, "claim": _claim, "source": _source}
