"""A task of lm-evaluation-harness as a suite, where lm-eval is installed; tests/flows/test_lm_eval_run.py compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import ConfigError, DataError
from data_catalog.records import Completion, Likelihood
from evaluation.scoring import score_suite
from evaluation.specs import SuiteSpec
from evaluation.suites import Suite, load_suite, questions, requests
from tests.evaluation.lm_eval_rows import ANSWERS, CHOICES, ROWS, write_task

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install '.[lm-eval]'")
pytestmark = pytest.mark.filterwarnings("ignore")


def load(folder: Path, task: str = "colours", limit: int | None = None, **scorer: Any) -> Suite:
    spec = {"path": folder, "limit": limit, "scorer": {"name": "lm_eval", "task": task, **scorer}}
    return load_suite("suite", SuiteSpec.model_validate(spec))


def answered(suite: Suite, *texts: str) -> list[float | None]:
    asked = requests(suite, "m")
    found = {
        one.key: Completion(request_key=one.key, text=text, finish_reason="stop")
        for one, text in zip(asked, texts, strict=True)
        if text
    }
    return [entry.score for entry in score_suite(suite, "m", found)]


def likely(*logprobs: float) -> list[str]:
    return [Likelihood(logprob=value, tokens=1).model_dump_json() for value in logprobs]


def test_a_document_is_a_sample_that_can_be_sliced_and_decontaminated(tmp_path: Path) -> None:
    suite = load(write_task(tmp_path, CHOICES), shots=1)
    first = suite.samples[0]
    assert questions(suite) == [row["question"] for row in ROWS]
    assert (first.answers, first.labels["topic"]) == (("green",), "a")
    (one, *_) = requests(suite, "m")
    assert one.plain
    assert one.messages[0].content.endswith("What colour is the rotor?\nAnswer:")
    assert one.messages[0].content.count("Question:") == 2
    assert one.messages[1].content == " red"
    assert suite.spec.scorer.described(suite.samples).startswith("lm_eval task colours, version 2.0, 1 shots, acc,none")


def test_the_likeliest_choice_is_scored_and_a_missing_one_is_unscored(tmp_path: Path) -> None:
    suite = load(write_task(tmp_path, CHOICES))
    assert answered(suite, *likely(-3, -1, -3, -1)) == [1.0, 0.0]
    assert answered(suite, *likely(-3, -1, -1), "") == [1.0, None]
    # Per character of the choice: -4 / 3 against -6 / 5.
    assert answered(load(tmp_path, metric="acc_norm"), *likely(-4, -6, -4, -6)) == [1.0, 0.0]


def test_an_answer_is_cut_filtered_and_matched_by_the_task(tmp_path: Path) -> None:
    folder = write_task(tmp_path, {**ANSWERS, "doc_to_text": "question", "doc_to_target": "answer"})
    suite = load(folder, "parts")
    assert [one.sampling.max_tokens for one in requests(suite, "m")] == [6, 6]
    assert all(one.continues_text for one in requests(suite, "m"))
    assert answered(suite, "green\nQuestion: and", "RED") == [1.0, 0.0]
    assert answered(load(folder, "parts", metric="exact_match,lower"), "Green? no", "RED") == [1.0, 1.0]


def test_chat_asks_in_turns(tmp_path: Path) -> None:
    (one, *_) = requests(load(write_task(tmp_path, {**CHOICES, "description": "Be right."}), chat=True, shots=1), "m")
    assert [turn.role for turn in one.messages] == ["system", "user", "assistant", "user", "assistant"]


def test_what_could_change_a_score_changes_the_digest(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "a", CHOICES)
    digests = [load(folder).digest, load(folder, metric="acc_norm").digest, load(folder, shots=1).digest]
    digests += [load(folder, chat=True).digest, load(folder, limit=1).digest]
    write_task(folder, {**CHOICES, "metadata": {"version": 3.0}})
    digests.append(load(folder).digest)
    write_task(folder, CHOICES, [ROWS[0], {**ROWS[1], "gold": 1}])
    digests.append(load(folder).digest)
    assert len(set(digests)) == len(digests)
    assert load(write_task(tmp_path / "moved", CHOICES)).digest == digests[0]


def test_a_document_that_stands_twice_counts_twice(tmp_path: Path) -> None:
    suite = load(write_task(tmp_path, CHOICES, [ROWS[0], ROWS[0], ROWS[1]]))
    assert len({sample.id for sample in suite.samples}) == 3


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("accuracy", "metrics: acc, acc_norm; filters: none"),
        ("acc,strict", "filters: none"),
        ("f1", "no score of one document"),
        ("exact_match", "no score of one document"),
    ],
)
def test_a_metric_is_one_of_the_task_and_of_one_document(tmp_path: Path, metric: str, told: str) -> None:
    metrics = [] if metric.startswith("acc") else [{"metric": "f1"}, {"metric": "exact_match"}]
    folder = write_task(tmp_path, {**CHOICES, "metric_list": [*CHOICES["metric_list"], *metrics]})
    with pytest.raises(ConfigError, match=told):
        load(folder, metric=metric)


def test_a_metric_from_the_hub_is_refused(tmp_path: Path) -> None:
    for metric in ({"metric": "meteor"}, {"metric": "exact_match", "hf_evaluate": True}):
        with pytest.raises(DataError, match="fetched from the hub"):
            load(write_task(tmp_path, {**ANSWERS, "metric_list": [metric]}), "parts")


def test_a_metric_without_its_settings_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="metric 'acc'"):
        load(write_task(tmp_path, {**CHOICES, "metric_list": ["acc"]}))


def test_templates_are_rendered_in_a_sandbox(tmp_path: Path) -> None:
    attack = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(DataError, match="SecurityError"):
        load(write_task(tmp_path, {**CHOICES, "doc_to_text": attack}))


def test_a_template_of_a_missing_field_and_a_broken_row_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'nothing' is undefined"):
        load(write_task(tmp_path, {**CHOICES, "doc_to_text": "{{nothing}}"}))
    folder = write_task(tmp_path, CHOICES)
    (folder / "rows.jsonl").write_text('{"question": \n')
    with pytest.raises(DataError, match=r"rows\.jsonl|JSON"):
        load(folder)


def test_functions_run_where_they_are_allowed_to(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("def text(doc): return 'Tell me: ' + doc['question']\n")
    config = {key: value for key, value in CHOICES.items() if key != "doc_to_text"}
    folder = write_task(tmp_path, config, text="doc_to_text: !function helper.text\n")
    with pytest.raises(ConfigError, match=r"helper\.text"):
        load(folder)
    assert requests(load(folder, run_code=True), "m")[0].messages[0].content.startswith("Tell me: ")


def test_shots_that_the_task_forbids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_fewshot: 0"):
        load(write_task(tmp_path, {**CHOICES, "num_fewshot": 0}), shots=2)
