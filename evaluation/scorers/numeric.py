"""Numeric: the number asked for, in whatever unit it is given."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, Scorer
from evaluation.scorers.quantities import Quantity, quantities

EXACT = 1e-9
"""Relative difference that conversion and rounding of floats may make."""


class Numeric(Scorer):
    """The first number that could be meant is the expected one: `1,200 kg` is `1.2 t`, `1200公斤` is `1.2吨`.

    Could be meant: of the expected unit's dimension; where the expected answer has no unit, the first number there is.
    """

    name: Literal["numeric"] = "numeric"
    tolerance: float = Field(default=0.0, ge=0, lt=1)
    """How far the number may be off, as a share of the expected one."""
    unit_required: bool = True
    """Whether a bare number is wrong where the expected answer has a unit; otherwise that unit is taken as meant."""

    def refusal(self, sample: Sample) -> str:
        """Refuse a sample whose answers hold no number."""
        if not sample.answers:
            return "scorer `numeric` needs `answers`"
        missing = [expected for expected in sample.answers if not quantities(expected)]
        return f"scorer `numeric` needs a number in each answer, got {missing[0]!r:.80}" if missing else ""

    def score(self, sample: Sample, answer: Answer) -> float:
        """Return 1 when the number is one of the expected ones, else 0."""
        given = quantities(answer.text)
        return float(any(self._agrees(given, quantities(expected)[0]) for expected in sample.answers))

    def _agrees(self, given: list[Quantity], expected: Quantity) -> bool:
        unit = expected.unit
        if unit is None:
            values = [quantity.value for quantity in given]
        else:
            values = [found.value_in(unit) for found in given if found.unit and found.unit.dimension == unit.dimension]
            if not values and not self.unit_required:
                values = [found.value for found in given if found.unit is None]
        return bool(values) and abs(values[0] - expected.value) <= max(self.tolerance, EXACT) * abs(expected.value)
