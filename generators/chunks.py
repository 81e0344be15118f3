"""Cutting documents into chunks: by heading, then by block, then by sentence, and by force only as a last resort.

A chunk is a span of its document; its heading path is kept beside it and is not part of its text. Fenced code and
tables stay whole where they fit. Which side of the train/evaluation split a chunk belongs to is a hash of its text, so
that it stays there when the document around it changes, and the same text is on the same side in every document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from data_catalog.identity import digest
from data_catalog.records import Chunk, Document, Split
from generators.markdown import (
    MARKDOWN,
    Block,
    BlockKind,
    blocks,
    front_matter_title,
    list_marker_length,
)
from generators.sentences import Span, sentences
from generators.specs import DocumentsSpec

__all__ = ["Span", "chunk_document", "cut", "prose_sentences", "sentences"]

Counter = Callable[[str], int]
MAX_CHARS_PER_TOKEN = 64
"""Longer text is cut without being counted first: a tokenizer takes very long over megabytes without a space."""
_BODY = (BlockKind.PARAGRAPH, BlockKind.CODE, BlockKind.TABLE)


@dataclass(frozen=True)
class _Section:
    """Body blocks under one heading path."""

    heading_path: tuple[str, ...]
    blocks: tuple[Block, ...]


def chunk_document(
    document: Document, *, max_tokens: int, count_tokens: Counter, evaluation_share: float, overlap: int = 0
) -> list[Chunk]:
    """Cut a document into chunks of at most `max_tokens` tokens, in order.

    Every body character that is not white space is in a chunk, without overlap in exactly one, and
    `document.text[c.start:c.end] == c.text`. Headings, thematic breaks and front matter are no body text. A single
    character that has more than `max_tokens` tokens is a chunk all the same.

    Args:
        document: what is cut.
        max_tokens: longest chunk, as counted by `count_tokens`.
        count_tokens: tokens of a text.
        evaluation_share: expected share of chunks on the evaluation side, 0 to 1.
        overlap: tokens that a chunk may repeat of the end of the one before it, in whole sentences, under the same
            heading and on the same side of the split: what is evaluated must not be trained on. The chunks are cut to
            `max_tokens - overlap`, and it is what they were before that decides the side.
    """
    text = document.text
    chunks = []
    for section in _sections(document):
        pieces = _pieces(text, section.blocks, max_tokens - overlap, count_tokens)
        previous: Chunk | None = None
        for span in _pack(text, pieces, max_tokens - overlap, count_tokens):
            split = split_of(span.of(text), evaluation_share)
            start = span.start
            if overlap and previous is not None and previous.split is split:
                start = _start_with_overlap(text, section, previous.start, span, (overlap, max_tokens), count_tokens)
            previous = Chunk.of(
                document_id=document.id,
                start=start,
                end=span.end,
                heading_path=section.heading_path,
                text=text[start : span.end],
                split=split,
            )
            chunks.append(previous)
    return chunks


def cut(document: Document, spec: DocumentsSpec, count_tokens: Counter) -> list[Chunk]:
    """Cut a document as the configuration says."""
    return chunk_document(
        document,
        max_tokens=spec.chunk_tokens,
        overlap=spec.chunk_overlap,
        count_tokens=count_tokens,
        evaluation_share=spec.evaluation_share,
    )


def split_of(text: str, evaluation_share: float) -> Split:
    """Return the side of the split that a text belongs to: its hash as a number in [0, 1) against the share."""
    position = int(digest({"split": text})[:13], 16) / 16**13
    return Split.EVALUATION if position < evaluation_share else Split.TRAIN


def prose_sentences(document: Document) -> list[Span]:
    """Return the sentences of a document's paragraphs, without list markers; headings, code and tables have none."""
    text = document.text
    found = []
    for block in blocks(text, document.media_type):
        if block.kind is not BlockKind.PARAGRAPH:
            continue
        for span in sentences(text[block.start : block.end]):
            start, end = block.start + span.start, block.start + span.end
            start += list_marker_length(text[start:end])
            if start < end:
                found.append(Span(start, end))
    return found


def _sections(document: Document) -> Iterator[_Section]:
    # The title in the front matter is the document's own; one taken from the file name says too little to anchor text.
    root = front_matter_title(document.text) if document.media_type == MARKDOWN else ""
    open_headings: list[Block] = []
    for is_body, group in groupby(_without_front_matter(document), key=lambda block: block.kind in _BODY):
        if is_body:
            titles = [heading.title for heading in open_headings if heading.title]
            if root and root not in titles[:1]:
                titles.insert(0, root)
            yield _Section(tuple(titles), tuple(group))
            continue
        for heading in (block for block in group if block.kind is BlockKind.HEADING):
            open_headings = [above for above in open_headings if above.level < heading.level]
            open_headings.append(heading)


