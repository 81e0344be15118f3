"""The numbers and names of a text: what tells one fact from another that is worded alike."""

from __future__ import annotations

import re
import unicodedata

from data_catalog.text import words

_WORD = re.compile(r"[^\W_]+(?:[-'\u2019][^\W_]+)*")
_POSSESSIVE = re.compile(r"['\u2019]s?\Z")


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
