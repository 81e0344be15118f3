"""How often would a gate promote a model that is no better? The gate's own code, run on models whose truth is known.

Nothing is asked of any model: paired scores of 0 and 1 are drawn, in the number that the suites have, weighed and
concluded on by `evaluation.evidence`, exactly as in a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_catalog.errors import DataError
from data_catalog.records import Record
from evaluation.evidence import Evidence, GateOutcome, conclude, weigh_pairs, weigh_scores, worst
from evaluation.sequential import Sizes, fractions, plan_looks, rules_at_look
from evaluation.specs import Correction, GateRule, Requirement, Spending
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
    samples: float
    """Samples seen when the gate was settled, of all suites together; the mean over the trials."""


class Looks(NamedTuple):
    """How often a gate looks, and how its error is spread. `budget` is by suite; without one, a suite does not grow."""

    budget: Mapping[str, int] = MappingProxyType({})
    most: int = 3
    spending: Spending = Spending.OBRIEN_FLEMING


ONE_LOOK = Looks()


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
    looks: Looks = ONE_LOOK,
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
        looks: how often a gate that is INCONCLUSIVE may look at more samples.
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
    chosen = [rules[index] for index in kept]
    plan = plan_looks(samples, {name: looks.budget.get(name, size) for name, size in samples.items()}, looks.most)
    seen = fractions(plan)
    judges = [_Judge(rules_at_look(chosen, seen, look, looks.spending), correction) for look in range(len(seen))]
    columns = [None if slices is None or index not in slices else np.array(slices[index]) for index in kept]
    found = []
    for number, scenario in enumerate(scenarios):
        rng = np.random.default_rng([seed, number])
        chances = cells(world.baseline_score, scenario.difference, world.correlation)
        outcomes = [
            _look_until_settled(judges, counts)
            for block in _blocks(trials, max(plan[-1].values()))
            for counts in _counts(chosen, columns, plan, chances, block, rng)
        ]
        sizes = [sum(sizes.values()) for sizes in plan]
        found.append(_rates(scenario, outcomes, sizes))
    return found


Counts = tuple[int, int, int, int]
"""Pairs of each kind, in the order of `Cells`."""


def _look_until_settled(judges: Sequence[_Judge], counts: Sequence[tuple[Counts, ...]]) -> tuple[GateOutcome, int]:
    """Return the outcome of one trial and the look that settled it, or the last one."""
    for look, (judge, seen) in enumerate(zip(judges, counts, strict=True)):
        outcome = judge.decide(seen)
        if outcome is not GateOutcome.INCONCLUSIVE:
            return outcome, look
    return outcome, len(judges) - 1


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
    plan: Sequence[Sizes],
    chances: Cells,
    trials: int,
    rng: np.random.Generator,
) -> Iterator[list[tuple[Counts, ...]]]:
    """Yield, for each trial, the counts by look and rule; each look has the answers of those before.

    Only a slice needs single answers; whole suites are drawn as counts.
    """
    drawn: dict[str, NDArray[np.int8]] = {}
    whole: dict[str, list[NDArray[np.int64]]] = {}
    for name in dict.fromkeys(rule.suite for rule in rules):
        sizes = [look[name] for look in plan]
        if any(rule.suite == name and taken is not None for rule, taken in zip(rules, columns, strict=True)):
            drawn[name] = rng.choice(4, size=(trials, sizes[-1]), p=chances).astype(np.int8)
            whole[name] = [_tally(drawn[name][:, :size]) for size in sizes]
        else:
            added = np.diff([0, *sizes])
            whole[name] = list(np.cumsum([rng.multinomial(size, chances, size=trials) for size in added], axis=0))
    tables = [
        [
            whole[rule.suite][look] if taken is None else _tally(drawn[rule.suite][:, taken[taken < sizes[rule.suite]]])
            for rule, taken in zip(rules, columns, strict=True)
        ]
        for look, sizes in enumerate(plan)
    ]
    for trial in range(trials):
        yield [
            tuple((int(row[0]), int(row[1]), int(row[2]), int(row[3])) for row in (table[trial] for table in by_rule))
            for by_rule in tables
        ]


def _tally(drawn: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return how often each kind of pair occurs in each trial, of shape (trials, 4)."""
    return np.stack([np.count_nonzero(drawn == kind, axis=1) for kind in range(4)], axis=1).astype(np.int64)


def _rates(scenario: Scenario, settled: Sequence[tuple[GateOutcome, int]], sizes: Sequence[int]) -> Rates:
    def share(outcome: GateOutcome) -> float:
        return sum(found is outcome for found, _ in settled) / len(settled)

    promoted = share(GateOutcome.PASS)
    bounds: Interval = wilson(promoted, len(settled))
    return Rates(
        scenario=scenario.name,
        difference=scenario.difference,
        trials=len(settled),
        promoted=promoted,
        promoted_between=(bounds.lower, bounds.upper),
        failed=share(GateOutcome.FAIL),
        inconclusive=share(GateOutcome.INCONCLUSIVE),
        samples=sum(sizes[look] for _, look in settled) / len(settled),
    )
