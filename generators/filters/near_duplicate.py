"""`near_duplicate@1`: of items that say almost the same, the first is kept.

What differs in a number or a name says something else, however much it looks alike: "The X 40 weighs 312 kg" and "The
X 41 weighs 312 kg" are two facts.
"""

from __future__ import annotations

from collections.abc import Sequence

from data_catalog.records import Item, Verdict
from data_catalog.text import words
from generators.filters.base import answer_of, failed, passed, question_of, text_of
from generators.names import names, numbers
from generators.near_duplicates import near_duplicates

CHECK = "near_duplicate@1"


def check(items: Sequence[Item], threshold: float) -> list[Verdict]:
    """Return a verdict for each item: failed where an earlier one that passed is at least so similar.

    Similarity is the Jaccard similarity of five-word runs of question and answer, or of the text; only items of one
    kind and one side of the split are compared.

    Args:
        items: in a fixed order, which decides what comes first.
        threshold: in (0, 1].
    """
    contents = [f"{question_of(item)}\n{answer_of(item)}" if question_of(item) else text_of(item) for item in items]
    alike: dict[int, list[tuple[int, float]]] = {}
    for pair in near_duplicates(map(words, contents), threshold):
        alike.setdefault(pair.second, []).append((pair.first, pair.similarity))
    rejected: set[int] = set()
    verdicts = []
    for place, item in enumerate(items):
        same = [
            (first, similarity)
            for first, similarity in alike.get(place, ())
            if first not in rejected
            and (items[first].kind, items[first].split) == (item.kind, item.split)
            and _facts(contents[first]) == _facts(contents[place])
        ]
        if same:
            first, similarity = same[0]
            rejected.add(place)
            reason = f"{similarity:.0%} the same as {items[first].id}"
            verdicts.append(failed(item, CHECK, reason, score=similarity))
        else:
            verdicts.append(passed(item, CHECK))
    return verdicts


def _facts(content: str) -> tuple[frozenset[str], frozenset[str]]:
    return frozenset(numbers(content)), frozenset(names(content))
