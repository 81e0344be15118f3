"""`repetition@1`: an answer or text does not turn in circles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from data_catalog.records import Item, Verdict
from data_catalog.text import words
from generators.filters.base import answer_of, failed, passed, text_of

CHECK = "repetition@1"
LONGEST_UNIT = 12
"""Words of the longest phrase whose immediate repetition is looked for."""
TIMES = 4
"""So many times in direct succession a phrase is a loop; of one word, or a number, twice as many."""
NGRAM = 10
MAX_SHARE = 0.10
"""Largest share of words in repeated runs of ten, for texts of a hundred words (MassiveText, arXiv 2112.11446, A1)."""
MIN_WORDS = 100


def check(item: Item) -> Verdict:
    """Return whether an item's answer or text is free of loops and of passages that come again and again."""
    found = words(answer_of(item) or text_of(item))
    loop = _loop(found)
    if loop:
        return failed(item, CHECK, f"repeats {' '.join(loop)!r}")
    share = _repeated_share(found) if len(found) >= MIN_WORDS else 0.0
    if share > MAX_SHARE:
        return failed(item, CHECK, f"{share:.0%} of its words stand in passages that come again", score=share)
    return passed(item, CHECK)


def _loop(found: Sequence[str]) -> Sequence[str]:
    """Return the first phrase that is repeated too often in direct succession, or nothing."""
    for length in range(1, LONGEST_UNIT + 1):
        needed = length * ((2 * TIMES if length == 1 else TIMES) - 1)
        run = 0  # so many words in a row equal the word `length` places before
        for place in range(length, len(found)):
            run = run + 1 if found[place] == found[place - length] else 0
            if run == needed:
                start = place - run - length + 1
                return found[start : start + length]
    return ()


def _repeated_share(found: Sequence[str]) -> float:
    """Return the share of words that stand in a run of `NGRAM` words which occurs more than once."""
    runs = [tuple(found[start : start + NGRAM]) for start in range(len(found) - NGRAM + 1)]
    counts = Counter(runs)
    covered: set[int] = set()
    for start, run in enumerate(runs):
        if counts[run] > 1:
            covered.update(range(start, start + NGRAM))
    return len(covered) / len(found)
