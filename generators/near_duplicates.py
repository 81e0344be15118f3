"""Pairs of texts that share most of their phrases: MinHash to find candidates, exact Jaccard to decide.

A text is the set of its runs of `SHINGLE` words (a Chinese character is a word; a shorter text is one run). Two texts
are near-duplicates from a Jaccard similarity |A and B| / |A or B| on. Candidates come from `BANDS` bands of `ROWS`
MinHash values (Broder 1997; banding as in Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4): two
texts of similarity s share a band with probability 1 - (1 - s^ROWS)^BANDS, 99.8 % at 0.8 and 93 % at 0.7. Every
candidate is then compared exactly, so nothing that is reported is below the threshold.

Everything is done for all texts at once in NumPy; time and memory grow linearly with the number of shingles, but for
groups of texts that are all alike, where each is compared with the first of its group and its neighbour only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

SHINGLE = 5
BANDS = 21
ROWS = 6
_SEED = 20260101
_BLOCK = 1 << 20
"""Shingles hashed at a time: 8 MiB, which stays near the processor."""

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class NearPair:
    """Two near-duplicates by their places, the earlier one first, and their Jaccard similarity."""

    first: int
    second: int
    similarity: float


def near_duplicates(texts: Iterable[Sequence[str]], threshold: float) -> list[NearPair]:
    """Return pairs of texts (each a list of words) whose similarity is at least `threshold`, in order of their places.

    Of a group of texts that are all alike, each is paired with the first of the group at least. Texts without words
    are like nothing.

    Args:
        texts: each as its words.
        threshold: Jaccard similarity in (0, 1]; far below 0.5 most pairs are missed.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold} is not in (0, 1]")
    hashes, starts = _shingles(texts)
    filled = np.flatnonzero(np.diff(starts))
    signatures = _signatures(hashes, starts, filled)
    pairs = []
    for first, second in sorted(_candidates(signatures)):
        one, other = int(filled[first]), int(filled[second])
        similarity = _jaccard(hashes[starts[one] : starts[one + 1]], hashes[starts[other] : starts[other + 1]])
        if similarity >= threshold:
            pairs.append(NearPair(one, other, similarity))
    return pairs


def _shingles(texts: Iterable[Sequence[str]]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Return the distinct shingles of all texts one after another, each text's sorted, and where each text starts."""
    known: dict[str, int] = {}
    ids: list[int] = []
    lengths = []
    for text in texts:
        for word in text:
            if word not in known:
                known[word] = len(known)
            ids.append(known[word])
        lengths.append(len(text))
    table = np.fromiter((_hash(word) for word in known), np.uint64, len(known))
    words = table[np.asarray(ids, np.int64)] if ids else np.empty(0, np.uint64)
    return _distinct(*_runs(words, np.asarray(lengths, np.int64)))


def _hash(word: str) -> int:
    # Not Python's own, which differs from process to process.
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _runs(words: Hashes, lengths: npt.NDArray[np.int64]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Return the hash of every run of `SHINGLE` words, and the text that it belongs to."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    ends = np.cumsum(lengths)[owner] if len(owner) else owner
    runs = np.zeros_like(words)
    for offset, factor in enumerate(_odd_numbers(SHINGLE)):
        shifted = words[offset:] * factor
        inside = np.arange(len(shifted)) + offset < ends[: len(shifted)]
        runs[: len(shifted)] += np.where(inside, shifted, np.uint64(0))
    # Runs that reach over the end are cut there: kept only for texts that are shorter than a run.
    whole = np.arange(len(words)) + SHINGLE <= ends
    whole |= (lengths[owner] < SHINGLE) & (np.arange(len(words)) == ends - lengths[owner])
    return _mixed(runs[whole]), owner[whole]


def _mixed(values: Hashes) -> Hashes:
    """Return values whose bits all depend on all bits (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _distinct(runs: Hashes, owner: npt.NDArray[np.int64]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    texts = int(owner[-1]) + 1 if len(owner) else 0
    order = np.lexsort((runs, owner))
    runs, owner = runs[order], owner[order]
    fresh = np.ones(len(runs), bool)
    fresh[1:] = (runs[1:] != runs[:-1]) | (owner[1:] != owner[:-1])
    runs, owner = runs[fresh], owner[fresh]
    return runs, np.searchsorted(owner, np.arange(texts + 1))


def _odd_numbers(count: int) -> Hashes:
    random = np.random.default_rng(_SEED)
    return random.integers(0, 1 << 63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _signatures(hashes: Hashes, starts: npt.NDArray[np.int64], filled: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Return the MinHash values, shape (BANDS * ROWS, texts that have shingles).

    h_k(x) is the upper half of x times an odd number: multiply-shift hashing (Dietzfelbinger et al. 1997).
    """
    factors = _odd_numbers(SHINGLE + BANDS * ROWS)[SHINGLE:]
    signatures = np.empty((len(factors), len(filled)), np.uint32)
    place = 0
    while place < len(filled):
        last = int(np.searchsorted(starts[filled], starts[filled[place]] + _BLOCK, side="right"))
        last = max(last, place + 1)
        chosen = filled[place:last]
        low, high = starts[chosen[0]], starts[chosen[-1] + 1]
        block, at = hashes[low:high], starts[chosen] - low
        for row, factor in enumerate(factors):
            upper = ((block * factor) >> np.uint64(32)).astype(np.uint32)
            signatures[row, place:last] = np.minimum.reduceat(upper, at)
        place = last
    return signatures


def _candidates(signatures: npt.NDArray[np.uint32]) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    factors = _odd_numbers(ROWS)
    for band in range(BANDS):
        rows = signatures[band * ROWS : (band + 1) * ROWS].astype(np.uint64)
        keys = _mixed((rows * factors[:, None]).sum(axis=0, dtype=np.uint64))
        order = np.argsort(keys, kind="stable")
        found.update(_alike(keys[order], order))
    return found


def _alike(keys: Hashes, order: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield each text of a group of equal keys with the group's first and with the one before it."""
    same = np.flatnonzero(keys[1:] == keys[:-1]) + 1
    new_group = np.ones(len(keys), bool)
    new_group[1:] = keys[1:] != keys[:-1]
    first_of = np.maximum.accumulate(np.where(new_group, np.arange(len(keys)), 0))
    for place in same.tolist():
        second = int(order[place])
        yield int(order[first_of[place]]), second
        yield int(order[place - 1]), second


def _jaccard(one: Hashes, other: Hashes) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)
