"""Stop: the model ended its answer by itself."""

from __future__ import annotations

from typing import Literal

from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, Scorer


class Stop(Scorer):
    """The model ended its answer by itself, before the suite's `max_tokens` did; the mean is the stop rate."""

    name: Literal["stop"] = "stop"

    def score(self, sample: Sample, answer: Answer) -> float:
        """Return 1 when the completion ended with a stop, 0 when it was cut."""
        return float(answer.finish_reason == "stop")
