"""`novel@1`: a task is none of the seeds that its prompt showed, in almost the same words."""

from __future__ import annotations

from collections.abc import Sequence

from data_catalog.records import Item, Verdict
from data_catalog.text import words
from generators.filters.base import failed, passed, question_of

CHECK = "novel@1"
MAX_ROUGE_L = 0.7
"""From this ROUGE-L on a task is one of the seeds (Self-Instruct, arXiv 2212.10560, section 2.2)."""


def check(item: Item) -> Verdict:
    """Return whether the item's task is new beside the seeds in `meta["seeds"]`; the score is the greatest ROUGE-L."""
    task = words(question_of(item))
    score = max((rouge_l(task, words(seed)) for seed in item.meta.get("seeds", ())), default=0.0)
    if score >= MAX_ROUGE_L:
        return failed(item, CHECK, f"ROUGE-L {score:.2f} with a seed of its prompt", score=score)
    return passed(item, CHECK, score=score)


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """Return ROUGE-L, F = 2 LCS / (m + n) over words, in [0, 1] (Lin 2004, section 3, with beta = 1)."""
    if not one or not other:
        return 0.0
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for place, theirs in enumerate(other, start=1):
            diagonal, row[place] = row[place], diagonal + 1 if word == theirs else max(row[place], row[place - 1])
    return 2 * row[-1] / (len(one) + len(other))
