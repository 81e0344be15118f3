"""Gates: is the candidate better, not worse, or good enough? Decided on paired statistics, never on `new >= old`.

A gate passes only when every one of its rules passes. That makes it an intersection-union test (Berger,
Multiparameter Hypothesis Testing and Acceptance Sampling, Technometrics 24, 1982): with each rule at confidence c, a
candidate that truly breaks any rule passes the gate with probability 1 - c at most, however many rules there are. A
correction for many comparisons (Holm, Bonferroni) would guard against "some rule passed by luck", which opens no gate
here; it would only cost power, so none is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from data_catalog.errors import DataError
from data_catalog.evaluation_records import SampleScore
from data_catalog.records import Record
from evaluation.specs import Against, GateRule, Requirement
from evaluation.statistics import (
    Interval,
    SignTest,
    mean,
    paired_bootstrap,
    pairs_needed,
    samples_needed,
    sign_test,
    wilson,
)

MAX_UNSCORED_SHARE = 0.05
"""Above this share of unscored samples nothing is concluded: what is missing may be what fails."""

Scores = Mapping[str, Sequence[SampleScore]]
"""Suite name to the scores of one model."""


class GateOutcome(StrEnum):
    """PASS: shown to hold. FAIL: shown not to hold. INCONCLUSIVE: too few samples to show either."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Comparison(Record):
    """One rule's statistics and what follows from them. Scores and differences are shares: 0.02 is two points."""

    suite: str
    require: Requirement
    against: Against
    margin: float
    limit: float | None
    confidence: float
    n: int
    """Samples compared: those scored on both sides."""
    unscored: int
    candidate_score: float | None
    baseline_score: float | None
    """The fixed limit's rules have none."""
    difference: float | None
    """Candidate minus baseline, or minus the limit."""
    interval: tuple[float, float] | None
    """Of the difference (BETTER, NOT_WORSE) or of the candidate's score (AT_LEAST); each bound one-sided."""
    p_value: float | None
    """Exact sign test of "the candidate is not better"; None for AT_LEAST."""
    gained: tuple[str, ...] = ()
    """Ids of the samples on which the candidate scored higher."""
    lost: tuple[str, ...] = ()
    """Ids of the samples on which it scored lower."""
    outcome: GateOutcome
    reason: str
    """One plain sentence."""
    needed_n: int | None = None
    """INCONCLUSIVE: samples that would settle it (power 0.8) if the truth is what was seen; None where none would."""


