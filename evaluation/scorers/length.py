"""Length: the answer is as long as it should be."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from data_catalog.text import words
from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, Scorer


class Length(Scorer):
    """The answer has neither too few words nor too many; a Chinese character counts as one."""

    name: Literal["length"] = "length"
    min_words: int = Field(default=1, ge=0)
    """Fewest words."""
    max_words: int = Field(default=50, ge=1)
    """Most words."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError(f"`min_words` ({self.min_words}) is above `max_words` ({self.max_words})")
        return self

    def score(self, sample: Sample, answer: Answer) -> float:
        """Return 1 when the number of words is within the bounds, else 0."""
        return float(self.min_words <= len(words(answer.text)) <= self.max_words)
