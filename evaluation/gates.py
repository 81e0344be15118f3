"""Gates: is the candidate better, not worse, or good enough? Decided on paired statistics, never on `new >= old`.

A gate passes only when every one of its rules passes. Here the scores are found, paired and sliced, and the decision is
put down; what the figures mean stands in `evaluation.evidence`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data_catalog.errors import DataError
from data_catalog.evaluation_records import SampleScore
from data_catalog.records import Outcome, Record
from data_catalog.text import words
from evaluation import gate_words
from evaluation.evidence import (
    MAX_UNSCORED_SHARE,
    Conclusion,
    Evidence,
    GateOutcome,
    conclude,
    needed,
    weigh_pairs,
    weigh_scores,
    worst,
)
from evaluation.samples import Sample
from evaluation.specs import Against, Correction, GateRule, Requirement
from evaluation.statistics import mean

__all__ = [
    "MAX_UNSCORED_SHARE",
    "Comparison",
    "GateDecision",
    "GateOutcome",
    "Labels",
    "Scores",
    "check_slices",
    "decide",
    "labels_of",
    "sliced_ids",
]

Scores = Mapping[str, Sequence[SampleScore]]
"""Suite name to the scores of one model."""

Labels = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Suite name to sample id to what the sample can be sliced by."""

VALUES_SHOWN = 10


class Comparison(Record):
    """One rule's statistics and what follows from them. Scores and differences are shares: 0.02 is two points."""

    suite: str
    slice: Mapping[str, str | int | bool] = Field(default_factory=dict)
    """Which samples of the suite were compared; empty: all."""
    require: Requirement
    against: Against
    margin: float
    limit: float | None
    max_words: int | None = None
    confidence: float
    n: int
    """Samples compared: those scored on both sides."""
    unscored: int
    candidate_score: float | None
    """BRIEF: the share of answers that are short enough."""
    baseline_score: float | None
    """The fixed limit's rules have none."""
    difference: float | None
    """Candidate minus baseline, or minus the limit."""
    interval: tuple[float, float] | None
    """Of the difference (BETTER, NOT_WORSE) or of the candidate's score (AT_LEAST, BRIEF); each bound one-sided, and
    of this rule alone."""
    p_value: float | None
    """Exact sign test of "the candidate is not better"; None for a fixed limit."""
    adjusted_p: float | None = None
    """Of "the rule does not hold", corrected for the gate's other rules: PASS at 1 - confidence or less."""
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


class _Compared(NamedTuple):
    """The scores that one rule looks at: those of samples that are scored on every side."""

    ids: tuple[str, ...]
    candidate: NDArray[np.float64]
    baseline: NDArray[np.float64] | None
    """None: there is no other model."""
    unscored: int


def decide(
    rules: Sequence[GateRule],
    candidate: Scores,
    baselines: Mapping[Against, Scores],
    *,
    labels: Labels | None = None,
    correction: Correction = Correction.HOLM,
    seed: int = 0,
) -> GateDecision:
    """Compare a candidate with its baselines, rule by rule. No rules: nothing is demanded, so PASS.

    Args:
        rules: all of them must pass. Any FAIL makes the gate FAIL, otherwise any INCONCLUSIVE makes it INCONCLUSIVE.
        candidate: the candidate's scores by suite.
        baselines: by what they are (BASE, PREVIOUS, PRODUCTION), each like `candidate`. Without PRODUCTION (nothing is
            in production yet) a rule against it passes and says so.
        labels: what samples can be sliced by, from `labels_of`; needed where a rule has a slice.
        correction: how the rules are judged together.
        seed: of the resampling; equal input gives an equal decision.

    Raises:
        DataError: a suite or baseline is missing, a slice is empty, or the two sides were not asked the same samples.
    """
    compared = [_compared(rule, candidate, baselines, labels or {}) for rule in rules]
    tested = [
        index for index, rule in enumerate(rules) if rule.against is not Against.PRODUCTION or rule.against in baselines
    ]
    weighed = {index: _weigh(rules[index], compared[index], seed) for index in tested}
    concluded = conclude([rules[index] for index in tested], list(weighed.values()), correction)
    conclusions = dict(zip(tested, concluded, strict=True))
    comparisons = tuple(
        _comparison(rule, compared[index], weighed.get(index), conclusions.get(index))
        for index, rule in enumerate(rules)
    )
    return GateDecision(outcome=worst([entry.outcome for entry in comparisons]), comparisons=comparisons)


