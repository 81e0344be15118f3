"""A gate's reasons in plain sentences."""

from __future__ import annotations

from evaluation.evidence import MAX_UNSCORED_SHARE, Conclusion, Evidence, GateOutcome
from evaluation.specs import GateRule, Requirement
from evaluation.statistics import mean

_PASS, _FAIL = GateOutcome.PASS, GateOutcome.FAIL


def without_production(rule: GateRule) -> str:
    """Return what is said where nothing is in production to compare with."""
    return f"{rule.subject}: nothing is in production yet, so there is nothing to compare with."


def reason(rule: GateRule, evidence: Evidence, conclusion: Conclusion, needed: int | None) -> str:
    """Return one sentence: what was asked, what was seen, what follows, and what would settle it."""
    if evidence.too_many_unscored:
        total = evidence.n + evidence.unscored
        return (
            f"{rule.subject}: {evidence.unscored} of {total} samples could not be scored, more than "
            f"{MAX_UNSCORED_SHARE:.0%}, so nothing is concluded."
        )
    said = _of_limit(rule, evidence, conclusion) if rule.require.of_limit else _of_pairs(rule, evidence, conclusion)
    if conclusion.outcome is not GateOutcome.INCONCLUSIVE:
        return f"{rule.subject}: the candidate {said}."
    held_back = ""
    if conclusion.alone is not GateOutcome.INCONCLUSIVE:
        held_back = f"; alone it would {conclusion.alone}, but not beside the gate's other rules (Holm)"
    settles = "no number of samples settles it" if needed is None else f"about {needed:,} samples would settle it"
    return f"{rule.subject}: the candidate {said}{held_back}; {settles}."


def _of_pairs(rule: GateRule, evidence: Evidence, conclusion: Conclusion) -> str:
    margin = _points(rule.margin, signed=False)
    if rule.require is Requirement.NOT_WORSE:
        asked = f"at most {margin} points worse than"
    else:
        asked = f"more than {margin} points better than" if rule.margin else "better than"
    verb = {_PASS: f"is {asked}", _FAIL: f"is not {asked}"}.get(conclusion.outcome, f"is not shown to be {asked}")
    interval, test = evidence.interval, evidence.test
    assert interval is not None, "there are scores, so there are bounds"
    assert test is not None, "pairs are always tested"
    return (
        f"{verb} {rule.against}: {_points(mean(evidence.measured))} points on {evidence.n:,} samples "
        f"({_points(interval.lower)} to {_points(interval.upper)}; {test.wins} won, {test.losses} lost, "
        f"p = {test.p_value:.2g})"
    )


def _of_limit(rule: GateRule, evidence: Evidence, conclusion: Conclusion) -> str:
    verb = {_PASS: "reaches", _FAIL: "does not reach"}.get(conclusion.outcome, "is not shown to reach")
    asked = f"the limit of {rule.threshold:.1%}"
    if rule.require is Requirement.BRIEF:
        asked += f" of answers with at most {rule.max_words} words"
    interval = evidence.interval
    assert interval is not None, "there are scores, so there are bounds"
    figures = f"{mean(evidence.measured):.1%} on {evidence.n:,} samples ({interval.lower:.1%} to {interval.upper:.1%})"
    return f"{verb} {asked}: {figures}"


def _points(share: float, *, signed: bool = True) -> str:
    """Write a difference in points of a hundred."""
    return f"{100 * share:+.1f}" if signed else f"{100 * share:.1f}"
