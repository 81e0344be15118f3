"""Which values are tried next: by lot (the default), every combination, or by Optuna's TPE.

Each is a function of its seed and of what the trials before came to, so that a sweep that was killed proposes the same
trials again and finds the finished ones in the catalogue.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from data_catalog.errors import MissingDependency
from flows.sweeping.space import Parameter, Value, Values

MAX_DRAWS = 100
"""Draws after which a combination that was tried before is taken all the same."""


class Sampler(Protocol):
    """Proposes trials, and is told what became of them."""

    trials: int
    """How many there will be."""

    def ask(self) -> Values:
        """Return the values of the next trial."""

    def tell(self, scores: Mapping[int, float], *, pruned: bool) -> None:
        """Say what the trial scored, by rung; nothing where it could not be trained."""


class ByLot:
    """Draws evenly and never the same twice; where there are no more combinations than trials, takes each once.

    Random search finds good settings in as few trials as a far finer grid, because few settings matter and it tries
    another value of each in every trial (Bergstra and Bengio, JMLR 13, 2012).
    """

    def __init__(self, parameters: Sequence[Parameter], trials: int, seed: int) -> None:
        self._parameters = parameters
        self._source = random.Random(seed)
        self._tried: set[tuple[Value, ...]] = set()
        grid = _grid(parameters)
        self._ordered = grid if 0 < len(grid) <= trials else []
        self._source.shuffle(self._ordered)
        self.trials = len(self._ordered) or trials

    def ask(self) -> Values:
        """Return the values of the next trial."""
        values = self._ordered.pop() if self._ordered else self._drawn()
        self._tried.add(values)
        return {parameter.name: value for parameter, value in zip(self._parameters, values, strict=True)}

    def tell(self, scores: Mapping[int, float], *, pruned: bool) -> None:
        """Learn nothing: what is tried next does not depend on it."""

    def _drawn(self) -> tuple[Value, ...]:
        for _ in range(MAX_DRAWS):
            values = tuple(parameter.draw(self._source) for parameter in self._parameters)
            if values not in self._tried:
                break
        return values


def _grid(parameters: Sequence[Parameter]) -> list[tuple[Value, ...]]:
    """Return all combinations; none where a parameter is a range."""
    if not all(parameter.choices for parameter in parameters):
        return []
    if math.prod(len(parameter.choices) for parameter in parameters) > 10_000:
        return []
    return list(itertools.product(*(parameter.choices for parameter in parameters)))


class Tpe:
    """Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011): ten trials by lot, then near the best.

    Raises:
        MissingDependency: Optuna is not installed.
    """

    def __init__(self, parameters: Sequence[Parameter], trials: int, seed: int) -> None:
        self._optuna = _optuna()
        self._parameters = parameters
        sampler = self._optuna.samplers.TPESampler(seed=seed)
        self._study = self._optuna.create_study(direction="maximize", sampler=sampler)
        self._trial: Any = None
        self.trials = trials

    def ask(self) -> Values:
        """Return the values of the next trial."""
        self._trial = self._study.ask()
        return {parameter.name: self._suggested(parameter) for parameter in self._parameters}

    def tell(self, scores: Mapping[int, float], *, pruned: bool) -> None:
        """Report the trial to the study, rung by rung."""
        states = self._optuna.trial.TrialState
        for rung, score in scores.items():
            self._trial.report(score, rung)
        if not scores:
            self._study.tell(self._trial, state=states.FAIL)
        elif pruned:
            self._study.tell(self._trial, state=states.PRUNED)
        else:
            self._study.tell(self._trial, scores[max(scores)])

    def _suggested(self, parameter: Parameter) -> Value:
        name, trial = parameter.name, self._trial
        if parameter.choices:
            chosen: Value = trial.suggest_categorical(name, parameter.choices)
            return chosen
        if parameter.whole:
            return parameter.rounded(
                trial.suggest_int(name, int(parameter.low), int(parameter.high), log=parameter.log)
            )
        return parameter.rounded(trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log))


SAMPLERS: Mapping[str, type[ByLot] | type[Tpe]] = {"random": ByLot, "tpe": Tpe}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingDependency(
            f"--sampler tpe needs Optuna: {error}",
            valid="--sampler random needs nothing more",
            next_step="pip install '.[sweep]'",
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
