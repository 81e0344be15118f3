"""`tutelage run` with real training on a tiny student: stages, gates, registry, resume. The teacher is scripted."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.errors import GateError, TrainingError
from data_catalog.records import Stage
from data_catalog.registry import Registry
from flows.config_file import load_config
from flows.pipeline import run
from flows.progress import RecordingReporter, SilentReporter
from tests.flows.projects import start_tutelage, tutelage, write_project
from tests.scripted_server import ScriptedServer, ScriptedTeacher
from training.specs import TrainResult

pytestmark = pytest.mark.slow

LENIENT = "[{suite: gold, require: not_worse, margin: 1.0}]"
STRICT = "[{suite: gold, require: better, margin: 0.9}]"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(ScriptedTeacher().answer) as running:
        yield running


def test_a_run_registers_a_candidate_and_an_unchanged_run_does_nothing_again(
    tmp_path: Path, server: ScriptedServer
) -> None:
    path = write_project(tmp_path, server.base_url, gate=LENIENT)
    config = load_config(path)
    summary = run(config, SilentReporter())
    assert summary.outcome == "PASS"
    assert summary.model_version is not None
    catalogue = Catalogue(config.home)
    candidate = Registry(catalogue).stages()[Stage.CANDIDATE]
    assert candidate is not None
    assert candidate.id == summary.model_version
    html = summary.report.read_text(encoding="utf-8")
    assert summary.model_version in html
    (learned,) = [step for step in catalogue.step_runs() if step.step == "train:learn"]
    assert learned.result["dataset"] == candidate.lineage["stages"][-1]["dataset_id"]
    asked = len(server.received)

    again = RecordingReporter(SilentReporter())
    second = run(config, again)
    assert second.model_version == summary.model_version
    assert len(server.received) == asked
    trained = [step for step in again.times if step.step.startswith(("train:", "evaluate:"))]
    assert trained
    assert all(step.cached for step in trained)

    promoted = tutelage("promote", summary.model_version, "--to", "production", "--home", config.home)
    assert promoted.returncode == 0, promoted.stderr
    traced = tutelage("trace", summary.model_version, "--home", config.home)
    assert traced.returncode == 0, traced.stderr
    assert "6 documents" in traced.stdout
    page = tmp_path / "comparison.html"
    compared = tutelage("compare", "base", "candidate", "--home", config.home, "--html", page)
    assert compared.returncode == 0, compared.stderr
    assert "gold" in compared.stdout
    assert page.is_file()
    overview = tutelage("overview", "--home", config.home)
    assert overview.returncode == 0, overview.stderr
    answer = tutelage("chat", "--stage", "production", "--home", config.home, "Who designed the Veltrano 40?")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()


def test_a_gate_that_fails_stops_the_run_and_registers_nothing(tmp_path: Path, server: ScriptedServer) -> None:
    config = load_config(write_project(tmp_path, server.base_url, gate=STRICT))
    with pytest.raises(GateError) as caught:
        run(config, SilentReporter())
    assert "learn" in str(caught.value)
    assert caught.value.exit_code == 6
    assert Registry(Catalogue(config.home)).models() == []
    assert (config.home / "reports" / "test.html").is_file()


@pytest.mark.parametrize("moment", ["train:read", "train:learn"])
def test_sigkill_while_training_goes_on_and_ends_at_the_same_model(
    tmp_path: Path, server: ScriptedServer, moment: str
) -> None:
    path = write_project(tmp_path, server.base_url, gate=LENIENT)
    config = load_config(path)
    process = start_tutelage("run", path)
    assert process.stderr is not None
    for line in process.stderr:
        if f"… {moment}" in line:
            break
    time.sleep(1.0)
    process.kill()
    process.communicate()
    asked = len(server.received)
    killed = run(config, SilentReporter())
    assert len(server.received) == asked
    shutil.rmtree(config.home)
    whole = run(config, SilentReporter())
    assert killed.model_version == whole.model_version


def test_a_model_directory_with_one_changed_byte_is_trained_again_and_can_not_be_promoted(
    tmp_path: Path, server: ScriptedServer
) -> None:
    config = load_config(write_project(tmp_path, server.base_url, gate=LENIENT))
    version = run(config, SilentReporter()).model_version
    assert version is not None
    weights = config.home / "models" / version / "model.safetensors"
    weights.chmod(0o644)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused = tutelage("promote", version, "--to", "production", "--home", config.home)
    assert refused.returncode == 9
    assert "model.safetensors" in refused.stderr


def test_a_pickle_beside_the_weights_is_refused_before_training(tmp_path: Path, server: ScriptedServer) -> None:
    path = write_project(tmp_path, server.base_url, gate=LENIENT)
    student = tmp_path / "student"
    shutil.copytree(load_config(path).student.model, student)
    weights = student / "model.safetensors"
    (student / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    weights.unlink()
    path.write_text(path.read_text().replace(str(load_config(path).student.model), str(student)))
    with pytest.raises(TrainingError, match="safetensors"):
        run(load_config(path), SilentReporter())


REWARDED = """\
  - name: judge
    train: {stage: reward, method: lora, max_length: 128}
  - name: compare
    train: {stage: grpo, method: lora, max_length: 128, reward: {model: 1, token_f1: 1}, rollout: 2, group_size: 4,
            batch_size: 8, max_new_tokens: 8, learning_rate: 1.0e-3}
    gate: []
  - name: reinforce
    train: {stage: ppo, method: lora, max_length: 128, rollout: 8, passes: 2, max_new_tokens: 8}
    gate: [{suite: gold, require: not_worse, margin: 1.0}]
