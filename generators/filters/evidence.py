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


def check(item: Item, chunk: Chunk | None) -> Verdict:
    """Return whether the item's evidence is a quote from its chunk."""
    if chunk is None:
        return unscored(item, CHECK, "its chunk is not there any more")
    quote = fold_space(str(item.meta.get("evidence", "")))
    if len(words(quote)) < MIN_WORDS:
        return failed(item, CHECK, "no evidence of two words or more")
    if quote not in fold_space(source_text(chunk)):
        return failed(item, CHECK, "the evidence is no quote from the chunk")
    return passed(item, CHECK)
