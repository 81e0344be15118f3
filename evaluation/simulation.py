"""How often would a gate promote a model that is no better? The gate's own code, run on models whose truth is known.

Nothing is asked of any model: paired scores of 0 and 1 are drawn, in the number that the suites have, weighed and
concluded on by `evaluation.evidence`, exactly as in a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_catalog.errors import DataError
from data_catalog.records import Record
from evaluation.evidence import Evidence, GateOutcome, conclude, weigh_pairs, weigh_scores, worst
from evaluation.specs import Correction, GateRule, Requirement
from evaluation.statistics import Interval, wilson

BLOCK = 4_000_000
"""Answers drawn at once, a byte each, whatever the number of trials and samples."""


class Scenario(NamedTuple):
    """A simulated candidate: by how much its true score differs from the baseline's; 0.1 is ten points."""

    name: str
    difference: float


SCENARIOS = (
    Scenario("equal", 0.0),
    Scenario("3 points worse", -0.03),
    Scenario("10 points better", 0.10),
)


class World(NamedTuple):
    """What is assumed of the models. `correlation` is that of "baseline right" and "candidate right" over samples."""

    baseline_score: float = 0.5
    correlation: float = 0.5


USUAL_WORLD = World()


class Rates(Record):
    """What the gate said of one simulated candidate, as shares of the trials."""

    scenario: str
    difference: float
    trials: int
    promoted: float
    """Share of PASS."""
    promoted_between: tuple[float, float]
    """One-sided Wilson bounds at 95 % each: how far the number of trials lets the share be known."""
    failed: float
    inconclusive: float


class Cells(NamedTuple):
    """The chances of the four ways in which a pair can come out."""

    both: float
    only_candidate: float
    only_baseline: float
    neither: float


def cells(score: float, difference: float, correlation: float) -> Cells:
    """Return the joint distribution of two right-or-wrong answers with these means and this correlation.

    Formula: P(both right) = p q + r sqrt(p(1 - p) q(1 - q)), p the baseline's score, q = p + difference, kept within
    the bounds max(0, p + q - 1) and min(p, q) that every joint distribution has (Fréchet): two models of different
    scores can't be perfectly correlated.

    Raises:
        DataError: a score would leave [0, 1].

    Source: Emrich and Piedmonte, A Method for Generating High-Dimensional Multivariate Binary Variates, The American
    Statistician 45 (1991), section 2.
    """
    better = score + difference
    if not (0 <= score <= 1 and 0 <= better <= 1):
        raise DataError(
            f"a baseline of {score:.0%} and a candidate of {better:.0%} can't be simulated",
            valid="scores from 0 % to 100 %",
            next_step="choose another score for the baseline",
        )
    spread = math.sqrt(score * (1 - score) * better * (1 - better))
    both = min(max(score * better + correlation * spread, score + better - 1, 0.0), score, better)
    return Cells(both, max(0.0, better - both), max(0.0, score - both), max(0.0, 1 - score - better + both))


def simulate(
    rules: Sequence[GateRule],
    samples: Mapping[str, int],
    *,
    slices: Mapping[int, Sequence[int]] | None = None,
    scenarios: Sequence[Scenario] = SCENARIOS,
    world: World = USUAL_WORLD,
    correction: Correction = Correction.HOLM,
    trials: int = 1000,
    seed: int = 0,
) -> list[Rates]:
    """Return how often the gate promotes each simulated candidate.

    Rules on one suite see the same answers, as in a run, and every baseline is as good as every other. Rules on the
    length of answers are left out: what is simulated has no text.

    Args:
        rules: the gate's.
        samples: suite to its number of samples.
        slices: by the index of a rule with a slice, which samples (0, 1, ...) it takes; without, it takes all.
        scenarios: the candidates; one differs from its baseline by the same in every suite.
        world: what is assumed of the baseline.
        correction: how the rules are judged together.
        trials: gates decided per candidate.
        seed: of the draws; the bootstrap's own seed stays that of a run.

    Raises:
        DataError: nothing is left to simulate, or a suite's size is not given.
    """
    kept = [index for index, rule in enumerate(rules) if rule.require is not Requirement.BRIEF]
    if not kept:
        raise DataError("the gate has no rule that can be simulated", next_step="give it a rule on scores")
    for index in kept:
        if samples.get(rules[index].suite, 0) < 1:
            raise DataError(
                f"how many samples suite `{rules[index].suite}` has is not given",
                valid="sizes of " + (", ".join(f"`{name}`" for name in samples) or "no suite") + " are",
                next_step="give the number of samples of every suite that the gate names",
            )
    judge = _Judge([rules[index] for index in kept], correction)
    columns = [None if slices is None or index not in slices else np.array(slices[index]) for index in kept]
    found = []
    for number, scenario in enumerate(scenarios):
        rng = np.random.default_rng([seed, number])
        chances = cells(world.baseline_score, scenario.difference, world.correlation)
        outcomes = [
            judge.decide(counts)
            for block in _blocks(trials, max(samples.values()))
            for counts in _counts(judge.rules, columns, samples, chances, block, rng)
        ]
        found.append(_rates(scenario, outcomes))
    return found


