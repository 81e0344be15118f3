"""The numbers and names of a text: what tells one fact from another that is worded alike."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from data_catalog.text import words
from generators.sentences import sentences

_WORD = re.compile(r"[^\W_]+(?:[-'\u2019][^\W_]+)*")
_POSSESSIVE = re.compile(r"['\u2019]s?\Z")
BARE_WORDS = 3
"""An answer of so few words has no sentence to begin: its first capital is a name's."""
_NO_NAMES = {"yes", "no"}


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


def bare_name(answer: str) -> set[str]:
    """Return the first word of an answer of a few words, if it is capitalised: there it begins no sentence."""
    said = answer.split()
    if not 0 < len(said) <= BARE_WORDS or not said[0][0].isupper() or words(said[0]) == []:
        return set()
    return set() if set(words(said[0])) <= _NO_NAMES else {said[0]}


class Facts(NamedTuple):
    """What a text is about: two texts with other facts say different things, however alike they are worded."""

    numbers: frozenset[str]
    names: frozenset[str]
    """Case-folded."""


def facts(*texts: str, answers: Sequence[str] = ()) -> Facts:
    """Return the numbers and names of some texts, and of answers, each looked at sentence by sentence."""
    texts = (*texts, *answers)
    found = set[str]().union(*map(bare_name, answers))
    for text in texts:
        for span in sentences(text):
            found |= names(span.of(text))
    return Facts(
        frozenset().union(*(numbers(text) for text in texts)),
        frozenset(word for name in found for word in words(name)),
    )
