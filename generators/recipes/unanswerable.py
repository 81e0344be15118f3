"""`unanswerable`: questions of the documents' domain that they leave open; the right answer abstains."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from data_catalog.records import Chunk, Item, Request, Split
from generators.chunks import longest_prefix
from generators.prompts import neutralise
from generators.recipes.answers import Answer, ParseFailure, one_line
from generators.recipes.base import Ask, Check, Recipe, Source

_GAP = re.compile(r"\s{16,}")


class Unanswerable(Recipe):
    """One open question per document, from as much of it as fits the context."""

    name: ClassVar[str] = "unanswerable"
    version: ClassVar[int] = 1
    checks: ClassVar[frozenset[Check]] = frozenset({Check.OPEN})

    def asks(self, source: Source) -> Iterator[Ask]:
        """Yield every document that has chunks, cut at a chunk's end where it is too long.

        A document is on the evaluation side only where all of its chunks are.
        """
        chunks_of: dict[str, list[Chunk]] = {}
        for chunk in source.chunks:
            chunks_of.setdefault(chunk.document_id, []).append(chunk)
        for document in source.documents:
            chunks = sorted(chunks_of.get(document.id, []), key=lambda chunk: chunk.start)
            if not chunks:
                continue
            held_out = all(chunk.split is Split.EVALUATION for chunk in chunks)
            yield Ask(
                {
                    "heading": next((chunk.heading_path[0] for chunk in chunks if chunk.heading_path), ""),
                    "chunk": opening(document.text, chunks, source.context_tokens, source.count_tokens),
                },
                {
                    "chunk_id": None,
                    "document_id": document.id,
                    "split": (Split.EVALUATION if held_out else Split.TRAIN).value,
                },
            )

    def read(self, request: Request, answer: Answer) -> Item | ParseFailure:
        """Make a one-turn conversation whose answer is the configured one for what was never told."""
        line = one_line(answer)
        if isinstance(line, ParseFailure):
            return line
        question, unknown = neutralise(line).text, str(request.origin["unknown_answer"])
        return self.conversation(request, [(question, unknown)], answerable=False)


def opening(text: str, chunks: Sequence[Chunk], max_tokens: int, count_tokens: Callable[[str], int]) -> str:
    """Return the whole text where it has at most `max_tokens` tokens, else its opening up to the end of a chunk.

    Args:
        text: the document's text; a long gap in it, where a chunk was withheld, becomes a blank line.
        chunks: its chunks in order, at least one.
        max_tokens: the limit; where the first chunk alone is longer, that chunk is cut.
        count_tokens: tokens of a text.
    """
    if count_tokens(text) <= max_tokens:
        return _GAP.sub("\n\n", text).strip()
    fitting = 0
    for chunk in chunks:
        if count_tokens(text[: chunk.end]) > max_tokens:
            break
        fitting = chunk.end
    return _GAP.sub("\n\n", text[: fitting or longest_prefix(text, max_tokens, count_tokens)]).strip()
