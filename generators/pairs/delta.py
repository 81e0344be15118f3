"""A stronger model's answer over a weaker one's to the same prompt, without a judge.

What is learned is the difference: it may help even where the student is better than both (Delta learning, arXiv
2507.06187). Questions that the documents leave open are left out, as there both should say the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from data_catalog.records import Item, Verdict
from generators.filters.base import failed, passed
from generators.pairs.base import Candidate, Sampled, as_item, differ, pair

NAME = "delta@1"
DIFFER = "differ@1"
"""The check that the two models did not say the same."""


def candidates(stronger: Iterable[Sampled], weaker: Iterable[Sampled]) -> list[Candidate]:
    """Return a pair for each question that both answered, with the verdict whether they said different things.

    The first whole answer of each counts.
    """
    chosen, rejected = _first(stronger), _first(weaker)
    found = []
    for text, ours in chosen.items():
        theirs = rejected.get(text)
        if theirs is None:
            continue
        item = pair(
            NAME,
            ours.question,
            chosen=ours.text,
            rejected=theirs.text,
            keys=[ours.request.key, theirs.request.key],
            meta={"answered_by": {"chosen": ours.who, "rejected": theirs.who}},
        )
        single = as_item(ours.question, ours.text, NAME, [ours.request.key])
        found.append(Candidate(item, single, (_differ(item, ours, theirs),)))
    return found


def _first(sampled: Iterable[Sampled]) -> dict[str, Sampled]:
    found: dict[str, Sampled] = {}
    for sample in sampled:
        if sample.text:
            found.setdefault(sample.question.text, sample)
    return found


def _differ(item: Item, ours: Sampled, theirs: Sampled) -> Verdict:
    if differ(ours.text, theirs.text):
        return passed(item, DIFFER)
    return failed(item, DIFFER, "both models say the same")