Counts = tuple[int, int, int, int]
"""Pairs of each kind, in the order of `Cells`."""


class _Judge:
    """Decides a gate from counts. Equal counts are equal evidence, so each is weighed once."""

    def __init__(self, rules: Sequence[GateRule], correction: Correction) -> None:
        self.rules = rules
        self._correction = correction
        self._weighed: dict[tuple[int, tuple[int, int, int]], Evidence] = {}
        self._decided: dict[tuple[Counts, ...], GateOutcome] = {}

    def decide(self, counts: tuple[Counts, ...]) -> GateOutcome:
        """Return the gate's outcome for one trial; `counts` are by rule."""
        if counts not in self._decided:
            weighed = [self._weigh(index, found) for index, found in enumerate(counts)]
            conclusions = conclude(self.rules, weighed, self._correction)
            self._decided[counts] = worst([conclusion.outcome for conclusion in conclusions])
        return self._decided[counts]

    def _weigh(self, index: int, counts: Counts) -> Evidence:
        rule, (both, only_candidate, only_baseline, neither) = self.rules[index], counts
        limited = rule.require.of_limit
        if limited:
            seen = (both + only_candidate, only_baseline + neither, 0)
        else:
            seen = (only_candidate, only_baseline, both + neither)
        if (index, seen) not in self._weighed:
            measured = np.repeat([1.0, 0.0, 0.0] if limited else [1.0, -1.0, 0.0], seen)
            self._weighed[index, seen] = (weigh_scores if limited else weigh_pairs)(rule, measured)
        return self._weighed[index, seen]


def _blocks(trials: int, samples: int) -> Iterator[int]:
    rows = max(1, BLOCK // samples)
    for start in range(0, trials, rows):
        yield min(rows, trials - start)


def _counts(
    rules: Sequence[GateRule],
    columns: Sequence[NDArray[np.int64] | None],
    samples: Mapping[str, int],
    chances: Cells,
    trials: int,
    rng: np.random.Generator,
) -> Iterator[tuple[Counts, ...]]:
    """Yield each trial's counts by rule. Only a slice needs single answers; whole suites are drawn as counts."""
    drawn: dict[str, NDArray[np.int8]] = {}
    whole: dict[str, NDArray[np.int64]] = {}
    for name in dict.fromkeys(rule.suite for rule in rules):
        size = samples[name]
        if any(rule.suite == name and taken is not None for rule, taken in zip(rules, columns, strict=True)):
            drawn[name] = rng.choice(4, size=(trials, size), p=chances).astype(np.int8)
            whole[name] = _tally(drawn[name])
        else:
            whole[name] = rng.multinomial(size, chances, size=trials)
    by_rule = [
        whole[rule.suite] if taken is None else _tally(drawn[rule.suite][:, taken])
        for rule, taken in zip(rules, columns, strict=True)
    ]
    for trial in range(trials):
        yield tuple((int(row[0]), int(row[1]), int(row[2]), int(row[3])) for row in (table[trial] for table in by_rule))


def _tally(drawn: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return how often each kind of pair occurs in each trial, of shape (trials, 4)."""
    return np.stack([np.count_nonzero(drawn == kind, axis=1) for kind in range(4)], axis=1).astype(np.int64)


def _rates(scenario: Scenario, outcomes: Sequence[GateOutcome]) -> Rates:
    def share(outcome: GateOutcome) -> float:
        return sum(found is outcome for found in outcomes) / len(outcomes)

    promoted = share(GateOutcome.PASS)
    bounds: Interval = wilson(promoted, len(outcomes))
    return Rates(
        scenario=scenario.name,
        difference=scenario.difference,
        trials=len(outcomes),
        promoted=promoted,
        promoted_between=(bounds.lower, bounds.upper),
        failed=share(GateOutcome.FAIL),
        inconclusive=share(GateOutcome.INCONCLUSIVE),
    )
