"""Which chunks speak of the same thing: pairs that share a name, for questions that need both."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from data_catalog.records import Chunk
from data_catalog.text import words
from generators.names import names
from generators.sentences import sentences

PARTNERS = 2
"""Pairs per chunk at most."""
MAX_CHUNKS = 20
"""A name in more chunks than this tells nothing: it is everywhere."""


@dataclass(frozen=True)
class Link:
    """Two chunks, in the order in which they were given, and the names that both have."""

    first: Chunk
    second: Chunk
    names: tuple[str, ...]


def linked_chunks(chunks: Sequence[Chunk]) -> list[Link]:
    """Return pairs of chunks that share a name, each pair once, in the order of `chunks`.

    Names are capitalised words inside sentences, and the titles of documents wherever they stand, which is what links
    Chinese texts. A pair's weight is the sum of ln(1 + N / n) over the shared names, n of N chunks having the name;
    pairs of different documents come before those of one. Chunks on different sides of the split, and chunks that
    overlap, are no pair.
    """
    spoken = _names_by_chunk(chunks)
    holders: dict[str, list[int]] = defaultdict(list)
    for place, found in enumerate(spoken):
        for name in found:
            holders[name].append(place)
    shared: dict[tuple[int, int], list[str]] = defaultdict(list)
    for name, places in holders.items():
        if 2 <= len(places) <= MAX_CHUNKS:
            for position, first in enumerate(places):
                for second in places[position + 1 :]:
                    shared[first, second].append(name)
    pairs = [pair for pair in shared if _may_meet(chunks[pair[0]], chunks[pair[1]])]

    def merit(pair: tuple[int, int]) -> tuple[bool, float, tuple[int, int]]:
        same = chunks[pair[0]].document_id == chunks[pair[1]].document_id
        weight = math.fsum(math.log(1 + len(chunks) / len(holders[name])) for name in shared[pair])
        return same, -weight, pair

    taken: Counter[int] = Counter()
    chosen = []
    for pair in sorted(pairs, key=merit):
        if all(taken[place] < PARTNERS for place in pair):
            taken.update(pair)
            chosen.append(pair)
    return [
        Link(chunks[first], chunks[second], tuple(sorted(spoken[first][name] for name in shared[first, second])))
        for first, second in sorted(chosen)
    ]


def _names_by_chunk(chunks: Sequence[Chunk]) -> list[dict[str, str]]:
    """Return the names of each chunk: their words, as they are compared, to how they are written."""
    titles = {tuple(words(chunk.heading_path[0])): chunk.heading_path[0] for chunk in chunks if chunk.heading_path}
    titles.pop((), None)
    lengths = sorted({len(title) for title in titles})
    found = []
    for chunk in chunks:
        spoken = [name for span in sentences(chunk.text) for name in names(span.of(chunk.text))]
        by_words = {" ".join(words(name)): name for name in sorted(spoken) if len(name) > 1}
        said = words("\n".join((*chunk.heading_path[:1], chunk.text)))
        for length in lengths:
            runs = {tuple(said[start : start + length]) for start in range(len(said) - length + 1)}
            by_words |= {" ".join(run): titles[run] for run in runs & titles.keys()}
        found.append(by_words)
    return found


def _may_meet(first: Chunk, second: Chunk) -> bool:
    overlap = first.document_id == second.document_id and first.start < second.end and second.start < first.end
    return first.split is second.split and not overlap
