"""`evidence@1`: the quote that shall prove the answer stands in the chunk, character by character, white space folded.

Whether the quote does prove the answer is the judge's and the round trip's business.
"""

from __future__ import annotations

from data_catalog.records import Chunk, Item, Verdict
from data_catalog.text import fold_space, words
from generators.filters.base import failed, passed, source_text, unscored

CHECK = "evidence@1"
MIN_WORDS = 2
"""A quote of one word stands in any chunk and proves nothing."""


def check(item: Item, *chunks: Chunk) -> Verdict:
    """Return whether the item's evidence is a quote from its chunk; of several chunks, whether each has its own.

    `meta["evidence"]` is one quote, or a list: of quotes from the one chunk, or of one quote for each chunk. Without
    chunks there is nothing to say.
    """
    evidence = item.meta.get("evidence", "")
    quotes = [fold_space(str(quote)) for quote in (evidence if isinstance(evidence, list) else [evidence])]
    if not chunks:
        return unscored(item, CHECK, "its chunk is not there any more")
    places = chunks * len(quotes) if len(chunks) == 1 else chunks
    if len(places) != len(quotes):
        return failed(item, CHECK, f"{len(quotes)} quotes from {len(places)} chunks")
    for quote, chunk in zip(quotes, places, strict=True):
        if len(words(quote)) < MIN_WORDS:
            return failed(item, CHECK, "no evidence of two words or more")
        if quote not in fold_space(source_text(chunk)):
            return failed(item, CHECK, "the evidence is no quote from the chunk")
    return passed(item, CHECK)