def labels_of(suites: Mapping[str, Sequence[Sample]]) -> Labels:
    """Return what the samples of each suite can be sliced by."""
    return {name: {sample.id: sample.labels for sample in samples} for name, samples in suites.items()}


def check_slices(rules: Sequence[GateRule], labels: Labels) -> None:
    """Refuse a slice without samples; meant for before the training, which a gate comes after.

    Raises:
        DataError: a rule's slice is empty; the values that there are, are named.
    """
    for rule in rules:
        if rule.suite in labels:
            sliced_ids(rule, labels)


def sliced_ids(rule: GateRule, labels: Labels) -> frozenset[str]:
    """Return the ids of the samples that a rule's slice takes.

    Raises:
        DataError: there are none.
    """
    table = labels.get(rule.suite, {})
    wanted = {key: str(value) for key, value in rule.slice.items()}
    chosen = frozenset(
        sample for sample, own in table.items() if all(own.get(key) == value for key, value in wanted.items())
    )
    if not chosen:
        missed = next((key for key, value in wanted.items() if value not in _values(table, key)), "")
        found = _values(table, missed) if missed else Counter[str]()
        shown = ", ".join(f"`{value}` ({count})" for value, count in found.most_common(VALUES_SHOWN))
        keys = ", ".join(f"`{key}`" for key in sorted({key for own in table.values() for key in own}))
        raise DataError(
            f"no sample of suite `{rule.suite}` has {', '.join(f'{key}={value}' for key, value in wanted.items())}",
            valid=f"`{missed}` is {shown}" if shown else f"the rows can be sliced by {keys or 'nothing'}",
            next_step="correct the rule's `slice`, or give the suite's rows that field",
        )
    return chosen


def _values(table: Mapping[str, Mapping[str, str]], key: str) -> Counter[str]:
    return Counter(own[key] for own in table.values() if key in own)


def _compared(rule: GateRule, candidate: Scores, baselines: Mapping[Against, Scores], labels: Labels) -> _Compared:
    """Find and pair the scores that a rule looks at."""
    scores = _suite_scores(rule, candidate, "candidate", labels)
    if rule.require is Requirement.BRIEF:
        return _without_baseline(_brevity(rule, scores))
    if rule.require.of_limit or (rule.against is Against.PRODUCTION and rule.against not in baselines):
        return _without_baseline({entry.sample_id: entry.score for entry in scores})
    if rule.against not in baselines:
        raise DataError(
            f"the gate compares `{rule.suite}` with `{rule.against}`, which has no scores",
            valid="scores of " + (", ".join(f"`{key}`" for key in baselines) or "no model") + " are there",
            next_step=f"evaluate the `{rule.against}` model on `{rule.suite}` first",
        )
    return _paired(rule, scores, _suite_scores(rule, baselines[rule.against], str(rule.against), labels))


def _suite_scores(rule: GateRule, scores: Scores, who: str, labels: Labels) -> Sequence[SampleScore]:
    found = scores.get(rule.suite)
    if not found:
        raise DataError(
            f"the gate needs suite `{rule.suite}`, on which `{who}` has no scores",
            valid="suites with scores: " + (", ".join(f"`{name}`" for name in scores if scores[name]) or "none"),
            next_step=f"put `{rule.suite}` under `suites`, or correct the rule's `suite`",
        )
    ids = {entry.sample_id for entry in found}
    if len(ids) != len(found):
        raise DataError(
            f"suite `{rule.suite}`: {len(found) - len(ids)} sample ids occur twice among the scores",
            valid="one score per sample",
            next_step="evaluate the suite again",
        )
    if not rule.slice:
        return found
    chosen = sliced_ids(rule, labels)
    return [entry for entry in found if entry.sample_id in chosen]


