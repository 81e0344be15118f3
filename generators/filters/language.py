"""`language@1`: a conversation or text is written in one of the wanted languages (`curate.languages`).

`script` tells Chinese from English without any library; German from English takes one: lingua (`pip install
'tutelage[language]'`), n-gram models of 75 languages that know short texts. Only the wanted languages and some that
models slip into are told apart: all 75 take 1 GB, these 0.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

from data_catalog.errors import ConfigError, MissingDependency
from data_catalog.records import Item, Verdict
from generators.filters.base import answer_of, failed, passed, question_of, text_of

CHECK = "language@1"
MIN_LETTERS = 20
"""Texts of fewer letters, most of them a name, say nothing: they pass without a score."""
RATIO = 3.0
"""An unwanted language must be so many times as likely as the likeliest wanted one. Of 700 short English questions and
answers full of invented names (the sandbox's) none gets there, one gets to 2; German and Italian ones get to 20 and
40."""
SLIPPED_INTO = frozenset(
    {"ar", "de", "en", "es", "fr", "hi", "id", "it", "ja", "ko", "nl", "pl", "pt", "ru", "tr", "uk", "vi", "zh"}
)
"""ISO 639-1 codes of what is told apart beside the wanted languages."""


def check(item: Item, languages: Sequence[str]) -> Verdict:
    """Return whether question and answer, or the text, are in one of `languages` (ISO 639-1 codes).

    The score is the confidence in the likeliest wanted one, 0 to 1.

    Raises:
        ConfigError: a code is none of lingua's languages.
        MissingDependency: lingua is not installed.
    """
    text = f"{question_of(item)}\n{answer_of(item)}" if question_of(item) else text_of(item)
    if sum(map(str.isalpha, text)) < MIN_LETTERS:
        return passed(item, CHECK)
    found = confidences(text, tuple(languages))
    wanted = max(found[code] for code in languages)
    likeliest = max(found, key=lambda code: found[code])
    if found[likeliest] >= RATIO * wanted:
        reason = f"written in {likeliest} rather than {' or '.join(languages)}"
        return failed(item, CHECK, reason, score=wanted)
    return passed(item, CHECK, score=wanted)


def confidences(text: str, languages: tuple[str, ...]) -> dict[str, float]:
    """Return how likely a text is to be in each of `languages` and of those that models slip into, by code."""
    values = _detector(languages).compute_language_confidence_values(text)
    return {value.language.iso_code_639_1.name.lower(): float(value.value) for value in values}


def demand(languages: Sequence[str]) -> None:
    """Raise what `check` would, before anybody is asked."""
    if languages:
        _detector(tuple(languages))


@lru_cache(maxsize=4)
def _detector(languages: tuple[str, ...]) -> Any:
    try:
        lingua = import_module("lingua")
    except ImportError as error:
        raise MissingDependency(
            "curate.languages needs lingua, which is not installed",
            next_step="pip install 'tutelage[language]' (in a checkout: pip install '.[language]')",
        ) from error
    known = {one.iso_code_639_1.name.lower(): one for one in lingua.Language.all()}
    if unknown := [code for code in languages if code not in known]:
        raise ConfigError(
            f"curate.languages names {', '.join(unknown)}, which lingua does not know", valid=", ".join(sorted(known))
        )
    told_apart = sorted({*languages, *SLIPPED_INTO})
    return lingua.LanguageDetectorBuilder.from_languages(*(known[code] for code in told_apart)).build()
