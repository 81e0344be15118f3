"""Comparing texts: one normalisation for answers, questions and quotes, in English, Chinese and mixtures of both.

Filters (are two answers the same?) and scorers (is the answer the gold one?) must agree on what "the same" means, so
both use this module. It differs from the SQuAD normalisation (arXiv 1606.05250) where that one makes different answers
equal: `3.5` does not become `35`, `-5` does not become `5`, and every Chinese character is a word of its own.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

ARTICLES = frozenset({"a", "an", "the"})

# Non-characters stand for the signs inside a number while punctuation is taken out; no text holds them legitimately.
_POINT, _COMMA, _MINUS = "\ufdd0", "\ufdd1", "\ufdd2"
_NUMBER_SIGNS = {ord(_POINT): ".", ord(_COMMA): ",", ord(_MINUS): "-"}

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DECIMAL_POINT = re.compile(r"(?<=\d)\.(?=\d)")
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")
_SIGN = re.compile(r"(?:^|(?<=[\s(\[=:~]))[-\u2212](?=\d)")
_APOSTROPHES = frozenset("'\u2019\u02bc`")
_CJK_RANGES = (
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF),  # Han extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han compatibility
    (0x20000, 0x3FFFF),  # Han extensions B and later
)


def is_cjk(character: str) -> bool:
    """Say whether a character is Han or kana, which are written without spaces between words."""
    code = ord(character)
    return code >= 0x3040 and any(low <= code <= high for low, high in _CJK_RANGES)


class _WordTable(dict[int, str]):
    """A `str.translate` table that is filled as characters are met: what becomes of each one inside `words`."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if code in _NUMBER_SIGNS:
            kept = _NUMBER_SIGNS[code]
        elif character in _APOSTROPHES:
            kept = ""
        elif is_cjk(character) or character == "%" or category in ("Sc", "So"):
            kept = f" {character} "
        elif category[0] in "LNM":
            kept = character
        else:
            kept = " "
        self[code] = kept
        return kept


_WORD_TABLE = _WordTable()


def fold(text: str) -> str:
    """Return `text` with full-width forms made half-width (NFKC), case folded and white space collapsed."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def fold_space(text: str) -> str:
    """Return `text` with every run of white space as one space and none at the ends; nothing else changes."""
    return " ".join(text.split())


def words(text: str) -> list[str]:
    """Return the words of `text` for comparison: folded, without punctuation, numbers whole, each CJK character alone.

    A percent sign, a currency sign and a degree sign are words; `1,200` is `1200`; `XR-200` is `xr`, `200`.
    """
    return list(_words(text))


@lru_cache(maxsize=1 << 15)  # each check looks at the same texts
def _words(text: str) -> tuple[str, ...]:
    folded = fold(text.replace(_POINT, " ").replace(_COMMA, " ").replace(_MINUS, " "))
    folded = _THOUSANDS.sub("", folded)
    folded = _DECIMAL_POINT.sub(_POINT, folded)
    folded = _DECIMAL_COMMA.sub(_COMMA, folded)
    folded = _SIGN.sub(_MINUS, folded)
    return tuple(folded.translate(_WORD_TABLE).split())


def answer_words(text: str) -> list[str]:
    """Return the words of an answer without English articles, unless nothing else would be left."""
    all_words = words(text)
    return [word for word in all_words if word not in ARTICLES] or all_words


def normalise_answer(text: str) -> str:
    """Return the form in which two answers are compared for equality: their `answer_words`, joined by spaces."""
    return " ".join(answer_words(text))


def token_f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of word precision and recall between two answers, in [0, 1].

    F1 = 2 P R / (P + R) over the multisets of `answer_words` (SQuAD, arXiv 1606.05250, section 6.1). Two answers
    without any word agree (1.0); one with and one without do not (0.0).
    """
    ours, theirs = Counter(answer_words(answer)), Counter(answer_words(reference))
    if not ours or not theirs:
        return float(ours == theirs)
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total())


def contains_words(whole: Sequence[str], part: Sequence[str]) -> bool:
    """Say whether `part` stands in `whole` as consecutive words; an empty part is contained in nothing."""
    if not part:
        return False
    # NUL never survives `words`, so a word can't match across a boundary.
    return f"\0{chr(0).join(part)}\0" in f"\0{chr(0).join(whole)}\0"


class Phrases:
    """Runs of words that are looked for inside longer ones."""

    _BEGINNING = 4

    def __init__(self, phrases: Iterable[Sequence[str]]) -> None:
        self._by_beginning: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for phrase in map(tuple, phrases):
            if phrase:
                self._by_beginning.setdefault(phrase[: self._BEGINNING], []).append(phrase)
        self._lengths = sorted({len(beginning) for beginning in self._by_beginning})

    def inside(self, whole: Sequence[str]) -> tuple[str, ...] | None:
        """Return the first phrase that stands in `whole` as consecutive words; None where there is none."""
        text = tuple(whole)
        for start in range(len(text)):
            for length in self._lengths:
                for phrase in self._by_beginning.get(text[start : start + length], ()):
                    if text[start : start + len(phrase)] == phrase:
                        return phrase
        return None


def ngrams(sequence: Sequence[str], n: int) -> set[tuple[str, ...]]:
    """Return the distinct runs of `n` consecutive words; fewer than `n` words have none."""
    return {tuple(sequence[start : start + n]) for start in range(len(sequence) - n + 1)} if n > 0 else set()