class GateDecision(Record):
    """What a gate says, and every comparison behind it."""

    outcome: GateOutcome
    comparisons: tuple[Comparison, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """The sentences of the rules that did not pass, or of all where all did."""
        stopped = tuple(entry.reason for entry in self.comparisons if entry.outcome is not GateOutcome.PASS)
        return stopped or tuple(entry.reason for entry in self.comparisons)


class _Paired(NamedTuple):
    """Scores of the samples that are scored on both sides."""

    ids: tuple[str, ...]
    candidate: tuple[float, ...]
    baseline: tuple[float, ...]
    unscored: int

    @property
    def differences(self) -> list[float]:
        return [new - old for new, old in zip(self.candidate, self.baseline, strict=True)]


def decide(
    rules: Sequence[GateRule], candidate: Scores, baselines: Mapping[Against, Scores], *, seed: int = 0
) -> GateDecision:
    """Compare a candidate with its baselines, rule by rule. No rules: nothing is demanded, so PASS.

    Args:
        rules: all of them must pass. Any FAIL makes the gate FAIL, otherwise any INCONCLUSIVE makes it INCONCLUSIVE.
        candidate: the candidate's scores by suite.
        baselines: by what they are (BASE, PREVIOUS, PRODUCTION), each like `candidate`. Without PRODUCTION (nothing is
            in production yet) a rule against it passes and says so.
        seed: of the resampling; equal input gives an equal decision.

    Raises:
        DataError: a suite or baseline is missing, or the two sides were not asked the same samples.
    """
    comparisons = tuple(_compare(rule, candidate, baselines, seed) for rule in rules)
    outcomes = {comparison.outcome for comparison in comparisons}
    worst = next(
        (outcome for outcome in (GateOutcome.FAIL, GateOutcome.INCONCLUSIVE) if outcome in outcomes), GateOutcome.PASS
    )
    return GateDecision(outcome=worst, comparisons=comparisons)


def _compare(rule: GateRule, candidate: Scores, baselines: Mapping[Against, Scores], seed: int) -> Comparison:
    scores = _suite_scores(rule, candidate, "candidate")
    if rule.require is Requirement.AT_LEAST:
        return _compare_with_limit(rule, scores)
    if rule.against is Against.PRODUCTION and rule.against not in baselines:
        return _without_production(rule, scores)
    if rule.against not in baselines:
        raise DataError(
            f"the gate compares `{rule.suite}` with `{rule.against}`, which has no scores",
            valid="scores of " + (", ".join(f"`{key}`" for key in baselines) or "no model") + " are there",
            next_step=f"evaluate the `{rule.against}` model on `{rule.suite}` first",
        )
    paired = _pair(rule, scores, _suite_scores(rule, baselines[rule.against], str(rule.against)))
    return _compare_pairs(rule, paired, seed)


def _suite_scores(rule: GateRule, scores: Scores, who: str) -> Sequence[SampleScore]:
    if not scores.get(rule.suite):
        raise DataError(
            f"the gate needs suite `{rule.suite}`, on which `{who}` has no scores",
            valid="suites with scores: " + (", ".join(f"`{name}`" for name in scores if scores[name]) or "none"),
            next_step=f"put `{rule.suite}` under `suites`, or correct the rule's `suite`",
        )
    return scores[rule.suite]


def _pair(rule: GateRule, candidate: Sequence[SampleScore], baseline: Sequence[SampleScore]) -> _Paired:
    """Pair by sample id; the sets must be the same, or the difference would compare unlike with unlike."""
    new, old = _by_id(rule, candidate), _by_id(rule, baseline)
    if new.keys() != old.keys():
        only_new, only_old = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
        raise DataError(
            f"suite `{rule.suite}`: candidate and `{rule.against}` were asked different samples "
            f"({len(only_new)} only the candidate: {only_new[:3]}; {len(only_old)} only the baseline: {only_old[:3]})",
            valid="the same sample ids on both sides",
            next_step="evaluate both models on the suite as it is now",
        )
    rows = [(key, new[key].score, old[key].score) for key in new]
    scored = [(key, mine, theirs) for key, mine, theirs in rows if mine is not None and theirs is not None]
    return _Paired(
        ids=tuple(key for key, _, _ in scored),
        candidate=tuple(mine for _, mine, _ in scored),
        baseline=tuple(theirs for _, _, theirs in scored),
        unscored=len(rows) - len(scored),
    )


def _by_id(rule: GateRule, scores: Sequence[SampleScore]) -> dict[str, SampleScore]:
    table = {entry.sample_id: entry for entry in scores}
    if len(table) != len(scores):
        raise DataError(
            f"suite `{rule.suite}`: {len(scores) - len(table)} sample ids occur twice among the scores",
            valid="one score per sample",
            next_step="evaluate the suite again",
        )
    return table


def _too_many_unscored(n: int, unscored: int) -> bool:
    return n == 0 or unscored > MAX_UNSCORED_SHARE * (n + unscored)


def _compare_pairs(rule: GateRule, paired: _Paired, seed: int) -> Comparison:
    if not paired.ids:
        return _comparison(rule, GateOutcome.INCONCLUSIVE, _unscored_reason(rule, paired.unscored, 0), paired=paired)
    differences = paired.differences
    interval = paired_bootstrap(differences, rule.confidence, rule.resamples, seed)
    test = sign_test(differences)
    threshold = rule.margin if rule.require is Requirement.BETTER else -rule.margin
    if _too_many_unscored(len(paired.ids), paired.unscored):
        reason = _unscored_reason(rule, paired.unscored, len(paired.ids))
        return _comparison(rule, GateOutcome.INCONCLUSIVE, reason, paired=paired, interval=interval, test=test)
    outcome = _pair_outcome(rule, threshold, interval, test)
    needed = None
    if outcome is GateOutcome.INCONCLUSIVE:
        needed = _more_than(len(differences), pairs_needed(differences, threshold, rule.confidence))
    reason = _pair_reason(rule, outcome, mean(differences), interval, test, len(differences), needed)
    return _comparison(rule, outcome, reason, paired=paired, interval=interval, test=test, needed_n=needed)


def _pair_outcome(rule: GateRule, threshold: float, interval: Interval, test: SignTest) -> GateOutcome:
    if rule.require is Requirement.NOT_WORSE:
        if interval.lower > threshold:
            return GateOutcome.PASS
        return GateOutcome.FAIL if interval.upper < threshold else GateOutcome.INCONCLUSIVE
    # At a margin of 0 the exact test speaks too: its p-value carries no Monte-Carlo error.
    tested = rule.margin > 0 or test.p_value < 1 - rule.confidence
    if interval.lower > threshold and tested:
        return GateOutcome.PASS
    return GateOutcome.FAIL if interval.upper <= threshold else GateOutcome.INCONCLUSIVE


def _compare_with_limit(rule: GateRule, scores: Sequence[SampleScore]) -> Comparison:
    if rule.limit is None:  # GateRule refuses this; here for the type checker and for rules built without validation
        raise DataError(f"the rule on `{rule.suite}` has no `limit`", next_step="give it a `limit` between 0 and 1")
    values = [entry.score for entry in _by_id(rule, scores).values() if entry.score is not None]
    unscored = len(scores) - len(values)
    if not values:
        reason = _unscored_reason(rule, unscored, 0)
        return _comparison(rule, GateOutcome.INCONCLUSIVE, reason, unscored=unscored)
    score = mean(values)
    interval = wilson(score, len(values), rule.confidence)
    outcome, needed = GateOutcome.INCONCLUSIVE, None
    if _too_many_unscored(len(values), unscored):
        reason = _unscored_reason(rule, unscored, len(values))
    else:
        if interval.lower >= rule.limit:
            outcome = GateOutcome.PASS
        elif interval.upper < rule.limit:
            outcome = GateOutcome.FAIL
        else:
            needed = _more_than(len(values), samples_needed(score, rule.limit, rule.confidence))
        reason = _limit_reason(rule.suite, rule.limit, outcome, score, interval, len(values), needed)
    return _comparison(rule, outcome, reason, values=values, interval=interval, unscored=unscored, needed_n=needed)


def _without_production(rule: GateRule, scores: Sequence[SampleScore]) -> Comparison:
    values = [entry.score for entry in scores if entry.score is not None]
    reason = f"{rule.suite}: nothing is in production yet, so there is nothing to compare with."
    return _comparison(rule, GateOutcome.PASS, reason, values=values, unscored=len(scores) - len(values))


def _more_than(n: int, needed: int | None) -> int | None:
    """The estimate assumes what was seen is true; n samples have just not been enough, so it can't be n or fewer."""
    return None if needed is None else max(needed, n + 1)


def _comparison(
    rule: GateRule,
    outcome: GateOutcome,
    reason: str,
    *,
    paired: _Paired | None = None,
    values: Sequence[float] = (),
    interval: Interval | None = None,
    test: SignTest | None = None,
    unscored: int = 0,
    needed_n: int | None = None,
) -> Comparison:
    """Put a comparison together from pairs (against a model) or values (against a limit, or nothing)."""
    new = paired.candidate if paired else tuple(values)
    old = paired.baseline if paired else ()
    candidate_score = mean(new) if new else None
    baseline_score = mean(old) if old else None
    reference = rule.limit if rule.require is Requirement.AT_LEAST else baseline_score
    changes = list(zip(paired.ids, paired.differences, strict=True)) if paired else []
    return Comparison(
        suite=rule.suite,
        require=rule.require,
        against=rule.against,
        margin=rule.margin,
        limit=rule.limit,
        confidence=rule.confidence,
        n=len(new),
        unscored=paired.unscored if paired else unscored,
        candidate_score=candidate_score,
        baseline_score=baseline_score,
        difference=None if candidate_score is None or reference is None else candidate_score - reference,
        interval=None if interval is None else (interval.lower, interval.upper),
        p_value=None if test is None else test.p_value,
        gained=tuple(key for key, difference in changes if difference > 0),
        lost=tuple(key for key, difference in changes if difference < 0),
        outcome=outcome,
        reason=reason,
        needed_n=needed_n,
    )


def _points(share: float, *, signed: bool = True) -> str:
    """Write a difference in points of a hundred."""
    return f"{100 * share:+.1f}" if signed else f"{100 * share:.1f}"


def _unscored_reason(rule: GateRule, unscored: int, scored: int) -> str:
    return (
        f"{rule.suite}: {unscored} of {unscored + scored} samples could not be scored, more than "
        f"{MAX_UNSCORED_SHARE:.0%}, so nothing is concluded."
    )


def _settles(needed: int | None) -> str:
    return "no number of samples settles it" if needed is None else f"about {needed:,} samples would settle it"


def _pair_reason(
    rule: GateRule,
    outcome: GateOutcome,
    difference: float,
    interval: Interval,
    test: SignTest,
    n: int,
    needed: int | None,
) -> str:
    points = _points(rule.margin, signed=False)
    if rule.require is Requirement.NOT_WORSE:
        asked = f"at most {points} points worse than"
    else:
        asked = f"more than {points} points better than" if rule.margin else "better than"
    verb = {
        GateOutcome.PASS: f"is {asked}",
        GateOutcome.FAIL: f"is not {asked}",
        GateOutcome.INCONCLUSIVE: f"is not shown to be {asked}",
    }[outcome]
    figures = (
        f"{_points(difference)} points on {n:,} samples ({_points(interval.lower)} to {_points(interval.upper)}; "
        f"{test.wins} won, {test.losses} lost, p = {test.p_value:.2g})"
    )
    tail = f"; {_settles(needed)}" if outcome is GateOutcome.INCONCLUSIVE else ""
    return f"{rule.suite}: the candidate {verb} {rule.against}: {figures}{tail}."


def _limit_reason(
    suite: str, limit: float, outcome: GateOutcome, score: float, interval: Interval, n: int, needed: int | None
) -> str:
    verb = {
        GateOutcome.PASS: "reaches",
        GateOutcome.FAIL: "does not reach",
        GateOutcome.INCONCLUSIVE: "is not shown to reach",
    }[outcome]
    figures = f"{score:.1%} on {n:,} samples ({interval.lower:.1%} to {interval.upper:.1%})"
    tail = f"; {_settles(needed)}" if outcome is GateOutcome.INCONCLUSIVE else ""
    return f"{suite}: the candidate {verb} the limit of {limit:.1%}: {figures}{tail}."
