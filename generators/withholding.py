"""Chunks with personal data or secrets are taken out before anyone is asked about them or trained on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from data_catalog.records import Chunk, Document
from generators.sensitive import Sensitive, find_sensitive


@dataclass(frozen=True)
class Open:
    """What may be shown and learned."""

    documents: tuple[Document, ...]
    """All documents; a withheld chunk's characters are spaces in their text, so that every offset still holds."""
    chunks: tuple[Chunk, ...]
    withheld: int = 0
    """Chunks that were taken out."""
    kinds: Mapping[Sensitive, int] = field(default_factory=dict)
    """Chunks that hold each kind."""


def withhold(documents: Sequence[Document], chunks: Sequence[Chunk], kinds: Collection[Sensitive]) -> Open:
    """Return documents and chunks without the chunks that hold one of `kinds`."""
    counts: Counter[Sensitive] = Counter()
    hidden: dict[str, list[Chunk]] = {}
    left = []
    for chunk in chunks:
        found = find_sensitive("\n".join((*chunk.heading_path, chunk.text)), kinds)
        counts.update(found)
        if found:
            hidden.setdefault(chunk.document_id, []).append(chunk)
        else:
            left.append(chunk)
    shown = tuple(_blanked(document, hidden.get(document.id, ())) for document in documents)
    return Open(shown, tuple(left), len(chunks) - len(left), dict(counts))


def _blanked(document: Document, hidden: Sequence[Chunk]) -> Document:
    text = document.text
    for chunk in hidden:
        text = text[: chunk.start] + " " * (chunk.end - chunk.start) + text[chunk.end :]
    return document.model_copy(update={"text": text}) if hidden else document
