"""Which rules promote a model that is no better, and how long the statistics take: `python -m benchmarks.gates`.

Three ways to decide on the same simulated answers (200 questions, scores of 0 and 1, a baseline of 50 %):

- gate: Tutelage's own, `require: better`, margin 0, at 95 %, by the code that decides in a run;
- new >= old: the candidate's mean is at least the baseline's;
- unpaired z: Z = (m1 - m2) / sqrt(s1² + s2²), s the standard error of each mean by itself, promoted when m1 > m2 and
  2 (1 - Phi(|Z|)) < 0.05. That is what scripts/model_comparator.py of lm-evaluation-harness computes, with the sample
  standard deviation over sqrt(n) as its standard error (mean_stderr in lm_eval/api/metrics.py). It shows whether two
  models differ; taking it as a rule of promotion is ours, since it comes with none.

Then a whole gate, pairing included, is timed on 100,000 samples: four candidates against one baseline, five models.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from data_catalog.evaluation_records import SampleScore
from data_catalog.records import Outcome
from evaluation.gates import decide
from evaluation.simulation import SCENARIOS, Rates, Scenario, World, cells, simulate
from evaluation.specs import Against, GateRule, Requirement

SAMPLES = 200
ALPHA = 0.05
LIMITS = {"equal": ("at most", 0.05), "3 points worse": ("at most", 0.01), "10 points better": ("at least", 0.80)}
"""What is required of the gate at a correlation of 0.5."""
REQUIRED_CORRELATION = 0.5

ITEMS = 100_000
CANDIDATES = 4
LIMIT_SECONDS = 5.0


class Rival(NamedTuple):
    """Promotion rates of the two simple rules."""

    not_lower: float
    unpaired_z: float


def rivals(scenario: Scenario, world: World, trials: int, seed: int = 0) -> Rival:
    """Return how often the two simple rules promote, on pairs drawn as the gate's simulation draws them."""
    chances = cells(world.baseline_score, scenario.difference, world.correlation)
    counts = np.random.default_rng([seed, 99]).multinomial(SAMPLES, chances, size=trials)
    new, old = (counts[:, 0] + counts[:, 1]) / SAMPLES, (counts[:, 0] + counts[:, 2]) / SAMPLES
    return Rival(float(np.mean(new >= old)), float(np.mean(promoted_by_z(new, old, SAMPLES))))


def promoted_by_z(new: NDArray[np.float64], old: NDArray[np.float64], n: int) -> NDArray[np.bool_]:
    """Tell where the unpaired two-sided z-test calls the candidate better; formula and source at the top."""
    errors = np.sqrt((new * (1 - new) + old * (1 - old)) / (n - 1))
    critical = NormalDist().inv_cdf(1 - ALPHA / 2)
    better: NDArray[np.bool_] = new - old > critical * errors
    return better


def print_rates(correlation: float, trials: int) -> bool:
    """Print the promotion rates of all three rules; tell whether the gate met what is required here."""
    world = World(correlation=correlation)
    rule = GateRule(suite="gold", require=Requirement.BETTER)
    rates = simulate([rule], {"gold": SAMPLES}, world=world, trials=trials)
    print(f"\ncorrelation {correlation:g}, {trials:,} trials")
    print(f"{'candidate':18}{'gate':>8}{'new >= old':>12}{'unpaired z':>12}")
    for scenario, found in zip(SCENARIOS, rates, strict=True):
        rival = rivals(scenario, world, trials)
        required = f"   {judged(found)}" if correlation == REQUIRED_CORRELATION else ""
        print(f"{scenario.name:18}{found.promoted:8.1%}{rival.not_lower:12.1%}{rival.unpaired_z:12.1%}{required}")
    return correlation != REQUIRED_CORRELATION or all(held(found) for found in rates)


def held(found: Rates) -> bool:
    """Tell whether a rate of promotion is what is required."""
    direction, limit = LIMITS[found.scenario]
    return found.promoted <= limit if direction == "at most" else found.promoted >= limit


def judged(found: Rates) -> str:
    """Return what is required, and whether it was seen."""
    direction, limit = LIMITS[found.scenario]
    return f"required {direction} {limit:.0%}: {'held' if held(found) else 'missed'}"


def seconds_for(scores: NDArray[np.float64]) -> float:
    """Return the processor seconds of one gate decision; `scores` has a row per model, the baseline first."""
    records = [[_record(index, score) for index, score in enumerate(row)] for row in scores.tolist()]
    rule = GateRule(suite="gold", require=Requirement.BETTER)
    started = time.process_time()
    for candidate in records[1:]:
        decide([rule], {"gold": candidate}, {Against.BASE: {"gold": records[0]}})
    return time.process_time() - started


def _record(index: int, score: float) -> SampleScore:
    outcome = Outcome.PASSED if score >= 1 else Outcome.FAILED
    return SampleScore.model_construct(
        sample_id=f"s{index}", question="", answers=(), completion="", outcome=outcome, score=score
    )


def print_times(items: int) -> bool:
    """Print how long the statistics take on scores of 0 and 1 and on graded ones; tell whether both hold the limit."""
    rng = np.random.default_rng(0)
    print(f"\nstatistics of {items:,} samples x {CANDIDATES + 1} models, pairing included, processor time")
    kinds = {
        "right or wrong": (rng.random((CANDIDATES + 1, items)) < 0.6).astype(np.float64),
        "graded": rng.random((CANDIDATES + 1, items)),
    }
    slowest = 0.0
    for name, scores in kinds.items():
        seconds = seconds_for(scores)
        slowest = max(slowest, seconds)
        print(
            f"{name:18}{seconds:8.2f} s   limit {LIMIT_SECONDS:g} s: {'held' if seconds < LIMIT_SECONDS else 'missed'}"
        )
    return slowest < LIMIT_SECONDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both; the exit status is 1 where a requirement was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000, help="gates decided per simulated model")
    parser.add_argument("--items", type=int, default=ITEMS, help="samples of the timing")
    parser.add_argument("--correlations", type=float, nargs="+", default=[0.0, 0.3, 0.5, 0.7])
    options = parser.parse_args(arguments)
    print(describe())
    print(f"\npromotion on {SAMPLES} samples, the baseline at {World().baseline_score:.0%}")
    met = [print_rates(correlation, options.trials) for correlation in options.correlations]
    met.append(print_times(options.items))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