"""


def test_a_reward_model_judges_the_stage_behind_it(tmp_path: Path, server: ScriptedServer) -> None:
    """It is trained and kept, neither evaluated nor registered; what it judged is the candidate.

    What `grpo` learned from its and another reward is what `ppo` goes on from.
    """
    path = write_project(tmp_path, server.base_url, gate=LENIENT)
    path.write_text(path.read_text("utf-8") + REWARDED, "utf-8")
    config, reporter = load_config(path), RecordingReporter(SilentReporter())
    summary = run(config, reporter)
    assert summary.outcome == "PASS"
    steps = [step.step for step in reporter.times]
    judged = {"train:compare", "evaluate:compare", "train:reinforce", "evaluate:reinforce"}
    assert {"train:learn", "train:judge"} | judged <= set(steps)
    assert "evaluate:judge" not in steps
    (model,) = Registry(Catalogue(config.home)).models()
    lineage = Registry(Catalogue(config.home)).show(model.id).version.lineage
    assert [stage["name"] for stage in lineage["stages"]] == ["read", "learn", "compare", "reinforce"]
    (compared,) = [step for step in Catalogue(config.home).step_runs() if step.step == "train:compare"]
    seen = TrainResult.model_validate(compared.result["train"])
    assert all(len(seen.logged(name)) == len(seen.metrics) for name in ("reward", "reward_model", "reward_token_f1"))
    assert "equal_groups" in summary.report.read_text(encoding="utf-8")
    again = RecordingReporter(SilentReporter())
    assert run(config, again).model_version == summary.model_version
    assert all(step.cached for step in again.times if step.step.startswith("train:"))


def test_the_gold_questions_never_reach_the_training_data(tmp_path: Path, server: ScriptedServer) -> None:
    path = write_project(tmp_path, server.base_url, gate=LENIENT)
    question = "Veltrano 40 > Ratings: what follows “The Veltrano 40 weighs 210”?"
    gold = tmp_path / "gold.jsonl"
    gold.write_text(json.dumps({"question": question, "answers": ["kg"]}) + "\n", encoding="utf-8")
    config = load_config(path)
    run(config, SilentReporter())
    catalogue = Catalogue(config.home)
    found = [item for item in catalogue.items() if item.meta.get("question") == question]
    verdicts = catalogue.verdicts([item.id for item in found])
    assert found
    assert any(verdict.check.startswith("contamination@") and verdict.outcome == "failed" for verdict in verdicts)
