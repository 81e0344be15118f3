"""Groundedness: how much of what the answer says stands in the source."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field

from data_catalog.text import ngrams, words
from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, Scorer

# A capital letter at the beginning of a sentence makes no name.
_NAME = re.compile(r"(?<![.!?:\n]\s)(?<!^)(?<![\w-])[A-Z][\w-]+")


class Groundedness(Scorer):
    """The share of an answer's numbers, names and word n-grams that stand in the sample's source text.

    It sees invented figures and names, not wrong relations between true ones, and it likes copying: use it beside a
    scorer of what was asked. An answer without a word is unscored.
    """

    name: Literal["groundedness"] = "groundedness"
    source: str = "source"
    """The field of the suite's rows that holds the source text."""
    ngram: int = Field(default=3, ge=1, le=8)
    """Words in a row that are looked up together; of a shorter answer, all of its words."""

    def refusal(self, sample: Sample) -> str:
        """Refuse a sample without its source."""
        text = sample.meta.get(self.source)
        if isinstance(text, str) and words(text):
            return ""
        return f"scorer `groundedness` needs the source text in the field `{self.source}`"

    def basis(self, sample: Sample) -> Any:
        """Return the source text."""
        return sample.meta.get(self.source)

    def score(self, sample: Sample, answer: Answer) -> float | None:
        """Return the share of what the answer says that stands in the source, or None when it says nothing."""
        said, source = words(answer.text), words(str(sample.meta[self.source]))
        if not said:
            return None
        size = min(self.ngram, len(said))
        known = set(source)
        single = {word for word in said if any(map(str.isdigit, word))}
        single |= {word for name in _NAME.findall(answer.text) for word in words(name)}
        runs = ngrams(said, size)
        supported = len(single & known) + len(runs & ngrams(source, size))
        return supported / (len(single) + len(runs))
