"""Contains: an expected answer stands somewhere in the text, as whole words in a row."""

from __future__ import annotations

from data_catalog.text import contains_words, words
from evaluation.samples import Sample
from evaluation.specs import SuiteSpec


def score(sample: Sample, text: str, spec: SuiteSpec) -> float:
    """Return 1 when an expected answer is found in the text, else 0. Whole words: `4` is not found in `40`."""
    given = words(text)
    return float(any(contains_words(given, words(answer)) for answer in sample.answers))
