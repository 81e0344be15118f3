"""`semantic_contamination@1`: no training question asks, in other words, what an evaluation question asks."""

from __future__ import annotations

from collections.abc import Sequence

from data_catalog.records import Item, Kind, Split, Verdict
from generators.embeddings import Embedder, Source, likest
from generators.filters.base import exchanges_of, failed, origin_of, passed, unscored
from generators.names import Facts, facts

CHECK = "semantic_contamination@1"


def check(items: Sequence[Item], questions: Sequence[str], embedder: Embedder, threshold: float) -> list[Verdict]:
    """Return a verdict for each conversation of the training side: failed where it asks what a suite asks.

    A question about another thing is none of them, however alike it sounds: the numbers and names of one must be among
    those of the other ("the X 40" and "the X", not "the X 40" and "the X 41").

    Args:
        items: any; those of text and of the evaluation side are left out.
        questions: of the suites.
        embedder: gives the vectors.
        threshold: cosine similarity in (0, 1].
    """
    items = [item for item in items if item.kind is Kind.MESSAGES and item.split is Split.TRAIN]
    suites = sorted({question for question in questions if question.strip()})
    if not items or not suites:
        return [passed(item, CHECK) for item in items]
    asked = [(place, exchange.question) for place, item in enumerate(items) for exchange in exchanges_of(item)]
    sources = [Source(question, origin_of(items[place])) for place, question in asked]
    embedded = embedder.embed([*map(Source, suites), *sources])
    theirs, ours = embedded.split(len(suites))
    facts_of = [facts(question) for question in suites]
    faults: dict[int, tuple[str, float]] = {}
    for row, near in likest(ours.vectors, theirs.vectors, threshold):
        place, question = asked[row]
        mine = facts(question)
        same = next(((which, cosine) for which, cosine in near if _agree(mine, facts_of[which])), None)
        if same is not None:
            faults.setdefault(place, (f"asks what an evaluation question asks: {suites[same[0]]}", same[1]))
    rows_of: dict[int, list[int]] = {}
    for row, (place, _) in enumerate(asked):
        rows_of.setdefault(place, []).append(row)
    verdicts = []
    for place, item in enumerate(items):
        rows = rows_of.get(place, ())
        keys = [key for row in rows for key in ours.keys[row]]
        if place in faults:
            reason, cosine = faults[place]
            verdicts.append(failed(item, CHECK, f"{reason} (cosine {cosine:.3f})", score=cosine, keys=keys))
        elif not ours.missing.isdisjoint(rows):
            verdicts.append(unscored(item, CHECK, "the embedder gave no vector", keys=keys))
        elif theirs.missing:
            reason = f"the embedder gave no vector of {len(theirs.missing):,} evaluation questions"
            verdicts.append(unscored(item, CHECK, reason, keys=keys))
        else:
            verdicts.append(passed(item, CHECK, keys=keys))
    return verdicts


def _agree(mine: Facts, theirs: Facts) -> bool:
    pairs = zip(mine, theirs, strict=True)
    return all(one <= other or other <= one for one, other in pairs)
