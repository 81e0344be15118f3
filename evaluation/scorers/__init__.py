"""Scorers: a sample and what a model answered in, an outcome and a score out. One file each; this table lists them."""

from __future__ import annotations

from collections.abc import Callable

from data_catalog.records import Outcome
from evaluation.samples import Sample
from evaluation.scorers import abstention, contains, exact_match
from evaluation.scorers.parts import SampleScoreParts
from evaluation.specs import SuiteSpec

Scorer = Callable[[Sample, str, SuiteSpec], float]
"""From a sample, a completion's text and the suite's spec to a score in [0, 1]."""

SCORERS: dict[str, Scorer] = {
    "exact_match": exact_match.score,
    "contains": contains.score,
    "abstention": abstention.score,
}

NEEDS_ANSWERS = frozenset({"exact_match", "contains"})
"""Scorers that compare with the sample's `answers`."""

__all__ = ["NEEDS_ANSWERS", "SCORERS", "SampleScoreParts", "Scorer", "score"]


def score(sample: Sample, text: str | None, spec: SuiteSpec) -> SampleScoreParts:
    """Score one completion; None, the completion that never came, is UNSCORED and neither right nor wrong."""
    if text is None:
        return SampleScoreParts(Outcome.UNSCORED, None)
    value = SCORERS[spec.scorer](sample, text, spec)
    return SampleScoreParts(Outcome.PASSED if value >= 1 else Outcome.FAILED, value)
