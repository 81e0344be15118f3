"""Two models on the samples that both were asked: which is better, by the statistics that the gates decide with.

The suites are judged together (Holm's correction), so that of many suites one does not look better, or worse, by luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from data_catalog.evaluation_records import SampleScore
from evaluation.gates import Comparison, GateOutcome, Scores, decide
from evaluation.scoring import SuiteScore, summarise
from evaluation.specs import Against, GateRule, Requirement


class Finding(StrEnum):
    """BETTER, WORSE: shown of the second model, at 95 % for all suites together. UNDECIDED: neither is shown."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "no difference shown"


class SuiteComparison(NamedTuple):
    """One suite. Scores and differences are shares; a difference is the second model's score minus the first's."""

    suite: str
    first: SuiteScore
    second: SuiteScore
    paired: Comparison
    """Difference, its one-sided 95 % bounds, sign test, and the ids on which the second model won or lost."""
    finding: Finding
    unpaired: int
    """Samples that only one of the models was asked, or that were asked differently; they are left out."""
    before: tuple[SampleScore, ...]
    """The first model's scores of the samples that are compared, in the suite's order."""
    after: tuple[SampleScore, ...]
    """The second model's scores of the same samples, in the same order."""


def compare_models(first: Scores, second: Scores, *, seed: int = 0) -> tuple[SuiteComparison, ...]:
    """Compare two models on every suite of which both were asked samples; none: an empty tuple.

    Args:
        first: suite name to the scores of the first model, the one that is measured against.
        second: the same of the second model.
        seed: of the resampling; equal input gives an equal result.
    """
    pairs = {suite: _common(scores, second[suite]) for suite, scores in first.items() if suite in second}
    pairs = {suite: sides for suite, sides in pairs.items() if sides[0]}
    rules = [GateRule(suite=suite, require=Requirement.BETTER) for suite in pairs]
    decision = decide(
        rules,
        {suite: after for suite, (_, after) in pairs.items()},
        {Against.BASE: {suite: before for suite, (before, _) in pairs.items()}},
        seed=seed,
    )
    return tuple(
        SuiteComparison(
            suite=suite,
            first=summarise(before),
            second=summarise(after),
            paired=paired.model_copy(update={"reason": _sentence(paired)}),
            finding=_finding(paired.outcome),
            unpaired=_asked(first[suite], second[suite]) - len(before),
            before=before,
            after=after,
        )
        for (suite, (before, after)), paired in zip(pairs.items(), decision.comparisons, strict=True)
    )


def _common(
    first: Sequence[SampleScore], second: Sequence[SampleScore]
) -> tuple[tuple[SampleScore, ...], tuple[SampleScore, ...]]:
    """Return the scores of the samples that both were asked in the same words, with the same answers expected."""
    asked = {score.sample_id: score for score in first}
    after = tuple(score for score in second if _same(asked.get(score.sample_id), score))
    return tuple(asked[score.sample_id] for score in after), after


def _same(one: SampleScore | None, other: SampleScore) -> bool:
    return one is not None and (one.question, one.answers) == (other.question, other.answers)


def _asked(first: Sequence[SampleScore], second: Sequence[SampleScore]) -> int:
    return len({score.sample_id for score in (*first, *second)})


def _finding(outcome: GateOutcome) -> Finding:
    """Read the outcome of a gate that demands a better score: it fails only where a worse one is shown."""
    return {GateOutcome.PASS: Finding.BETTER, GateOutcome.FAIL: Finding.WORSE}.get(outcome, Finding.UNDECIDED)


def _sentence(paired: Comparison) -> str:
    """Return what was found in one sentence; a gate's own speaks of a candidate and a baseline."""
    if paired.difference is None or paired.interval is None:
        return f"{paired.suite}: nothing could be scored for both models."
    low, high = (f"{100 * bound:+.1f}" for bound in paired.interval)
    return (
        f"{paired.suite}: {_finding(paired.outcome)}, {100 * paired.difference:+.1f} points on {paired.n:,} samples "
        f"({low} to {high}; {len(paired.gained):,} won, {len(paired.lost):,} lost)."
    )
