"""`semantic_duplicate@1`: of questions and answers that mean the same in other words, the first is kept.

Texts for continued pretraining are left alone: there, other words for the same facts are what is wanted. As with
near-duplicates, what differs in a number or a name says something else, however alike the vectors are.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from data_catalog.records import Item, Kind, Verdict
from generators.embeddings import Alike, Embedder, Source, alike
from generators.filters.base import exchanges_of, failed, origin_of, passed, unscored
from generators.names import Facts, facts

CHECK = "semantic_duplicate@1"


def check(items: Sequence[Item], embedder: Embedder, threshold: float) -> list[Verdict]:
    """Return a verdict for each conversation: failed where an earlier one that passed means the same.

    Only items of one kind and one side of the split, with the same numbers and names, are compared; who has no such
    company passes without a vector being asked for.

    Args:
        items: in a fixed order, which decides what comes first; those of text are left out.
        embedder: gives the vectors.
        threshold: cosine similarity in (0, 1].
    """
    items = [item for item in items if item.kind is Kind.MESSAGES]
    groups: dict[Hashable, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault((item.split, _facts(item)), []).append(place)
    in_company = [places for places in groups.values() if len(places) > 1]
    asked = sorted(place for places in in_company for place in places)
    embedded = embedder.embed([Source(spoken(items[place]), origin_of(items[place])) for place in asked])
    row_of = {place: row for row, place in enumerate(asked)}
    found: dict[int, Alike] = {}
    for places in in_company:
        rows = [row_of[place] for place in places]
        known = [place for place, row in zip(places, rows, strict=True) if row not in embedded.missing]
        for pair in alike(embedded.vectors[[row_of[place] for place in known]], threshold):
            found[known[pair.place]] = Alike(known[pair.place], known[pair.first], pair.cosine)
    verdicts = []
    for place, item in enumerate(items):
        row = row_of.get(place)
        keys = embedded.keys[row] if row is not None else ()
        if row in embedded.missing:
            verdicts.append(unscored(item, CHECK, "the embedder gave no vector", keys=keys))
        elif place in found:
            pair = found[place]
            reason = f"means the same as {items[pair.first].id} (cosine {pair.cosine:.3f})"
            verdicts.append(failed(item, CHECK, reason, score=pair.cosine, keys=keys))
        else:
            verdicts.append(passed(item, CHECK, keys=keys))
    return verdicts


def spoken(item: Item) -> str:
    """Return a conversation's questions and answers as one text."""
    return "\n".join(f"{exchange.question}\n{exchange.said}" for exchange in exchanges_of(item))


def _facts(item: Item) -> Facts:
    exchanges = exchanges_of(item)
    return facts(*(one.question for one in exchanges), answers=[one.said for one in exchanges])
