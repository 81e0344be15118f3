"""`faithful@1`: a paraphrase keeps the numbers and names of its sentence, brings no number of its own, and differs."""

from __future__ import annotations

import re
import unicodedata

from data_catalog.records import Item, Verdict
from data_catalog.text import normalise_answer, words
from generators.filters.base import failed, passed, text_of
from generators.prompts import neutralise

CHECK = "faithful@1"
_WORD = re.compile(r"[^\W_]+(?:[-'\u2019][^\W_]+)*")
_POSSESSIVE = re.compile(r"['\u2019]s?\Z")


def check(item: Item) -> Verdict:
    """Return whether a paraphrase says what its source (`meta`: sentence, heading) says, as far as can be counted.

    Numbers may also come from the heading, and so may the name that replaces an "it".
    """
    heading, sentence = (neutralise(str(item.meta.get(name, ""))).text for name in ("heading", "sentence"))
    text = text_of(item)
    if normalise_answer(text) == normalise_answer(sentence):
        return failed(item, CHECK, "the same words as its source")
    said = set(words(text))
    lost = numbers(sentence) - said
    if lost:
        return failed(item, CHECK, f"lost the number {min(lost)}")
    brought = numbers(text) - numbers(sentence) - numbers(heading)
    if brought:
        return failed(item, CHECK, f"brought the number {min(brought)}")
    gone = sorted(name for name in names(sentence, heading) if not set(words(name)) <= said)
    return failed(item, CHECK, f"lost the name {gone[0]}") if gone else passed(item, CHECK)


def numbers(text: str) -> set[str]:
    """Return the words of a text that contain a digit."""
    return {word for word in words(text) if any(character.isdigit() for character in word)}


def names(sentence: str, heading: str = "") -> set[str]:
    """Return the capitalised words of a sentence; its first one only if the heading has it or it can't be a plain word.

    Possessive endings are not part of a name.
    """
    in_heading = set(words(heading))
    found = set()
    for position, match in enumerate(_WORD.finditer(unicodedata.normalize("NFKC", sentence))):
        name = _POSSESSIVE.sub("", match[0])
        if not name[:1].isupper() or name == "I":
            continue
        unmistakable = any(character.isupper() or character.isdigit() for character in name[1:])
        if position > 0 or unmistakable or words(name)[0] in in_heading:
            found.add(name)
    return found
