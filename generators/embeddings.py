"""Texts as vectors: how they are asked for, kept and put together, and which of them point the same way.

Vectors come from an endpoint (`POST /v1/embeddings`), because the other models of a project are endpoints too: nothing
is loaded here, and an answer is kept in the catalogue like any other, so that no text is sent twice. What is kept is
the unit vector in half precision: 2.7 kB at 1,024 numbers, and cosines that are right to about three digits.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from data_catalog.errors import TeacherError
from data_catalog.records import Completion, Message, Request, Sampling

BATCH_TEXTS = 8192
"""Texts asked for at a time: their answers are held as text no longer than that."""
ROWS = 1024
COLUMNS = 8192
"""Cosines worked out at a time: 32 MiB in single precision, however many vectors there are."""

Vectors = npt.NDArray[np.float32]
Ask = Callable[[Sequence[Request]], Mapping[str, Completion]]
"""Answers requests, each once and for ever; returns completions by request key."""


class BadVector(ValueError):
    """What an endpoint sent is no vector that can be compared."""


def vector_text(sent: object) -> str:
    """Return a vector as it is kept: base64 of the unit vector's float16 numbers, little-endian.

    Args:
        sent: a list of numbers, or base64 of float32 numbers, as the API has both.

    Raises:
        BadVector: it is neither, has no numbers, holds NaN or infinity, or is all zeros.
    """
    try:
        if isinstance(sent, str):
            vector = np.frombuffer(base64.b64decode(sent, validate=True), "<f4").astype(np.float64)
        else:
            vector = np.asarray(sent, np.float64)
    except (binascii.Error, ValueError, TypeError) as error:
        raise BadVector("is neither a list of numbers nor base64 of some") from error
    if vector.ndim != 1 or not vector.size:
        raise BadVector(f"is no list of numbers (shape {vector.shape})")
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0:
        raise BadVector("holds numbers that are not finite" if length else "is all zeros")
    return base64.b64encode((vector / length).astype("<f2").tobytes()).decode("ascii")


def kept_vector(text: str) -> npt.NDArray[np.float16]:
    """Return the vector that `vector_text` has kept."""
    return np.frombuffer(base64.b64decode(text), "<f2")


@dataclass(frozen=True)
class Source:
    """A text that is turned into a vector, and where it comes from (`Request.origin`)."""

    text: str
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Embedded:
    """The vectors of some texts, in their order."""

    vectors: Vectors
    """Unit vectors, shape (texts, numbers); all zeros where there is none."""
    keys: Sequence[tuple[str, ...]]
    """The requests behind each."""
    missing: frozenset[int]
    """Places of the texts that have no vector, because the endpoint did not answer."""

    def split(self, count: int) -> tuple[Embedded, Embedded]:
        """Return the first `count` texts, and the others."""
        first = frozenset(place for place in self.missing if place < count)
        rest = frozenset(place - count for place in self.missing - first)
        return (
            Embedded(self.vectors[:count], self.keys[:count], first),
            Embedded(self.vectors[count:], self.keys[count:], rest),
        )


class Embedder:
    """Asks an endpoint for vectors, each once.

    A text longer than `max_chars` is cut into equal pieces, and its vector is the mean of theirs.

    Args:
        ask: how the endpoint is asked.
        model: its fingerprint; part of each request's key.
        purpose: what the requests are for, in lists of requests.
        prefix: what stands before every text, where the model was trained with it (`query: ` for E5).
        max_chars: longest piece, in characters.
    """

    def __init__(
        self, ask: Ask, model: str, *, purpose: str = "embedding@1", prefix: str = "", max_chars: int = 2000
    ) -> None:
        self._ask = ask
        self._model = model
        self._purpose = purpose
        self._prefix = prefix
        self._max_chars = max_chars
        self._known: dict[str, npt.NDArray[np.float16]] = {}

    def embed(self, sources: Sequence[Source]) -> Embedded:
        """Return the vectors of texts.

        Raises:
            TeacherError: the endpoint gives vectors of different lengths.
        """
        requests = [[self._request(piece, source.origin) for piece in self._pieces(source.text)] for source in sources]
        for start in range(0, len(sources), BATCH_TEXTS):
            asked = [request for group in requests[start : start + BATCH_TEXTS] for request in group]
            if unknown := [request for request in asked if request.key not in self._known]:
                answers = self._ask(unknown)
                self._known |= {key: kept_vector(answer.text) for key, answer in answers.items()}
        keys = [tuple(request.key for request in group) for group in requests]
        return self._put_together(keys)

    def _put_together(self, keys: Sequence[tuple[str, ...]]) -> Embedded:
        widths = {len(self._known[key]) for group in keys for key in group if key in self._known}
        if len(widths) > 1:
            lengths = " and ".join(f"{width:,}" for width in sorted(widths))
            raise TeacherError(
                f"the embedder gave vectors of {lengths} numbers, which can't be compared",
                valid="one model behind one name",
                next_step="another model needs another name in embedder.model, by which its vectors are kept",
            )
        vectors = np.zeros((len(keys), max(widths, default=1)), np.float32)
        missing = set()
        for place, group in enumerate(keys):
            parts = [self._known[key] for key in group if key in self._known]
            if len(parts) < len(group):
                missing.add(place)
                continue
            for part in parts:
                vectors[place] += part
            vectors[place] /= max(float(np.linalg.norm(vectors[place])), 1e-12)
        return Embedded(vectors, keys, frozenset(missing))

    def _pieces(self, text: str) -> list[str]:
        count = max(1, -(-len(text) // self._max_chars))
        size = -(-len(text) // count)
        return [text[start : start + size] for start in range(0, len(text), size)] if size else [text]

    def _request(self, piece: str, origin: Mapping[str, Any]) -> Request:
        return Request(
            model=self._model,
            messages=(Message(role="user", content=self._prefix + piece),),
            sampling=Sampling(max_tokens=0),
            purpose=self._purpose,
            origin=origin,
        )


@dataclass(frozen=True)
class Alike:
    """A vector and an earlier one that points the same way, by their places."""

    place: int
    first: int
    cosine: float


def alike(vectors: Vectors, threshold: float) -> list[Alike]:
    """Return the vectors that are like an earlier one which is not itself like an earlier one, with the first such.

    This is greedy: what is kept is pairwise below the threshold. The work is n²/2 products of vectors, in blocks of
    `ROWS` x `COLUMNS`, so that memory does not grow with n.

    Args:
        vectors: unit vectors, shape (n, numbers).
        threshold: least cosine similarity of two that are alike.
    """
    kept = np.ones(len(vectors), bool)
    found: list[Alike] = []
    for start in range(0, len(vectors), ROWS):
        block = vectors[start : start + ROWS]
        first = np.full(len(block), -1)
        cosine = np.zeros(len(block), np.float32)
        for low in range(0, start, COLUMNS):
            high = min(low + COLUMNS, start)
            cosines = block @ vectors[low:high].T
            hits = (cosines >= threshold) & kept[low:high]
            fresh = (first < 0) & hits.any(axis=1)
            at = hits.argmax(axis=1)
            first[fresh] = low + at[fresh]
            cosine[fresh] = cosines[fresh, at[fresh]]
        inside = block @ block.T
        close = np.tril(inside >= threshold, -1)
        for row in np.flatnonzero((first < 0) & close.any(axis=1)).tolist():
            # In order: whether an earlier one of the block is kept is known by now.
            candidates = np.flatnonzero(close[row] & kept[start : start + len(block)] & (first < 0))
            if len(candidates):
                first[row], cosine[row] = start + candidates[0], inside[row, candidates[0]]
        for row in np.flatnonzero(first >= 0).tolist():
            kept[start + row] = False
            found.append(Alike(start + row, int(first[row]), float(cosine[row])))
    return found


def likest(queries: Vectors, references: Vectors, threshold: float) -> Iterator[tuple[int, list[tuple[int, float]]]]:
    """Yield each query that is like a reference, with all that it is like: (place, cosine), the likest first.

    Args:
        queries: unit vectors, shape (n, numbers).
        references: unit vectors, shape (m, numbers).
        threshold: least cosine similarity of two that are alike.
    """
    if not len(references):
        return
    rows = max(1, ROWS * COLUMNS // len(references))
    for start in range(0, len(queries), rows):
        cosines = queries[start : start + rows] @ references.T
        for row in np.flatnonzero((cosines >= threshold).any(axis=1)).tolist():
            places = np.flatnonzero(cosines[row] >= threshold)
            ordered = places[np.argsort(-cosines[row, places], kind="stable")]
            yield start + row, [(int(place), float(cosines[row, place])) for place in ordered]
