"""`tutelage methods`: which settings are measured, how the table reads, and the command as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from flows.config_file import load_config
from flows.method_table import HEADERS, caption, methods_of, table
from tests.flows.projects import tutelage, write_project
from training.method_specs import AnyMethod, FullSpec, Ia3Spec, LoraSpec
from training.specs import MeasureResult, MethodMeasure


def test_stages_give_their_settings_and_others_their_defaults(tmp_path: Path) -> None:
    path = write_project(tmp_path, "http://127.0.0.1:9/v1")
    path.write_text(path.read_text().replace("method: lora", "method: {name: lora, rank: 3}"))
    found = {method.name: method for method in methods_of(load_config(path))}
    assert len(found) == len(get_args(AnyMethod))
    assert found["lora"] == LoraSpec(rank=3)
    assert found["ia3"] == Ia3Spec()


def test_the_table_in_words(tmp_path: Path) -> None:
    rows = (
        MethodMeasure(method=FullSpec(), trainable=4_000_000, total=4_000_000, stored_bytes=16_000_000),
        MethodMeasure(method=LoraSpec(), trainable=40_000, total=4_040_000, stored_bytes=160_500, delay=0.124),
        MethodMeasure(method=Ia3Spec(), refused="it has no k_proj"),
    )
    result = MeasureResult(methods=rows, parameters=4_000_000, tokens=64, repeats=9, device="CPU")
    full, lora, ia3 = (dict(zip(HEADERS, row, strict=True)) for row in table(result))
    assert (full["parameters"], full["share"], full["stored"]) == ("4,000,000", "100 %", "16.0 MB")
    assert full["delay"] == "none"
    assert (lora["share"], lora["stored"], lora["delay"]) == ("0.99 %", "160.5 kB", "+12 %, none merged")
    assert (lora["merges"], lora["data it wants"]) == ("yes", LoraSpec.wants)
    assert ia3["trained"] == "does not fit this model: it has no k_proj"
    config = load_config(write_project(tmp_path, "http://127.0.0.1:9/v1"))
    assert "4,000,000 parameters, CPU" in caption(config, result)


@pytest.mark.slow
def test_the_command_measures_the_student(tmp_path: Path) -> None:
    path = write_project(tmp_path, "http://127.0.0.1:9/v1")
    result = tutelage("methods", path, "--json")
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout)
    rows = {row["method"]["name"]: row for row in measured["methods"]}
    assert len(rows) == len(get_args(AnyMethod))
    assert rows["full"]["trainable"] == measured["parameters"]
    assert not any(row["refused"] for row in rows.values())
