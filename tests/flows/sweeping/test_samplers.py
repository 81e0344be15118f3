"""What is tried next: never the same twice, the same again with the same seed, and near the best with Optuna."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from data_catalog.errors import MissingDependency
from flows.commands import sweep as command
from flows.sweeping.samplers import SAMPLERS, ByLot, Tpe
from flows.sweeping.space import Parameter, Values, parse_parameter
from flows.sweeping.trials import shares_for, survives
from training.specs import SftSpec

RATE = parse_parameter("learning_rate=1e-5..1e-1", SftSpec())
RANK = parse_parameter("method.rank=8,16,32", SftSpec())
PACKING = parse_parameter("packing=true,false", SftSpec())
needs_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="Optuna is not installed")


def proposed(sampler: ByLot | Tpe, score_at: float = 1e-3) -> list[Values]:
    """Ask for all trials, and tell of each that it is the better the nearer its rate is to `score_at`."""
    found = []
    for _ in range(sampler.trials):
        values = sampler.ask()
        found.append(values)
        rate = values.get("learning_rate", score_at)
        assert isinstance(rate, float)
        sampler.tell({0: 1 - min(1.0, abs(rate - score_at) * 100)}, pruned=False)
    return found


def test_draws_are_those_of_the_seed() -> None:
    first, again, other = (proposed(ByLot([RATE, RANK], 8, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len({tuple(values.items()) for values in first}) == 8


def test_few_combinations_are_all_tried_once() -> None:
    sampler = ByLot([RANK, PACKING], 12, 3)
    found = proposed(sampler)
    assert sampler.trials == len(found) == 6
    assert {(values["method.rank"], values["packing"]) for values in found} == {
        (rank, packed) for rank in (8, 16, 32) for packed in (True, False)
    }


def test_more_combinations_than_trials_are_drawn_without_repeats() -> None:
    found = proposed(ByLot([RANK, PACKING], 5, 3))
    assert len({tuple(values.items()) for values in found}) == 5


def test_the_command_offers_the_samplers_that_there_are() -> None:
    assert tuple(SAMPLERS) == command.SAMPLERS


@pytest.mark.parametrize(
    ("trials", "prune", "shares"),
    [
        (2, True, (1,)),
        (3, True, (1 / 3, 1)),
        (9, True, (1 / 9, 1 / 3, 1)),
        (99, True, (1 / 9, 1 / 3, 1)),
        (9, False, (1,)),
    ],
)
def test_shares_leave_a_trial_for_the_last(trials: int, prune: bool, shares: tuple[float, ...]) -> None:
    assert shares_for(trials, prune=prune) == pytest.approx(shares)


def test_the_best_third_goes_on_and_a_tie_is_no_defeat() -> None:
    seen: list[float] = []
    went_on = []
    for score in (0.2, 0.1, 0.3, 0.3, 0.25, 0.0, 0.1):
        seen.append(score)
        went_on.append(survives(score, seen))
    assert went_on == [True, False, True, True, False, False, False]
    assert all(survives(0.0, [0.0] * count) for count in range(1, 8))


def test_without_optuna_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingDependency) as missing:
        Tpe([RATE], 3, 0)
    assert "pip install '.[sweep]'" in missing.value.next_step


@needs_optuna
def test_tpe_looks_near_the_best_and_repeats_itself() -> None:
    found = proposed(Tpe([RATE, RANK, Parameter("batch_size", low=2, high=32, whole=True, log=True)], 40, 5))
    rates = [float(str(values["learning_rate"])) for values in found]

    def near(some: list[float]) -> float:
        return sum(1e-4 < rate < 1e-2 for rate in some) / len(some)

    assert near(rates[-20:]) > near(rates[:10])
    assert found == proposed(Tpe([RATE, RANK, Parameter("batch_size", low=2, high=32, whole=True, log=True)], 40, 5))