def _brevity(rule: GateRule, scores: Sequence[SampleScore]) -> dict[str, float | None]:
    """Return 1 for each answer that is short enough, 0 for one that is not, None where there is no answer."""
    longest = rule.max_words or 0
    return {
        entry.sample_id: None
        if entry.outcome is Outcome.UNSCORED and not entry.completion
        else float(len(words(entry.completion)) <= longest)
        for entry in scores
    }


def _without_baseline(values: Mapping[str, float | None]) -> _Compared:
    scored = {key: value for key, value in values.items() if value is not None}
    return _Compared(tuple(scored), np.fromiter(scored.values(), np.float64), None, len(values) - len(scored))


def _paired(rule: GateRule, candidate: Sequence[SampleScore], baseline: Sequence[SampleScore]) -> _Compared:
    """Pair by sample id; the sets must be the same, or the difference would compare unlike with unlike."""
    new = {entry.sample_id: entry.score for entry in candidate}
    old = {entry.sample_id: entry.score for entry in baseline}
    if new.keys() != old.keys():
        only_new, only_old = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
        raise DataError(
            f"suite `{rule.suite}`: candidate and `{rule.against}` were asked different samples "
            f"({len(only_new)} only the candidate: {only_new[:3]}; {len(only_old)} only the baseline: {only_old[:3]})",
            valid="the same sample ids on both sides",
            next_step="evaluate both models on the suite as it is now",
        )
    # NaN stands for None, which an array can't hold.
    mine = np.array(list(new.values()), dtype=np.float64)
    theirs = np.array([old[key] for key in new], dtype=np.float64)
    scored = ~(np.isnan(mine) | np.isnan(theirs))
    ids = tuple(key for key, there in zip(new, scored.tolist(), strict=True) if there)
    return _Compared(ids, mine[scored], theirs[scored], len(new) - len(ids))


def _weigh(rule: GateRule, compared: _Compared, seed: int) -> Evidence:
    if compared.baseline is None:
        return weigh_scores(rule, compared.candidate, compared.unscored)
    return weigh_pairs(rule, compared.candidate - compared.baseline, compared.unscored, seed)


def _comparison(
    rule: GateRule, compared: _Compared, evidence: Evidence | None, conclusion: Conclusion | None
) -> Comparison:
    """Put a comparison together; without evidence there was nothing in production to compare with."""
    candidate_score = mean(compared.candidate) if compared.ids else None
    baseline_score = mean(compared.baseline) if compared.baseline is not None and compared.ids else None
    reference = rule.limit if rule.require.of_limit else baseline_score
    changes = [] if compared.baseline is None else (compared.candidate - compared.baseline).tolist()
    settled_by = None if evidence is None or conclusion is None else needed(rule, evidence, conclusion)
    return Comparison(
        suite=rule.suite,
        slice=rule.slice,
        require=rule.require,
        against=rule.against,
        margin=rule.margin,
        limit=rule.limit,
        max_words=rule.max_words,
        confidence=rule.confidence,
        n=len(compared.ids),
        unscored=compared.unscored,
        candidate_score=candidate_score,
        baseline_score=baseline_score,
        difference=None if candidate_score is None or reference is None else candidate_score - reference,
        interval=None if evidence is None else evidence.interval,
        p_value=None if evidence is None or evidence.test is None else evidence.test.p_value,
        adjusted_p=None if conclusion is None else conclusion.adjusted_p,
        gained=tuple(key for key, change in zip(compared.ids, changes, strict=False) if change > 0),
        lost=tuple(key for key, change in zip(compared.ids, changes, strict=False) if change < 0),
        outcome=GateOutcome.PASS if conclusion is None else conclusion.outcome,
        reason=gate_words.without_production(rule)
        if evidence is None or conclusion is None
        else gate_words.reason(rule, evidence, conclusion, settled_by),
        needed_n=settled_by,
    )
