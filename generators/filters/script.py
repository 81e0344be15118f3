"""`script@1`: an item is written in a script of its source: no Chinese about English documents, nor the reverse.

It tells scripts, not languages: German about English passes.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

from data_catalog.records import Chunk, Item, Verdict
from generators.filters.base import failed, passed, question_of, text_of, unscored

CHECK = "script@1"
MIN_SHARE = 0.05
"""Least share of the source's letters that a script must have for an item to be written in it."""
MIN_LETTERS = 4
"""Texts of fewer letters say nothing: `kg` in a Chinese answer, a symbol."""


def check(item: Item, chunk: Chunk | None) -> Verdict:
    """Return whether the question, or the text, is written in a script that its chunk uses."""
    if chunk is None:
        return unscored(item, CHECK, "its chunk is not there any more")
    written = scripts(question_of(item) or text_of(item))
    if written.total() < MIN_LETTERS:
        return passed(item, CHECK)
    source = scripts("\n".join((*chunk.heading_path, chunk.text)))
    main, _ = written.most_common(1)[0]
    if source.total() and source[main] < MIN_SHARE * source.total():
        used = ", ".join(script.lower() for script, _ in source.most_common(2))
        return failed(item, CHECK, f"written in {main.lower()} letters, its source in {used}")
    return passed(item, CHECK)


def scripts(text: str) -> Counter[str]:
    """Return how many letters of a text belong to each script, by the first word of their Unicode names."""
    return Counter(_script(character) for character in unicodedata.normalize("NFKC", text) if character.isalpha())


@lru_cache(maxsize=65_536)
def _script(character: str) -> str:
    name = unicodedata.name(character, "UNKNOWN").split(" ", 1)[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA") else name
