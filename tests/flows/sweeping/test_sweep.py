"""A whole sweep on a tiny model: what is refused before it, what it finds, and that a killed one goes on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.datasets import write_dataset
from data_catalog.errors import ConfigError
from data_catalog.records import Chunk, Document, Kind, RunStatus, Split
from evaluation.specs import GateRule
from flows.config import Config
from flows.config_file import load_config
from flows.progress import SilentReporter
from flows.sweeping.sweep import Wanted, primary_rule, suite_to_choose_on, sweep
from flows.sweeping.trials import Trial, TrialState
from tests.flows.compared import qa
from tests.flows.projects import NAMES, start_tutelage, tutelage
from tests.training.tiny import build_model

CONFIG = """\
project: test
documents: {{paths: [docs], chunk_tokens: 200, evaluation_share: 0.0}}
teacher: {{model: scripted, base_url: "http://127.0.0.1:9/v1"}}
student: {{model: {student}}}
suites:
  gold: {{path: gold.jsonl, max_tokens: 8, scorer: token_f1{share}}}
stages:
  - name: learn
    # What is swept.
    train: {{stage: sft, method: full, learning_rate: 1.0e-6, epochs: 4, max_length: 128, batch_size: 4}}
    gate: [{{suite: gold, require: better}}]
"""


def write(folder: Path, *, share: str = ", development_share: 0.5", stages: str = "") -> Path:
    """Write a project whose one stage has a dataset version already: 24 facts, of which the suite asks 12."""
    (folder / "docs").mkdir(parents=True)
    facts = [(f"Where does the {name} {n} stand?", f"It stands in {name}holm.") for n in range(4) for name in NAMES]
    text = " ".join(answer for _, answer in facts)
    (folder / "docs" / "pump.md").write_text(text)
    gold = [{"question": question, "answers": [answer]} for question, answer in facts[:12]]
    (folder / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold))
    config = folder / "tutelage.yaml"
    student = build_model(folder / "student")
    config.write_text(CONFIG.format(student=student, share=share) + stages)
    document = Document.of(path="pump.md", title="Pump", text=text)
    chunk = Chunk.of(document_id=document.id, start=0, end=len(text), heading_path=(), text=text, split=Split.TRAIN)
    catalogue = Catalogue(load_config(config).home)
    catalogue.sync_documents([document], [chunk], [])
    items = [qa(chunk, *fact) for fact in facts]
    catalogue.add_items(items)
    write_dataset(catalogue, "test-learn", Kind.MESSAGES, items)
    return config


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load_config(write(tmp_path_factory.mktemp("sweep") / "project"))


RATES = ("learning_rate=1e-4..2e-2",)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Wanted("learn", ("learning_rat=1e-5..1e-3",)), "did you mean `learning_rate`?"),
        (Wanted("learn", ("learning_rate=1e-3..1e-5",)), "the smaller number first"),
        (Wanted("learn", RATES, trials=0), "--trials 0"),
        (Wanted("learn", RATES * 2), "given twice for learning_rate"),
        (Wanted("learn", ()), "--parameter is missing"),
        (Wanted("lern", RATES), "no stage `lern`"),
        (Wanted("learn", RATES, suite="silver"), "no suite named 'silver'"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_trained(project: Config, wanted: Wanted, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        sweep(project, wanted, SilentReporter())
    assert says in str(refused.value)
    assert Catalogue(project.home).step_runs() == []


def test_the_gates_own_samples_are_not_chosen_on(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, share=""))
    with pytest.raises(ConfigError, match="flatters the gate"):
        sweep(config, Wanted("learn", RATES), SilentReporter())


def test_a_stage_behind_one_that_was_not_trained_or_without_rows_is_refused(tmp_path: Path) -> None:
    more = "  - {name: more, train: {stage: sft}, gate: [{suite: gold, require: better}]}\n"
    config = load_config(write(tmp_path, stages=more))
    with pytest.raises(ConfigError, match="stage more has no dataset version yet"):
        sweep(config, Wanted("more", RATES), SilentReporter())
    catalogue = Catalogue(config.home)
    write_dataset(catalogue, "test-more", Kind.MESSAGES, catalogue.items())
    with pytest.raises(ConfigError, match="starts from what learn makes, and that has not been trained"):
        sweep(config, Wanted("more", RATES), SilentReporter())


def test_the_gate_says_which_suite_chooses(project: Config) -> None:
    stage = project.stages[0]
    kept = GateRule.model_validate({"suite": "kept", "require": "not_worse"})
    better = GateRule.model_validate({"suite": "gold", "require": "better"})
    assert primary_rule(stage.model_copy(update={"gate": (kept, better)})) == better
    assert primary_rule(stage.model_copy(update={"gate": (kept,)})) == kept
    assert primary_rule(stage.model_copy(update={"gate": ()})) is None


def test_held_out_questions_may_choose_where_a_run_has_made_them(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, share=""))
    with pytest.raises(ConfigError, match="no suite named 'held_out'"):
        suite_to_choose_on(config, config.stages[0], "held_out")
    made = config.home / "suites" / "held_out.jsonl"
    made.parent.mkdir()
    made.write_bytes((tmp_path / "gold.jsonl").read_bytes())
    suite = suite_to_choose_on(config, config.stages[0], "held_out")
    assert (suite.name, len(suite.samples)) == ("held_out", 12)


def test_the_slice_of_the_gates_rule_is_chosen_on(tmp_path: Path) -> None:
    config = load_config(write(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "gold.jsonl").read_text().splitlines()]
    lines = [json.dumps({**row, "kind": "old" if n % 2 else "new"}) + "\n" for n, row in enumerate(rows)]
    (tmp_path / "gold.jsonl").write_text("".join(lines))
    rule = config.stages[0].gate[0].model_copy(update={"slice": {"kind": "old"}})
    stage = config.stages[0].model_copy(update={"gate": (rule,)})
    suite = suite_to_choose_on(config, stage, None)
    whole = suite_to_choose_on(config, config.stages[0], None)
    assert {sample.kind for sample in suite.samples} == {"old"}
    assert 0 < len(suite.samples) < len(whole.samples) == 6
    assert suite.digest != whole.digest


def test_a_trial_is_compared_on_the_samples_that_both_were_scored_on() -> None:
    one = Trial(1, {"a": 1}, TrialState.FINISHED, scores={"x": 1.0, "y": 1.0, "z": None})
    other = Trial(0, {}, TrialState.FINISHED, scores={"x": 0.0, "y": 1.0, "z": 1.0})
    assert one.score == 1.0
    assert other.score == pytest.approx(2 / 3)
    ahead = one.ahead_of(other)
    assert ahead is not None
    assert ahead.lower < 0 < ahead.upper


def arguments(config: Path, *more: str | Path) -> list[str | Path]:
    swept = ["--stage", "learn", "-p", "learning_rate=1e-3..4e-3", "-p", "batch_size=2,4", "--trials", "2"]
    return ["sweep", config, *swept, *more]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_repeats_no_finished_trial(tmp_path: Path) -> None:
    config = write(tmp_path)
    catalogue = Catalogue(load_config(config).home)
    process = start_tutelage(*arguments(config))
    done = _wait_for_steps(catalogue, process, 1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    best = tmp_path / "best.yaml"
    ended = tutelage(*arguments(config, "--write", best))
    assert ended.returncode == 0, ended.stderr
    runs = [run for run in catalogue.step_runs() if run.step == "sweep:learn"]
    finished = [run for run in runs if run.status is RunStatus.DONE]
    assert done <= {run.id for run in finished}
    assert len({run.fingerprint for run in finished}) == len(finished)  # each was done once
    assert all({"parameters", "scores", "seconds", "share"} <= run.result.keys() for run in finished)
    assert not list((tmp_path / ".tutelage" / "stages").glob("*/model"))  # no trial fills the disk
    header, *rows = ended.stdout.splitlines()[:4]
    assert re.split(r"\s{2,}", header)[:4] == ["trial", "learning_rate", "batch_size", "score"]
    assert [re.split(r"\s{2,}", row.strip())[-1] for row in rows] == ["finished"] * 3
    assert "6 samples of gold:development, which no gate asks" in ended.stdout
    swept = load_config(best)
    assert f"learning_rate: {swept.stages[0].train.learning_rate}" in ended.stdout
    assert swept.stages[0].train.learning_rate > 1e-6
    assert "# What is swept." in best.read_text()
    again = tutelage(*arguments(config, "--json"))
    assert "unchanged" in again.stderr
    told = json.loads(again.stdout)
    assert len(told["trials"]) == 3
    assert told["trials"][0]["score"] > next(t["score"] for t in told["trials"] if not t["parameters"])
    assert len([run for run in catalogue.step_runs() if run.step == "sweep:learn"]) == len(runs)


def _wait_for_steps(catalogue: Catalogue, process: subprocess.Popen[str], count: int) -> set[str]:
    """Return the finished trainings of a sweep as soon as there are so many."""
    ends = time.monotonic() + 400
    while time.monotonic() < ends:
        assert process.poll() is None, process.communicate()[1]
        done = {run.id for run in catalogue.step_runs() if run.step == "sweep:learn" and run.status is RunStatus.DONE}
        if len(done) >= count:
            return done
        time.sleep(0.2)
    raise AssertionError("no trial was finished in time")
