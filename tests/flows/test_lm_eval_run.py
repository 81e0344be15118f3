"""The same task through our models and through lm-eval's own `hf` model: the same score for each document.

Runs where lm-eval is installed, which no lock brings: pip install '.[lm-eval]'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from data_catalog.evaluation_records import SampleScore
from data_catalog.records import Completion
from evaluation.scoring import score_suite
from evaluation.specs import SuiteSpec
from evaluation.suites import load_suite, requests
from tests.evaluation.lm_eval_rows import ANSWERS, CHOICES, write_task

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
            "choices": [COLOURS[number % 8], f"neither {COLOURS[(number + 3) % 8]} nor blue", "no colour"],
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
