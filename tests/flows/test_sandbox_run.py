"""The whole job on a world nobody has seen, through a real vLLM: `tutelage sandbox new`, `run`, `promote`, `chat`.

This is the one test that takes minutes. That the run ends well says that its gates passed on this world too.
"""

from __future__ import annotations

import importlib.util
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.datasets import read_rows
from data_catalog.evaluation_records import SampleScore
from data_catalog.registry import Registry
from tests.flows.projects import tutelage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
SEED = 7


def mean(scores: list[SampleScore]) -> float:
    found = [score.score for score in scores if score.score is not None]
    assert found
    return sum(found) / len(found)


def scores_of(catalogue: Catalogue, lineage: Mapping[str, object]) -> dict[str, tuple[float, float]]:
    stages = lineage["stages"]
    assert isinstance(stages, list)
    base, last = str(lineage["base"]), str(stages[-1]["model"])
    return {
        suite: (mean(catalogue.scores(base, suite)), mean(catalogue.scores(last, suite)))
        for suite in ("gold", "general", "unanswerable")
    }


@pytest.mark.timeout(2400)
def test_a_new_world_is_learned_promoted_asked_and_traced(tmp_path: Path) -> None:
    project = tmp_path / "world"
    made = tutelage("sandbox", "new", "--seed", str(SEED), "--out", project)
    assert made.returncode == 0, made.stderr
    config = project / "tutelage.yaml"

    ran = tutelage("run", config, timeout=2000)
    assert ran.returncode == 0, ran.stderr
    home = project / ".tutelage"
    catalogue = Catalogue(home)
    match = re.search(r"model-[0-9a-f]{32}", ran.stdout)
    assert match
    version = Registry(catalogue).show(match[0]).version
    scores = scores_of(catalogue, version.lineage)
    assert scores["gold"][0] < 0.10, scores
    assert scores["gold"][1] >= 0.80, scores
    assert scores["general"][1] >= scores["general"][0] - 0.02, scores
    assert scores["unanswerable"][1] >= 0.85, scores

    started = time.monotonic()
    again = tutelage("run", config)
    assert again.returncode == 0, again.stderr
    assert version.id in again.stdout
    assert "vLLM" not in again.stderr
    assert time.monotonic() - started < 60, "15 s on an idle machine; benchmarks/pipeline.py measures it"

    for command in (
        ("promote", version.id, "--to", "production"),
        ("models",),
        ("trace", version.id),
        ("doctor",),
    ):
        result = tutelage(*command, "--home", home)
        assert result.returncode == 0, (command, result.stdout, result.stderr)
    gold = [json.loads(line) for line in (project / "gold.jsonl").read_text().splitlines()]
    final = str(version.lineage["stages"][-1]["model"])
    known = next(score for score in catalogue.scores(final, "gold") if score.score == 1)
    answer = tutelage("chat", "--stage", "production", "--home", home, known.question)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == known.completion

    stages = version.lineage["stages"]
    learned = next(stage for stage in stages if stage["name"] == "learn")
    (dataset,) = [path for path in (home / "datasets").glob("*.parquet") if learned["dataset_id"] in path.name]
    rows = read_rows(dataset)
    questions = {row["question"] for row in gold}
    assert not [row for row in rows if row["payload"]["messages"][0]["content"] in questions]