def _start_with_overlap(
    text: str, section: _Section, earliest: int, span: Span, limits: tuple[int, int], count_tokens: Counter
) -> int:
    """Return where a chunk starts with the whole sentences, tables and code before it that fit in.

    `limits` are the most tokens of what is repeated and of the chunk with it.
    """
    overlap, max_tokens = limits
    start = span.start
    for unit in reversed(_units(text, section, earliest, span.start)):
        repeated, whole = Span(unit.start, span.start), Span(unit.start, span.end)
        if len(repeated.of(text)) > overlap * MAX_CHARS_PER_TOKEN or count_tokens(repeated.of(text)) > overlap:
            break
        if count_tokens(whole.of(text)) > max_tokens:
            break
        start = unit.start
    return start


def _units(text: str, section: _Section, first: int, end: int) -> list[Span]:
    """Return the sentences, tables and pieces of code between two places that lie there as a whole, up to a gap."""
    units: list[Span] = []
    for block in section.blocks:
        if block.end <= first or block.start >= end:
            continue
        whole = Span(block.start, block.end)
        units += _sentences_of(text, whole) if block.kind is BlockKind.PARAGRAPH else [whole]
    behind = [unit for unit in units if unit.start < end]
    if behind and behind[-1].end > end:
        return []  # cut by force: what would be repeated is half a sentence
    return [unit for unit in behind if unit.start >= first]


def _without_front_matter(document: Document) -> list[Block]:
    skipped = (BlockKind.FRONT_MATTER, BlockKind.RULE)
    return [block for block in blocks(document.text, document.media_type) if block.kind not in skipped]


def _pieces(text: str, body: Sequence[Block], max_tokens: int, count_tokens: Counter) -> Iterator[tuple[Span, int]]:
    """Yield spans of at most `max_tokens` tokens that are never cut further, each with its token count."""

    def fitting(span: Span) -> int | None:
        if span.end - span.start > max_tokens * MAX_CHARS_PER_TOKEN:
            return None
        tokens = count_tokens(span.of(text))
        return tokens if tokens <= max_tokens else None

    for block in body:
        whole = Span(block.start, block.end)
        if (tokens := fitting(whole)) is not None:
            yield whole, tokens
            continue
        parts = _sentences_of(text, whole) if block.kind is BlockKind.PARAGRAPH else _lines_of(text, whole)
        for part in parts:
            if (tokens := fitting(part)) is not None:
                yield part, tokens
            else:
                yield from _forced(text, part, max_tokens, count_tokens)


def _sentences_of(text: str, span: Span) -> list[Span]:
    return [Span(span.start + part.start, span.start + part.end) for part in sentences(span.of(text))]


def _lines_of(text: str, span: Span) -> list[Span]:
    found = []
    start = span.start
    for line in span.of(text).split("\n"):
        if line.strip():
            found.append(Span(start, start + len(line)))
        start += len(line) + 1
    return found


def _forced(text: str, span: Span, max_tokens: int, count_tokens: Counter) -> Iterator[tuple[Span, int]]:
    """Cut what has no better boundary: the longest prefix that fits, back to a space where there is one."""
    start = span.start
    while start < span.end:
        window = text[start : min(span.end, start + max_tokens * MAX_CHARS_PER_TOKEN)]
        end = start + longest_prefix(window, max_tokens, count_tokens)
        if end < span.end:
            space = max(text.rfind(blank, start + 1, end) for blank in " \n\t")
            end = space if space > start + (end - start) // 2 else end
        part = text[start:end]
        if part.strip():
            first = start + len(part) - len(part.lstrip())
            trimmed = Span(first, first + len(part.strip()))
            yield trimmed, count_tokens(trimmed.of(text))
        start = end


def longest_prefix(text: str, max_tokens: int, count_tokens: Counter) -> int:
    """Return the length of a long prefix of a text with at most `max_tokens` tokens; at least one character.

    Gallops, then bisects, so that a text of megabytes without a space is not counted as a whole.
    """
    fits, step = 1, max_tokens
    while fits < len(text) and count_tokens(text[: fits + step]) <= max_tokens:
        fits = min(fits + step, len(text))
        step *= 2
    too_long = min(fits + step, len(text) + 1)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if count_tokens(text[:middle]) <= max_tokens:
            fits = middle
        else:
            too_long = middle
    return fits


def _pack(text: str, pieces: Iterator[tuple[Span, int]], max_tokens: int, count_tokens: Counter) -> Iterator[Span]:
    """Join neighbouring pieces into spans of at most `max_tokens` tokens."""
    taken: list[Span] = []
    total = 0
    for piece, tokens in pieces:
        too_long = total + tokens > max_tokens
        if taken and not too_long and total + tokens > max_tokens // 2:
            # Counts of parts don't add up exactly (the space between them is a token of its own, say), so the whole is
            # counted, but not while it is far from the limit: that would count every text many times.
            too_long = count_tokens(text[taken[0].start : piece.end]) > max_tokens
        if taken and too_long:
            yield Span(taken[0].start, taken[-1].end)
            taken, total = [], 0
        taken.append(piece)
        total += tokens
    if taken:
        yield Span(taken[0].start, taken[-1].end)
