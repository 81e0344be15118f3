"""`document`: the chunks themselves, as text for continued pretraining. Nobody is asked."""

from __future__ import annotations

from collections.abc import Sequence

from data_catalog.records import Chunk, Document, Item, Kind, Split
from generators.prompts import neutralise

NAME = "document"
LABEL = "document@1"


def document_text_items(documents: Sequence[Document], chunks: Sequence[Chunk]) -> list[Item]:
    """Return one text item for each chunk, under its headings in Markdown, so that "it" has a name.

    The items of all chunks are on the training side, those of the evaluation split too: their text may be read, only
    the questions about them are held out. The evaluation then asks for what was read and never rehearsed.
    """
    order = {document.id: position for position, document in enumerate(documents)}
    known = sorted(
        (chunk for chunk in chunks if chunk.document_id in order),
        key=lambda chunk: (order[chunk.document_id], chunk.start),
    )
    return [_item(chunk) for chunk in known]


def _item(chunk: Chunk) -> Item:
    safe = neutralise("\n\n".join([*headings_as_markdown(chunk.heading_path), chunk.text]))
    return Item.of(
        kind=Kind.TEXT,
        payload={"text": safe.text},
        recipe=NAME,
        split=Split.TRAIN,
        chunk_id=chunk.id,
        document_id=chunk.document_id,
        meta={"version": LABEL, "neutralised": safe.count},
    )


def headings_as_markdown(heading_path: tuple[str, ...]) -> list[str]:
    """Return `# A`, `## B` ... for a heading path; Markdown has six levels."""
    return [f"{'#' * min(level, 6)} {title}" for level, title in enumerate(heading_path, start=1)]
