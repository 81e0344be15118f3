"""A gate that may look several times, each time at more samples, and is still wrong no more often than it says.

Deciding at 95 % after every batch of samples is wrong far more often than in 5 % of cases. Here the error that a rule
is allowed (alpha = 1 - confidence) is spent over planned looks: look k may be wrong with the chance

    alpha_k = alpha*(t_k) - alpha*(t_{k-1}),   t_k = samples at look k / samples at the last,

alpha* a function that rises from 0 to alpha (Lan and DeMets, Discrete Sequential Boundaries for Clinical Trials,
Biometrika 70, 1983). Each look is decided at the confidence 1 - alpha_k, so that the chance to be wrong at any of them
is at most the sum, alpha: by the union bound, whatever the scores' distribution and however the looks depend on each
other. Boundaries that make use of a normal distribution would allow a little more at the last look, but hold in large
samples only. The bounds that are told at a look are repeated confidence intervals (Jennison and Turnbull, Interim
Analyses: The Repeated Confidence Interval Approach, JRSS B 51, 1989).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

from evaluation.specs import GateRule, Spending

Sizes = Mapping[str, int]
"""Suite to a number of samples."""


def plan_looks(first: Sizes, most: Sizes, looks: int) -> list[Sizes]:
    """Return how many samples of each suite each look has: from `first` in equal steps to `most`.

    One look where there is nothing to add; fewer than `looks` where there are fewer samples to add than looks.
    """
    plan: list[Sizes] = [dict(first)]
    for step in range(1, looks):
        sizes = {name: size + (most[name] - size) * step // (looks - 1) for name, size in first.items()}
        if sizes != plan[-1]:
            plan.append(sizes)
    return plan


def fractions(plan: Sequence[Sizes]) -> list[float]:
    """Return what share of the last look's samples each look has; suites that don't grow are not counted."""
    growing = [name for name in plan[0] if plan[-1][name] > plan[0][name]]
    if not growing:
        return [1.0]
    total = sum(plan[-1][name] for name in growing)
    return [sum(sizes[name] for name in growing) / total for sizes in plan]


def spent(alpha: float, fraction: float, spending: Spending) -> float:
    """Return how much of the error has been spent when this share of the samples was seen.

    Formula: O'Brien-Fleming type, 2 - 2 Phi(z / sqrt(t)), z the 1 - alpha/2 quantile of the normal; Pocock type,
    alpha ln(1 + (e - 1) t). Both are alpha at t = 1.

    Source: Lan and DeMets (1983), examples alpha_1* and alpha_2*.
    """
    if fraction >= 1:
        return alpha
    if spending is Spending.POCOCK:
        return alpha * math.log(1 + (math.e - 1) * fraction)
    normal = NormalDist()
    return 2 - 2 * normal.cdf(normal.inv_cdf(1 - alpha / 2) / math.sqrt(fraction))


def rules_at_look(
    rules: Sequence[GateRule], seen: Sequence[float], look: int, spending: Spending
) -> tuple[GateRule, ...]:
    """Return the rules with the confidence that one look has; a single look has that of the rules.

    Args:
        rules: the gate's.
        seen: of `fractions`, of all planned looks.
        look: 0 for the first.
        spending: how the error is spread over the looks.
    """
    if len(seen) == 1:
        return tuple(rules)
    return tuple(
        rule.model_copy(update={"confidence": 1 - _share(1 - rule.confidence, seen, look, spending)}) for rule in rules
    )


def _share(alpha: float, seen: Sequence[float], look: int, spending: Spending) -> float:
    before = spent(alpha, seen[look - 1], spending) if look else 0.0
    # Above what a float can tell from 1, a confidence would be no confidence.
    return max(spent(alpha, seen[look], spending) - before, 1e-12)


def shared_among(rules: Sequence[GateRule], chances: int) -> tuple[GateRule, ...]:
    """Return the rules with the error that each has when a gate is given so many chances to be passed.

    Formula: 1 - confidence, divided by the number of chances (Bonferroni).
    """
    if chances == 1:
        return tuple(rules)
    return tuple(rule.model_copy(update={"confidence": 1 - (1 - rule.confidence) / chances}) for rule in rules)
