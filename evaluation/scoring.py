"""From completions to scores: a suite's samples, scored one by one and summed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from data_catalog.evaluation_records import SampleScore
from data_catalog.records import Completion
from evaluation import scorers
from evaluation.statistics import Interval, mean, wilson
from evaluation.suites import Suite, requests


class SuiteScore(NamedTuple):
    """What a model scored on a suite; `score` and `interval` are None when nothing could be scored."""

    n: int
    scored: int
    score: float | None
    interval: Interval | None
    """One-sided Wilson bounds at 95 % each."""

    @property
    def unscored(self) -> int:
        """Samples without a score."""
        return self.n - self.scored


def score_suite(suite: Suite, model_fingerprint: str, completions: Mapping[str, Completion]) -> tuple[SampleScore, ...]:
    """Score what the model of this fingerprint answered, in the suite's order.

    A request without a completion gives an UNSCORED sample. A truncated completion is scored on the text there is.

    Args:
        suite: what was asked.
        model_fingerprint: who was asked; it is part of the request keys.
        completions: by request key; others than the suite's are ignored.
    """
    scores = []
    for sample, request in zip(suite.samples, requests(suite, model_fingerprint), strict=True):
        completion = completions.get(request.key)
        text = completion.text if completion is not None else None
        outcome, value = scorers.score(sample, text, suite.spec)
        scores.append(
            SampleScore(
                sample_id=sample.id,
                question=sample.question,
                answers=sample.answers,
                completion=text if text is not None else "",
                outcome=outcome,
                score=value,
            )
        )
    return tuple(scores)


def summarise(scores: Sequence[SampleScore]) -> SuiteScore:
    """Return the mean of the scored samples and how sure it is; unscored ones are counted, not taken as zero."""
    values = [sample.score for sample in scores if sample.score is not None]
    if not values:
        return SuiteScore(len(scores), 0, None, None)
    average = mean(values)
    return SuiteScore(len(scores), len(values), average, wilson(average, len(values)))
