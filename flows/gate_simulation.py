"""From a configuration, or a file of its own, to the rates at which a gate promotes simulated models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from data_catalog.errors import ConfigError
from data_catalog.records import Spec
from evaluation.gates import labels_of, sliced_ids
from evaluation.sequential import shared_among
from evaluation.simulation import Looks, Rates, World, simulate
from evaluation.specs import Correction, GateRule, Spending
from evaluation.suites import load_suite
from flows.config import Config
from flows.config_file import dotted, load_config


class GateSimulationSpec(Spec):
    """A gate to simulate, and what is assumed of the models."""

    rules: tuple[GateRule, ...] = Field(min_length=1)
    """The gate's rules, as under a stage's `gate`."""
    samples: dict[str, int] = Field(min_length=1)
    """Suite to its number of samples."""
    slices: dict[int, tuple[int, ...]] = Field(default_factory=dict)
    """By the position of a rule with a slice (0, 1, ...), which samples it takes."""
    correction: Correction = Correction.HOLM
    budget: dict[str, int] = Field(default_factory=dict)
    """Suite to the most samples that an INCONCLUSIVE gate may ask; `slices` are then of all of them."""
    looks: int = Field(default=3, ge=2, le=10)
    """How often the gate looks, at most, where there is a budget."""
    spending: Spending = Spending.OBRIEN_FLEMING
    """How the error is spread over the looks."""
    score: float = Field(default=0.5, ge=0, le=1)
    """The baseline's true score."""
    correlation: float = Field(default=0.5, ge=0, le=1)
    """Between the baseline's right answers and the candidate's."""
    trials: int = Field(default=1000, ge=100)
    """Gates decided per simulated model."""
    seed: int = Field(default=0, ge=0)
    """Of the draws."""

    @model_validator(mode="after")
    def _slices_are_known(self) -> Self:
        for index, rule in enumerate(self.rules):
            taken = self.slices.get(index)
            if rule.slice and not taken:
                raise ValueError(f"rule {index} has a `slice`, so `slices` must say which samples it takes")
            most = self.budget.get(rule.suite, self.samples.get(rule.suite, 0))
            if taken and not all(0 <= sample < most for sample in taken):
                raise ValueError(f"`slices.{index}` names samples that suite `{rule.suite}` does not have")
        for name, most in self.budget.items():
            if most < self.samples.get(name, most + 1):
                raise ValueError(f"`budget.{name}` is {most}, less than the suite's samples, or of no suite")
        return self

    def changed(self, **values: Any) -> Self:
        """Return the spec with other values; `samples` as a number counts for every suite."""
        if isinstance(size := values.get("samples"), int):
            if self.slices:
                raise ConfigError(
                    "--samples can't be used with rules that have a `slice`",
                    valid="slices have the samples of their suite",
                    next_step="leave --samples away, or the sliced rules",
                )
            values["samples"] = dict.fromkeys(self.samples, size)
            values["budget"] = {name: most for name, most in self.budget.items() if most > size}
        return type(self).model_validate({**self.model_dump(), **values})

    @property
    def sentence(self) -> str:
        """What is simulated, in a line."""
        sizes = ", ".join(
            f"{name} {size:,}" + (f" to {self.budget[name]:,}" if name in self.budget else "")
            for name, size in self.samples.items()
        )
        count = f"{len(self.rules)} rule{'s' if len(self.rules) > 1 else ''}"
        return (
            f"{count} on {sizes} samples; the baseline scores {self.score:.0%}, correlation {self.correlation:g}; "
            f"{self.trials:,} gates each"
        )


def read_spec(path: Path, stage: str | None = None) -> GateSimulationSpec:
    """Read a configuration, whose suites give the sizes and slices, or a file with the simulation's own keys.

    Raises:
        ConfigError: the file can't be read, or has no gate to simulate.
    """
    content = _content(path)
    if "project" in content or "stages" in content:
        return _of_config(load_config(path), stage)
    if stage is not None:
        raise ConfigError(f"--stage {stage}: {path} is no project's configuration", next_step="leave --stage away")
    try:
        return GateSimulationSpec.model_validate(content)
    except ValidationError as error:
        details = error.errors(include_url=False)
        lines = [f"  {dotted(detail['loc'])}: {detail['msg'].removeprefix('Value error, ')}" for detail in details]
        raise ConfigError(
            f"{path} can't be simulated:\n" + "\n".join(lines),
            valid=f"keys: {', '.join(GateSimulationSpec.model_fields)}; or a project's configuration",
            next_step="edit the keys above",
        ) from error


def _content(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} can't be read: {error}", valid="a YAML file", next_step="name a configuration or a gate's file"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no mapping", valid="a project's configuration, or `rules` and `samples`")
    return content


def _of_config(config: Config, stage: str | None) -> GateSimulationSpec:
    gated = [entry for entry in config.stages if entry.gate and stage in (None, entry.name)]
    if not gated:
        names = ", ".join(entry.name for entry in config.stages if entry.gate) or "none"
        raise ConfigError(
            f"stage {stage} has no gate" if stage else "no stage has a gate",
            valid=f"stages with one: {names}",
            next_step="name one with --stage, or write a `gate`",
        )
    chosen = gated[-1]
    wanted = dict.fromkeys(rule.suite for rule in chosen.gate)
    suites = {name: load_suite(name, config.suites[name]) for name in wanted}
    labels = labels_of({name: suite.all_samples for name, suite in suites.items()})
    slices = {}
    for index, rule in enumerate(chosen.gate):
        if rule.slice:
            ids = sliced_ids(rule, labels)
            slices[index] = tuple(
                place for place, sample in enumerate(suites[rule.suite].all_samples) if sample.id in ids
            )
    return GateSimulationSpec(
        rules=shared_among(chosen.gate, config.improve + 1),
        samples={name: len(suite.samples) for name, suite in suites.items()},
        budget={name: len(suite.all_samples) for name, suite in suites.items() if suite.reserve},
        looks=chosen.gate_looks,
        spending=chosen.gate_spending,
        slices=slices,
        correction=chosen.gate_correction,
    )


def simulate_gate(spec: GateSimulationSpec) -> list[Rates]:
    """Run the simulation that a spec describes."""
    return simulate(
        spec.rules,
        spec.samples,
        slices=spec.slices,
        world=World(spec.score, spec.correlation),
        correction=spec.correction,
        looks=Looks(spec.budget, spec.looks, spec.spending),
        trials=spec.trials,
        seed=spec.seed,
    )


def table(rates: Sequence[Rates]) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows for people."""
    headers = ["candidate", "promoted", "90 % interval", "failed", "inconclusive", "samples"]
    rows = [
        [
            entry.scenario,
            f"{entry.promoted:.1%}",
            "{:.1%} to {:.1%}".format(*entry.promoted_between),
            f"{entry.failed:.1%}",
            f"{entry.inconclusive:.1%}",
            f"{entry.samples:,.0f}",
        ]
        for entry in rates
    ]
    return headers, rows
