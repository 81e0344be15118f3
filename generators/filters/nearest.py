"""Which chunks are lexically nearest to a question: BM25 over words, no index to keep."""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from data_catalog.records import Chunk
from data_catalog.text import ARTICLES, words

K1 = 1.2
B = 0.75


class NearestChunks:
    """Ranks chunks by BM25 (Robertson and Zaragoza 2009, section 3.5).

    score(q, d) = sum over words w of q of idf(w) · tf (k1 + 1) / (tf + k1 (1 - b + b |d| / mean |d|)), with
    idf(w) = ln(1 + (N - n + 0.5) / (n + 0.5)), k1 = 1.2, b = 0.75. A chunk's heading counts as part of it.
    """

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = list(chunks)
        counts = [Counter(words(f"{chunk.heading} {chunk.text}")) for chunk in self._chunks]
        self._lengths = [count.total() for count in counts]
        self._mean = (sum(self._lengths) / len(self._lengths) if self._lengths else 0.0) or 1.0
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for position, count in enumerate(counts):
            for word, frequency in count.items():
                self._postings[word].append((position, frequency))

    def of(self, question: str, k: int, *, outside: str | None) -> list[Chunk]:
        """Return at most `k` chunks that share a word with the question, nearest first.

        None is of the document `outside`. Equal scores are ordered by chunk id.
        """
        scores: dict[int, float] = defaultdict(float)
        total = len(self._chunks)
        for word in set(words(question)) - ARTICLES:
            postings = self._postings.get(word, [])
            idf = math.log(1 + (total - len(postings) + 0.5) / (len(postings) + 0.5))
            for position, frequency in postings:
                damping = K1 * (1 - B + B * self._lengths[position] / self._mean)
                scores[position] += idf * frequency * (K1 + 1) / (frequency + damping)
        allowed = (position for position in scores if self._chunks[position].document_id != outside)
        best = heapq.nsmallest(k, allowed, key=lambda position: (-scores[position], self._chunks[position].id))
        return [self._chunks[position] for position in best]
