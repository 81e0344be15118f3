"""Cutting prose into sentences, in English, Chinese and mixtures of both, by rules that need no model.

A sentence ends at `.`, `!`, `?` and their runs before white space, at the Chinese full stops wherever they stand, at a
blank line, and where a new list entry begins. Abbreviations, initials, decimal points and list numbers end nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from generators.markdown import list_marker_length


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


ABBREVIATIONS = _set(
    "mr mrs ms dr prof st gen col capt lt sgt hon gov sen rep e.g i.e cf viz vs approx resp incl excl "
    "dept univ assn ed eds jr sr etc inc ltd corp bros a.m p.m u.s u.k e.u u.n"
)
"""Words that are followed by a full stop inside a sentence, in lower case and without their last full stop."""
CLOSING_ABBREVIATIONS = _set("etc jr sr inc ltd corp bros a.m p.m u.s u.k e.u u.n")
"""Those that end a sentence all the same when a capitalised word follows."""
NUMBER_ABBREVIATIONS = _set(
    "no nos nr vol vols ch chap sec sect fig figs eq eqs tab p pp par art min max avg ca tel ext "
    "jan feb mar apr jun jul aug sep sept oct nov dec"
)
"""Those that are one only before a number: elsewhere they are words of their own ("The answer is no.")."""
SENTENCE_OPENERS = _set(
    "a all an and as at both but each every for he how if in it its no on one she the their there these they this "
    "those to under we what when where who with you"
)
"""Words that, capitalised after a single letter and a full stop, open a sentence: `Use plan B. The ...`."""

_END = re.compile(
    r"""(?P<cjk>(?:[。！？；]|……)+["”’'」』）)】]*)          # Chinese stops end a sentence wherever they stand
    | (?P<latin>(?<![.!?])[.!?]++["”’'»)\]]*+)(?=\s|\Z)   # Latin ones only before white space
    | (?P<blank>\n[ \t]*\n)
    | (?P<line>\n)(?=[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t])""",
    re.VERBOSE,
)
_NEXT_WORD = re.compile(r"\s*[\"'“‘(\[]*(\w*)")
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]*\Z")
_LOOK_BACK = 40
"""How many characters before a full stop are searched for an abbreviation."""


@dataclass(frozen=True)
class Span:
    """A part of a text: `text[start:end]` (character offsets)."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """Return what the span covers."""
        return text[self.start : self.end]


def sentences(text: str) -> list[Span]:
    """Return the sentences of a text in order, without the white space between them.

    The spans don't overlap, and every character that is not white space is in one of them.
    """
    found: list[Span] = []
    start = 0
    for match in _END.finditer(text):
        if match["latin"] and not _ends_sentence(text, match.start(), match.end()):
            continue
        _append_trimmed(found, text, start, match.end())
        start = match.end()
    _append_trimmed(found, text, start, len(text))
    return found


def _append_trimmed(found: list[Span], text: str, start: int, end: int) -> None:
    part = text[start:end]
    if stripped := part.strip():
        first = start + len(part) - len(part.lstrip())
        found.append(Span(first, first + len(stripped)))


def _ends_sentence(text: str, stop: int, end: int) -> bool:
    """Say whether the Latin full stop(s) at `stop`, closed by quotes up to `end`, end a sentence."""
    match = _NEXT_WORD.match(text, end, end + _LOOK_BACK)
    following = match[1] if match else ""
    if following[:1].islower():
        return False
    if text[stop] != "." or text[stop : stop + 2] == "..":
        return True
    last = _LAST_WORD.search(text, max(0, stop - _LOOK_BACK), stop)
    word = last[0] if last else ""
    if _is_list_number(text, stop, word):
        return False
    if len(word) == 1 and word.isupper() and word != "I":
        return following.lower() in SENTENCE_OPENERS
    bare = word.lower().strip("*_`")
    if bare in NUMBER_ABBREVIATIONS:
        return not following[:1].isdecimal()
    if bare in CLOSING_ABBREVIATIONS:
        return following[:1].isupper()
    return bare not in ABBREVIATIONS


def _is_list_number(text: str, stop: int, word: str) -> bool:
    """Say whether a full stop belongs to the number of a list entry at the start of its line."""
    if not word.isdecimal():
        return False
    before = text[max(0, stop - _LOOK_BACK) : stop - len(word)].rpartition("\n")[2]
    return not before.strip() and list_marker_length(f"{word}. ") > 0
