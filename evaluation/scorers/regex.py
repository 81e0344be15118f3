"""Regex: a regular expression is found in the text."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal, Self

from pydantic import model_validator

from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, Scorer


class Regex(Scorer):
    """A regular expression (Python's `re`) is found in the text, in which full-width forms were made half-width."""

    name: Literal["regex"] = "regex"
    pattern: str | None = None
    """The expression for every sample; null: each of the sample's `answers` is one, and any of them may match."""
    whole: bool = False
    """The expression must match the whole text, without the white space round it."""
    ignore_case: bool = True
    """Whether capital and small letters are the same."""

    @model_validator(mode="after")
    def _pattern_is_valid(self) -> Self:
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"`pattern` is no regular expression: {error}") from error
        return self

    def refusal(self, sample: Sample) -> str:
        """Refuse a sample without an expression, or with one that can't be compiled."""
        if self.pattern is not None:
            return ""
        if not sample.answers:
            return "scorer `regex` without `pattern` needs `answers`, each a regular expression"
        for expression in sample.answers:
            try:
                re.compile(expression)
            except re.error as error:
                return f"the answer {expression!r:.80} is no regular expression: {error}"
        return ""

    def score(self, sample: Sample, answer: Answer) -> float:
        """Return 1 when an expression matches, else 0."""
        text = unicodedata.normalize("NFKC", answer.text).strip()
        flags = re.IGNORECASE if self.ignore_case else re.NOFLAG
        find = re.fullmatch if self.whole else re.search
        expressions = sample.answers if self.pattern is None else (self.pattern,)
        return float(any(find(expression, text, flags) for expression in expressions))
