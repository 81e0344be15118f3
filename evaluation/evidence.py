"""What the figures say of one gate rule, and what follows from the figures of all of them: numbers in, outcomes out.

The gate's own decisions and the simulation of it both go through here, so that what is simulated is what decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.specs import Correction, GateRule, Requirement
from evaluation.statistics import (
    Adjusted,
    Interval,
    SignTest,
    Values,
    holm,
    mean,
    paired_test,
    pairs_needed,
    samples_needed,
    sign_test,
    wilson,
    wilson_p_values,
)

MAX_UNSCORED_SHARE = 0.05
"""Above this share of unscored samples nothing is concluded: what is missing may be what fails."""


class GateOutcome(StrEnum):
    """PASS: shown to hold. FAIL: shown not to hold. INCONCLUSIVE: too few samples to show either."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Evidence(NamedTuple):
    """One rule's figures. `measured` are the paired differences, or the scores where the rule has a fixed limit."""

    measured: NDArray[np.float64]
    unscored: int
    interval: Interval | None = None
    test: SignTest | None = None
    p_pass: float = 1.0
    """Of "the rule does not hold"; small enough, it passes."""
    p_fail: float = 1.0
    """Of "the rule holds"; small enough, it fails."""

    @property
    def n(self) -> int:
        """Samples that could be scored, on both sides where there are two."""
        return len(self.measured)

    @property
    def too_many_unscored(self) -> bool:
        """Whether so many samples are missing that nothing may be concluded."""
        return self.n == 0 or self.unscored > MAX_UNSCORED_SHARE * (self.n + self.unscored)


class Conclusion(NamedTuple):
    """What follows for one rule."""

    outcome: GateOutcome
    adjusted_p: float
    """The p-value of "the rule does not hold", corrected for the other rules of the gate."""
    alone: GateOutcome
    """What the rule would say if it were the only one."""
    factor: int
    """By how much the correction asks for stronger evidence; 1 asks for no more."""


def weigh_pairs(rule: GateRule, differences: Values, unscored: int = 0, seed: int = 0) -> Evidence:
    """Weigh the paired differences (candidate minus baseline) of a rule that compares two models."""
    measured = np.asarray(differences, dtype=np.float64)
    if measured.size == 0:
        return Evidence(measured, unscored)
    interval, above, below = paired_test(measured, rule.threshold, rule.confidence, rule.resamples, seed)
    test = sign_test(measured)
    evidence = Evidence(measured, unscored, interval, test)
    if evidence.too_many_unscored:
        return evidence
    # At a margin of 0 the exact test speaks too: its p-value carries no Monte-Carlo error.
    exact = test.p_value if rule.require is Requirement.BETTER and rule.margin == 0 else 0.0
    return evidence._replace(p_pass=max(above, exact), p_fail=below)


def weigh_scores(rule: GateRule, scores: Values, unscored: int = 0) -> Evidence:
    """Weigh the candidate's scores for a rule with a fixed limit."""
    measured = np.asarray(scores, dtype=np.float64)
    if measured.size == 0:
        return Evidence(measured, unscored)
    score = mean(measured)
    evidence = Evidence(measured, unscored, wilson(score, len(measured), rule.confidence))
    if evidence.too_many_unscored:
        return evidence
    p_pass, p_fail = wilson_p_values(score, len(measured), rule.threshold)
    return evidence._replace(p_pass=p_pass, p_fail=p_fail)


def conclude(rules: Sequence[GateRule], weighed: Sequence[Evidence], correction: Correction) -> list[Conclusion]:
    """Say what follows for each rule of one gate.

    A gate that passes only when all its rules do is an intersection-union test (Berger, Multiparameter Hypothesis
    Testing and Acceptance Sampling, Technometrics 24, 1982): its PASS is right at the rules' confidence without any
    correction. Its FAIL, for which one rule is enough, is not, and neither is what it says of single suites and slices:
    of twenty slices one looks better, and one worse, by luck. That is what Holm's correction is for. Where the rules
    differ in confidence, it holds at the lowest of them.
    """
    adjust = holm if correction is Correction.HOLM else _alone
    passes = adjust([evidence.p_pass for evidence in weighed])
    fails = adjust([evidence.p_fail for evidence in weighed])
    conclusions = []
    for rule, evidence, passed, failed in zip(rules, weighed, passes, fails, strict=True):
        outcome = _outcome(rule, passed.p_value, failed.p_value)
        alone = _outcome(rule, evidence.p_pass, evidence.p_fail)
        factor = passed.factor if evidence.p_pass <= evidence.p_fail else failed.factor
        conclusions.append(Conclusion(outcome, passed.p_value, alone, factor))
    return conclusions


def _alone(p_values: Sequence[float]) -> list[Adjusted]:
    return [Adjusted(p_value, 1) for p_value in p_values]


def _outcome(rule: GateRule, p_pass: float, p_fail: float) -> GateOutcome:
    alpha = 1 - rule.confidence
    if p_pass <= alpha:
        return GateOutcome.PASS
    return GateOutcome.FAIL if p_fail <= alpha else GateOutcome.INCONCLUSIVE


def worst(outcomes: Sequence[GateOutcome]) -> GateOutcome:
    """Return a gate's outcome: any FAIL makes it FAIL, otherwise any INCONCLUSIVE makes it INCONCLUSIVE."""
    order = (GateOutcome.FAIL, GateOutcome.INCONCLUSIVE)
    return next((outcome for outcome in order if outcome in outcomes), GateOutcome.PASS)


def needed(rule: GateRule, evidence: Evidence, conclusion: Conclusion) -> int | None:
    """Return how many samples would settle an INCONCLUSIVE rule, beside its fellows, if the truth is what was seen.

    None: no number would, or the rule is settled, or the missing scores have to come first.
    """
    if conclusion.outcome is not GateOutcome.INCONCLUSIVE or evidence.too_many_unscored:
        return None
    confidence = 1 - (1 - rule.confidence) / conclusion.factor
    if rule.require.of_limit:
        estimate = samples_needed(mean(evidence.measured), rule.threshold, confidence)
    else:
        estimate = pairs_needed(evidence.measured, rule.threshold, confidence)
    # The estimate assumes what was seen is true; n samples have just not been enough, so it can't be n or fewer.
    return None if estimate is None else max(estimate, evidence.n + 1)
