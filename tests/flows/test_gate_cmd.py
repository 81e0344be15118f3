"""`tutelage gate simulate`: from a file or a project's configuration to rates, each key with its effect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from data_catalog.errors import ConfigError, TutelageError
from evaluation.specs import Correction, Spending
from flows.cli import cli
from flows.gate_simulation import GateSimulationSpec, read_spec, simulate_gate

RULE = {"suite": "gold", "require": "better", "resamples": 1000}
SPEC: dict[str, Any] = {"rules": [RULE], "samples": {"gold": 80}, "trials": 100}


def simulate(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["gate", "simulate", str(path), *arguments])


def write(folder: Path, content: Any) -> Path:
    path = folder / "gate.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def project(folder: Path) -> Path:
    """A configuration of two gated stages whose suite has 40 samples, 10 of them numbers."""
    (folder / "docs").mkdir()
    (folder / "student").mkdir()
    (folder / "student" / "config.json").write_text("{}")
    rows = [{"question": f"{n}?", "answers": ["x"], "kind": "number" if n % 4 == 0 else "name"} for n in range(40)]
    (folder / "gold.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stages = [
        {"name": "read", "train": {"stage": "pretrain"}, "gate": [RULE]},
        {"name": "learn", "train": {"stage": "sft"}, "gate": [RULE, {**RULE, "slice": {"kind": "number"}}]},
        {"name": "prefer", "train": {"stage": "dpo"}, "gate": []},
    ]
    content = {
        "project": "demo",
        "documents": {"paths": ["docs"]},
        "teacher": {"model": "some/teacher"},
        "student": {"model": "student"},
        "suites": {"gold": {"path": "gold.jsonl"}},
        "stages": stages,
    }
    return write(folder, content)


def test_a_file_of_its_own_becomes_a_table(tmp_path: Path) -> None:
    result = simulate(write(tmp_path, SPEC))
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "1 rule on gold 80 samples; the baseline scores 50%, correlation 0.5; 100 gates each"
    assert [line.split("  ")[0] for line in lines[2:]] == ["equal", "3 points worse", "10 points better"]


def test_json_and_options(tmp_path: Path) -> None:
    options = ("--samples", "30", "--score", "0.6", "--correlation", "0.2", "--trials", "120", "--seed", "5")
    result = simulate(write(tmp_path, SPEC), "--json", *options)
    spec = GateSimulationSpec.model_validate(
        {**SPEC, "samples": {"gold": 30}, "score": 0.6, "correlation": 0.2, "trials": 120, "seed": 5}
    )
    assert json.loads(result.output) == [rates.model_dump(mode="json") for rates in simulate_gate(spec)]


def test_a_configuration_gives_rules_sizes_and_slices(tmp_path: Path) -> None:
    path = project(tmp_path)
    last, first = read_spec(path), read_spec(path, stage="read")
    assert (last.samples, last.slices) == ({"gold": 40}, {1: tuple(range(0, 40, 4))})
    assert (len(first.rules), first.slices) == (1, {})
    assert first.correction is Correction.HOLM
    path.write_text(path.read_text().replace("name: read", "gate_correction: none\n  name: read"))
    assert read_spec(path, stage="read").correction is Correction.NONE
    assert simulate(path, "--stage", "read", "--trials", "100").exit_code == 0


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ("rules", [{**RULE, "margin": 0.05}]),
        ("samples", {"gold": 400}),
        ("score", 0.8),
        ("correlation", 0.9),
        ("trials", 150),
        ("seed", 1),
    ],
)
def test_every_key_changes_the_rates(changed: str, value: Any) -> None:
    rates = simulate_gate(GateSimulationSpec.model_validate(SPEC))
    assert simulate_gate(GateSimulationSpec.model_validate({**SPEC, changed: value})) != rates


@pytest.mark.parametrize(("changed", "value"), [("budget", {"gold": 200}), ("looks", 5), ("spending", "pocock")])
def test_every_key_of_the_looks_changes_the_rates(changed: str, value: Any) -> None:
    spec = {**SPEC, "budget": {"gold": 160}}
    rates = simulate_gate(GateSimulationSpec.model_validate(spec))
    assert simulate_gate(GateSimulationSpec.model_validate({**spec, changed: value})) != rates


def test_a_budget_is_told_and_taken_from_the_configuration(tmp_path: Path) -> None:
    path = project(tmp_path)
    path.write_text(
        path.read_text()
        .replace("path: gold.jsonl", "path: gold.jsonl\n    limit: 12\n    budget: 36")
        .replace("name: learn", "gate_looks: 4\n  gate_spending: pocock\n  name: learn")
    )
    spec = read_spec(path)
    assert (spec.samples, spec.budget, spec.looks, spec.spending) == ({"gold": 12}, {"gold": 36}, 4, Spending.POCOCK)
    assert 0 < len(spec.slices[1]) <= 10
    assert max(spec.slices[1]) > 12, "a slice takes of the reserve too"
    result = simulate(path, "--stage", "read", "--trials", "100")
    assert result.output.startswith("1 rule on gold 12 to 36 samples; ")


def test_rounds_of_improvement_share_the_error(tmp_path: Path) -> None:
    path = project(tmp_path)
    assert [rule.confidence for rule in read_spec(path).rules] == [0.95, 0.95]
    path.write_text(f"{path.read_text()}improve: 4\n")
    assert [rule.confidence for rule in read_spec(path).rules] == pytest.approx([0.99, 0.99])


def test_slices_and_correction_change_the_rates_too() -> None:
    rules = [RULE, {**RULE, "slice": {"kind": "a"}}]
    sliced = {**SPEC, "rules": rules, "slices": {1: list(range(60))}, "correlation": 0.8}
    base = simulate_gate(GateSimulationSpec.model_validate(sliced))
    assert simulate_gate(GateSimulationSpec.model_validate({**sliced, "slices": {1: [0, 1]}})) != base
    assert simulate_gate(GateSimulationSpec.model_validate({**sliced, "correction": "none"})) != base


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- 1", "holds no mapping"),
        ("a: [", "can't be read"),
        ({**SPEC, "sample": 3}, "sample: Extra inputs are not permitted"),
        ({**SPEC, "rules": []}, "rules: "),
        ({**SPEC, "rules": [{**RULE, "slice": {"kind": "a"}}]}, "rule 0 has a `slice`"),
        ({**SPEC, "budget": {"gold": 79}}, "`budget.gold` is 79, less than"),
        ({**SPEC, "budget": {"other": 99}}, "`budget.other` is 99"),
        ({**SPEC, "slices": {0: [80]}}, "`slices.0` names samples that suite `gold` does not have"),
    ],
)
def test_what_is_no_gate_is_refused_with_its_key(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_spec(write(tmp_path, content))
    assert said in str(caught.value)


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no project's configuration"):
        read_spec(write(tmp_path, SPEC), stage="learn")
    path = project(tmp_path)
    with pytest.raises(ConfigError, match="stage prefer has no gate") as caught:
        read_spec(path, stage="prefer")
    assert "read, learn" in caught.value.valid
    with pytest.raises(TutelageError, match="--samples can't be used"):
        read_spec(path).changed(samples=10)
