"""`duplicate@1`: of items that say the same, one is kept. `conflict@1`: of answers to one question, the prevailing one.

Both look at all items at once and depend on nothing but the items: not on the order in which the teacher answered.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from data_catalog.records import Item, Kind, Verdict
from data_catalog.text import answer_words, contains_words, normalise_answer
from generators.filters.base import answer_of, failed, passed, question_of, text_of

DUPLICATE = "duplicate@1"
CONFLICT = "conflict@1"


def check_duplicates(items: Sequence[Item]) -> list[Verdict]:
    """Return a verdict for each item: the first of those with equal normalised content passes.

    Content is question and answer, or the text; items on different sides of the split are not compared.

    Args:
        items: in a fixed order (that of their requests), which decides what comes first.
    """
    first: dict[tuple[str, ...], str] = {}
    verdicts = []
    for item in items:
        kept = first.setdefault(_content(item), item.id)
        same = kept == item.id
        verdicts.append(passed(item, DUPLICATE) if same else failed(item, DUPLICATE, f"says the same as {kept}"))
    return verdicts


def check_conflicts(items: Sequence[Item], voters: Sequence[Item]) -> list[Verdict]:
    """Return a verdict for each question/answer item: whether its answer is the question's prevailing one.

    Answers agree when they are equal after normalisation or one contains the other. An answer prevails when it has more
    votes, counting those that agree with it, than every answer that it contradicts. Where none does, all fail: at least
    one is wrong, or the question does not say what it is about.

    Args:
        items: the survivors, without duplicates.
        voters: items as they were before duplicates were removed; those with the content of a survivor vote for it.
    """
    votes = Counter(_content(voter) for voter in voters)
    rivals_of: dict[tuple[str, str], list[_Answer]] = defaultdict(list)
    for item in items:
        rivals_of[_question(item)].append(_Answer(item.id, tuple(answer_words(answer_of(item))), votes[_content(item)]))
    faults = {id_: fault for rivals in rivals_of.values() for id_, fault in _faults(rivals).items()}
    return [failed(item, CONFLICT, faults[item.id]) if item.id in faults else passed(item, CONFLICT) for item in items]


@dataclass(frozen=True)
class _Answer:
    item_id: str
    words: tuple[str, ...]
    votes: int

    def agrees(self, other: _Answer) -> bool:
        return (
            self.words == other.words
            or contains_words(self.words, other.words)
            or contains_words(other.words, self.words)
        )


def _faults(rivals: Sequence[_Answer]) -> dict[str, str]:
    """Return why answers to one question fail, by item id; those that prevail are missing."""
    if len(rivals) == 1:
        return {}
    support = {rival.item_id: sum(other.votes for other in rivals if rival.agrees(other)) for rival in rivals}
    faults = {}
    for rival in rivals:
        against = [other for other in rivals if not rival.agrees(other)]
        if any(support[other.item_id] >= support[rival.item_id] for other in against):
            faults[rival.item_id] = f"contradicted by {' '.join(against[0].words)!r}"
    return faults


def _question(item: Item) -> tuple[str, str]:
    return item.split.value, normalise_answer(question_of(item))


def _content(item: Item) -> tuple[str, ...]:
    if item.kind is Kind.TEXT:
        return (item.split.value, normalise_answer(text_of(item)))
    return (*_question(item), normalise_answer(answer_of(item)))
