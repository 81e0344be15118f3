"""From completions to scores: a suite's samples, scored one by one and summed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from data_catalog.evaluation_records import SampleScore
from data_catalog.records import Completion, Outcome, Request
from evaluation import scorers
from evaluation.samples import Sample
from evaluation.scorers import Answer, SampleScoreParts, Scorer
from evaluation.scorers.parts import Judged
from evaluation.statistics import Interval, mean, wilson
from evaluation.suites import Suite, per_template, requests_by_sample


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


def score_suite(
    suite: Suite,
    model_fingerprint: str,
    completions: Mapping[str, Completion],
    judged: Mapping[str, Judged] | None = None,
) -> tuple[SampleScore, ...]:
    """Score what the model of this fingerprint answered, in the suite's order.

    A sample that is asked in several templates has the mean of their scores, and shows the answer to the first. A
    request without a completion gives an UNSCORED sample, whatever its other templates gave: a mean over fewer wordings
    would compare unlike with unlike. A truncated completion is scored on the text there is.

    Args:
        suite: what was asked.
        model_fingerprint: who was asked; it is part of the request keys.
        completions: by request key; others than the suite's are ignored.
        judged: what the judge said of each of them, by the same key, where the scorer asks one.
    """
    scores = []
    scorer = suite.spec.scorer
    for sample, group in zip(suite.samples, requests_by_sample(suite, model_fingerprint), strict=True):
        answers = [_answer(sample, part, completions, scorer, judged or {}) for part in per_template(suite, group)]
        outcome, value = _average([scorers.score_answer(sample, answer, scorer) for answer in answers])
        first = answers[0]
        scores.append(
            SampleScore(
                sample_id=sample.id,
                question=sample.question,
                answers=sample.answers,
                completion=scorer.shown(sample, first) if first is not None else "",
                outcome=outcome,
                score=value,
            )
        )
    return tuple(scores)


def _answer(
    sample: Sample,
    group: Sequence[Request],
    completions: Mapping[str, Completion],
    scorer: Scorer,
    judged: Mapping[str, Judged],
) -> Answer | None:
    """Return what the model answered in one template; None where anything of it is missing."""
    given = [completions[request.key] for request in group if request.key in completions]
    if len(given) < len(group):
        return None
    return scorers.answer_of(given, scorer, sample)._replace(judged=judged.get(group[0].key))


def _average(parts: Sequence[SampleScoreParts]) -> SampleScoreParts:
    values = [part.score for part in parts if part.score is not None]
    if len(values) < len(parts):
        return SampleScoreParts(Outcome.UNSCORED, None)
    value = mean(values)
    return SampleScoreParts(Outcome.PASSED if value >= 1 else Outcome.FAILED, value)


def score_templates(
    suite: Suite,
    model_fingerprint: str,
    completions: Mapping[str, Completion],
    judged: Mapping[str, Judged] | None = None,
) -> list[SuiteScore]:
    """Return what the model scores in each of the suite's prompt templates alone: how much the wording matters."""
    alone = [
        suite.model_copy(update={"spec": suite.spec.model_copy(update={"templates": (template,)})})
        for template in suite.templates
    ]
    return [summarise(score_suite(part, model_fingerprint, completions, judged)) for part in alone]


def summarise(scores: Sequence[SampleScore]) -> SuiteScore:
    """Return the mean of the scored samples and how sure it is; unscored ones are counted, not taken as zero."""
    values = [sample.score for sample in scores if sample.score is not None]
    if not values:
        return SuiteScore(len(scores), 0, None, None)
    average = mean(values)
    return SuiteScore(len(scores), len(values), average, wilson(average, len(values)))
