"""The same task through our models and through lm-eval's own `hf` model: the same score for each document.

Runs where lm-eval is installed, which no lock brings: pip install '.[lm-eval]'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.evaluation_records import SampleScore
from data_catalog.records import Completion, RunStatus, StepRun
from evaluation.scoring import score_suite
from evaluation.specs import Against, SuiteSpec
from evaluation.suites import load_suite, requests
from flows import model_steps, workers
from flows.config import StageConfig
from flows.config_file import load_config
from flows.context import RunContext
from flows.fingerprints import model_fingerprint
from flows.gating import Scored, gate_stage
from flows.model_steps import StudentModel
from flows.plan import describe
from flows.progress import SilentReporter
from flows.teacher import LazyTeacher
from tests.evaluation.lm_eval_rows import ANSWERS, CHOICES, write_task
from tests.flows.projects import write_project

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install '.[lm-eval]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.training.tiny import build_model

    return build_model(tmp_path_factory.mktemp("models") / "tiny")


def ours(model: Path, folder: Path, **scorer: object) -> Sequence[SampleScore]:
    from training.inference import LocalCompleter

    spec = SuiteSpec.model_validate({"path": folder, "scorer": {"name": "lm_eval", **scorer}})
    suite = load_suite("suite", spec)
    answers: dict[str, Completion] = {
        one.request_key: one
        for batch in LocalCompleter(model, "tiny").complete(requests(suite, "tiny"))
        for one in batch
    }
    return score_suite(suite, "tiny", answers)


def theirs(model: Path, folder: Path, task: str, monkeypatch: pytest.MonkeyPatch, **more: Any) -> list[Mapping]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.chdir(folder)  # where lm-eval looks for relative `data_files`
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32"},
        tasks=[task],
        device="cpu",
        batch_size=4,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        **more,
    )
    return list(found["samples"][task])


def questions(count: int) -> list[dict[str, Any]]:
    from tests.training.tiny import COLOURS, facts

    return [
        {
            "question": question,
            "choices": [COLOURS[(number + place) % 8] for place in (0, 3, 5)],
            "gold": number % 3,
        }
        for number, (question, _) in enumerate(facts(count))
    ]


@pytest.mark.parametrize(("metric", "shots", "chat"), [("acc", 0, False), ("acc_norm", 2, False), ("acc", 1, True)])
def test_multiple_choice_is_scored_as_by_lm_eval(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, shots: int, chat: bool
) -> None:
    folder = write_task(tmp_path / "tasks", CHOICES, questions(40))
    mine = ours(model, folder, task="colours", metric=metric, shots=shots, chat=chat)
    other = theirs(model, folder, "colours", monkeypatch, num_fewshot=shots, apply_chat_template=chat)
    assert [entry.score for entry in mine] == [entry[metric] for entry in other]
    right = sum(entry.score or 0 for entry in mine)
    assert 0 < right < 40, "the comparison must be able to fail"


def test_generated_answers_are_scored_as_by_lm_eval(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"question": row["question"], "answer": "?"} for row in questions(24)]
    said = ours(model, write_task(tmp_path / "first", ANSWERS, rows), task="parts")
    known = [entry.completion.split("\n")[0].split("?")[0] for entry in said]
    golds = [{**row, "answer": known[n] if n % 2 else "red"} for n, row in enumerate(rows)]
    folder = write_task(tmp_path / "tasks", ANSWERS, golds)
    mine = ours(model, folder, task="parts", metric="exact_match,whole")
    other = [entry for entry in theirs(model, folder, "parts", monkeypatch) if entry["filter"] == "whole"]
    assert [entry.score for entry in mine] == [entry["exact_match"] for entry in other]
    assert 0 < sum(entry.score or 0 for entry in mine) < 24


def test_a_gate_compares_the_documents_of_a_task_in_pairs_and_asks_nothing_twice(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.training.tiny import build_model

    path = write_project(tmp_path, "http://127.0.0.1:1/v1", gate="[{suite: colours, require: better}]", count=1)
    write_task(tmp_path / "tasks", CHOICES, questions(40))
    text = path.read_text().replace(
        "suites:", "suites:\n  colours: {path: tasks, scorer: {name: lm_eval, task: colours, metric: acc}}"
    )
    path.write_text(text)
    config = load_config(path)
    assert "colours: 40 samples, lm_eval task colours, version 2.0, 0 shots, acc,none" in describe(config)
    ctx = RunContext(config, Catalogue(config.home), cast(LazyTeacher, None), SilentReporter())
    suite = load_suite("colours", config.suites["colours"])
    other = build_model(tmp_path / "other", seed=2)
    models = [StudentModel(where.name, where, model_fingerprint(where, home=ctx.home)) for where in (other, model)]
    candidate, base = (Scored(one, model_steps.evaluate(ctx, [suite], one)) for one in models)
    monkeypatch.setattr(workers, "complete", None)
    assert model_steps.evaluate(ctx, [suite], base.model) == base.scores

    stage = StageConfig.model_validate(
        {"name": "learn", "train": {"stage": "sft"}, "gate": [{"suite": "colours", "require": "better"}]}
    )
    run = StepRun(id="run-1", step="train:learn", fingerprint="f", status=RunStatus.DONE, started_at=0.0)
    (comparison,) = gate_stage(ctx, stage, candidate, {Against.BASE: base}, run, [suite]).record.comparisons
    assert comparison["n"] == 40
    assert comparison["suite_digest"] == suite.digest
    pairs = zip(candidate.scores["colours"], base.scores["colours"], strict=True)
    won = sum((one.score or 0) > (other.score or 0) for one, other in pairs)
    assert len(comparison["gained"]) == won > 0
