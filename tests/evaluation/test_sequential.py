"""A gate that looks several times: its plan, how its error is spent, and that it is not wrong more often for it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.sequential import fractions, plan_looks, rules_at_look, spent
from evaluation.simulation import Looks, Rates, Scenario, simulate
from evaluation.specs import GateRule, Spending

EQUAL, BETTER = Scenario("equal", 0.0), Scenario("better", 0.1)


def rule(**fields: Any) -> GateRule:
    return GateRule.model_validate({"suite": "gold", "require": "better", "resamples": 1000, **fields})


def test_looks_go_from_the_first_size_to_the_budget_in_equal_steps() -> None:
    plan = plan_looks({"gold": 100, "fixed": 50}, {"gold": 400, "fixed": 50}, 4)
    assert plan == [{"gold": size, "fixed": 50} for size in (100, 200, 300, 400)]
    assert fractions(plan) == [0.25, 0.5, 0.75, 1.0]
    assert len(plan_looks({"gold": 10}, {"gold": 12}, 5)) == 3
    nothing = plan_looks({"gold": 10}, {"gold": 10}, 5)
    assert (len(nothing), fractions(nothing)) == (1, [1.0])
    assert fractions(plan_looks({}, {}, 3)) == [1.0]


@given(
    st.floats(0.001, 0.4),
    st.lists(st.integers(1, 1000), min_size=1, max_size=8, unique=True),
    st.sampled_from(list(Spending)),
)
def test_all_looks_together_spend_the_error_of_one(alpha: float, sizes: list[int], spending: Spending) -> None:
    seen = [size / max(sizes) for size in sorted(sizes)]
    rules = [rules_at_look([rule(confidence=1 - alpha)], seen, look, spending)[0] for look in range(len(seen))]
    assert sum(1 - entry.confidence for entry in rules) == pytest.approx(alpha, abs=1e-9)
    assert all(entry.confidence >= 1 - alpha - 1e-12 for entry in rules)


def test_the_spending_functions_are_those_of_lan_and_demets() -> None:
    # Their table 1 for alpha = 0.05 one-sided, five equal looks, O'Brien-Fleming type: z of 4.877 at the first.
    obf = spent(0.025, 0.2, Spending.OBRIEN_FLEMING)
    assert obf == pytest.approx(2 - 2 * 0.5 * (1 + math.erf(2.2414027 / math.sqrt(0.2) / math.sqrt(2))), rel=1e-5)
    assert spent(0.05, 0.5, Spending.POCOCK) == pytest.approx(0.05 * math.log(1 + (math.e - 1) / 2))
    for spending in Spending:
        assert spent(0.05, 1.0, spending) == 0.05
    assert spent(0.05, 0.5, Spending.OBRIEN_FLEMING) == pytest.approx(0.00557, abs=1e-5)


def test_a_gate_with_one_look_is_as_it_was() -> None:
    rules = (rule(),)
    assert rules_at_look(rules, [1.0], 0, Spending.POCOCK) == rules


def rates(scenario: Scenario, looks: Looks, n: int = 60, **options: Any) -> Rates:
    options = {"trials": 600, **options}
    return simulate([rule()], {"gold": n}, scenarios=[scenario], looks=looks, **options)[0]


THREE = Looks({"gold": 300}, 3, Spending.OBRIEN_FLEMING)


@pytest.mark.parametrize("spending", list(Spending))
def test_an_equal_model_is_promoted_no_more_often_than_the_error_allows(spending: Spending) -> None:
    assert rates(EQUAL, THREE._replace(spending=spending), trials=1500).promoted <= 0.05


def test_a_better_model_is_promoted_with_fewer_samples_than_the_budget_has() -> None:
    fixed, looks = rates(BETTER, Looks(), 300), rates(BETTER, THREE)
    assert looks.promoted > fixed.promoted - 0.04
    assert looks.samples < 270
    assert fixed.samples == 300
    assert rates(BETTER, THREE._replace(spending=Spending.POCOCK)).samples < looks.samples
    assert looks.promoted > rates(BETTER, Looks()).promoted + 0.2


def test_slices_grow_with_their_suite() -> None:
    sliced = rule(slice={"kind": "number"})
    options: dict[str, Any] = {"slices": {0: range(0, 500, 2)}, "scenarios": [BETTER], "trials": 300}
    grown = simulate([sliced], {"gold": 100}, looks=Looks({"gold": 500}), **options)[0]
    assert (
        grown.promoted > simulate([sliced], {"gold": 100}, **{**options, "slices": {0: range(0, 100, 2)}})[0].promoted
    )
