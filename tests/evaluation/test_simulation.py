"""The gate on simulated models: the required rates, and that each assumption changes what it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.errors import DataError
from evaluation.simulation import Rates, Scenario, World, cells, simulate
from evaluation.specs import Correction, GateRule

EQUAL, WORSE, BETTER = Scenario("equal", 0.0), Scenario("worse", -0.03), Scenario("better", 0.1)


def rule(require: str = "better", **fields: Any) -> GateRule:
    return GateRule.model_validate({"suite": "gold", "require": require, "resamples": 1000, **fields})


def promoted(rules: list[GateRule], scenario: Scenario, n: int = 200, **options: Any) -> float:
    options = {"trials": 300, **options}
    return simulate(rules, {entry.suite: n for entry in rules}, scenarios=[scenario], **options)[0].promoted


def test_the_required_rates_hold_at_two_hundred_samples() -> None:
    """Superiority at 5 %, margin 0, a baseline of 50 % and a correlation of 0.5."""
    equal, worse, better = simulate([rule()], {"gold": 200}, scenarios=(EQUAL, WORSE, BETTER), trials=800)
    assert equal.promoted <= 0.05
    assert worse.promoted <= 0.01
    assert better.promoted >= 0.80
    assert equal.promoted + equal.failed + equal.inconclusive == pytest.approx(1)
    assert equal.promoted_between[0] < equal.promoted < equal.promoted_between[1]


def test_models_that_err_on_different_samples_are_harder_to_tell_apart() -> None:
    unrelated, alike = (promoted([rule()], BETTER, world=World(0.5, correlation)) for correlation in (0.0, 0.8))
    assert unrelated < 0.75
    assert alike > 0.9


def test_scores_sizes_and_margins_matter() -> None:
    assert promoted([rule()], BETTER, n=50) < promoted([rule()], BETTER, n=400)
    assert promoted([rule(margin=0.1)], BETTER) < 0.15
    assert promoted([rule("not_worse", margin=0.1)], EQUAL) > 0.5
    at_least = rule("at_least", against="limit", limit=0.7)
    assert promoted([at_least], EQUAL, world=World(0.9)) > 0.95
    assert promoted([at_least], EQUAL, world=World(0.5)) == 0


def test_holm_asks_more_of_many_rules() -> None:
    rules = [rule(suite=f"suite{index}") for index in range(4)]
    corrected, alone = (promoted(rules, BETTER, n=100, correction=correction) for correction in Correction)
    assert corrected < alone


def test_rules_on_one_suite_see_the_same_answers() -> None:
    """Twice the same rule is promoted as often as once, which two suites would not be."""
    assert promoted([rule(), rule(against="previous")], BETTER, correction=Correction.NONE) == pytest.approx(
        promoted([rule()], BETTER), abs=0.001
    )
    two = [rule(), rule(suite="other")]
    assert promoted(two, BETTER, correction=Correction.NONE) < promoted([rule()], BETTER) - 0.05


def test_a_slice_has_its_own_samples_only() -> None:
    sliced = rule(slice={"kind": "number"})
    few = simulate([sliced], {"gold": 200}, slices={0: range(40)}, scenarios=[BETTER], trials=200)[0]
    assert few.promoted < promoted([rule()], BETTER) - 0.2


def test_equal_seeds_give_equal_rates() -> None:
    first, again, other = (simulate([rule()], {"gold": 60}, trials=200, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert Rates.model_validate_json(first[0].model_dump_json()) == first[0]


@given(st.floats(0.11, 0.89), st.floats(-0.1, 0.1), st.floats(0, 1))
def test_cells_are_a_distribution_with_the_means_asked_for(score: float, difference: float, correlation: float) -> None:
    found = cells(score, difference, correlation)
    assert sum(found) == pytest.approx(1)
    assert min(found) >= 0
    assert found.both + found.only_baseline == pytest.approx(score)
    assert found.both + found.only_candidate == pytest.approx(score + difference)


def test_cells_have_the_correlation_asked_for() -> None:
    found = cells(0.4, 0.1, 0.5)
    drawn = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [round(1e6 * share) for share in found], axis=0)
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(0.5, abs=0.001)


def test_what_can_not_be_simulated_is_refused() -> None:
    with pytest.raises(DataError, match="can't be simulated"):
        simulate([rule()], {"gold": 20}, world=World(0.95))
    with pytest.raises(DataError, match="no rule that can be simulated"):
        simulate([rule("brief", against="limit", limit=0.9, max_words=9)], {"gold": 20})
    with pytest.raises(DataError, match="suite `gold`"):
        simulate([rule()], {"general": 20})


def test_the_outcomes_are_counted_apart() -> None:
    found = simulate(
        [rule("not_worse", margin=0.0)], {"gold": 400}, scenarios=[Scenario("much worse", -0.3)], trials=100
    )
    assert (found[0].promoted, found[0].failed, found[0].inconclusive) == (0, 1, 0)
