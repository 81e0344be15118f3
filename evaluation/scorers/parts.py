"""What a scorer says of one completion."""

from __future__ import annotations

from typing import NamedTuple

from data_catalog.records import Outcome


class SampleScoreParts(NamedTuple):
    """The outcome and the score in [0, 1]; the score is None exactly when the outcome is UNSCORED."""

    outcome: Outcome
    score: float | None
