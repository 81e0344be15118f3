"""Tasks of lm-evaluation-harness as files, for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

CHOICES: dict[str, Any] = {
    "task": "colours",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl", "train": "shots.jsonl"}},
    "test_split": "test",
    "fewshot_split": "train",
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
    "metadata": {"version": 2.0},
}
ANSWERS: dict[str, Any] = {
    "task": "parts",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n", "?"], "max_gen_toks": 6, "do_sample": False},
    "filter_list": [
        {"name": "whole", "filter": [{"function": "take_first"}]},
        {"name": "lower", "filter": [{"function": "lowercase"}, {"function": "take_first"}]},
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": False}],
}
ROWS = [
    {"question": "What colour is the rotor?", "choices": ["red", "green"], "gold": 1, "answer": "green", "topic": "a"},
    {"question": "What colour is the valve?", "choices": ["red", "amber"], "gold": 0, "answer": "red", "topic": "b"},
]


def write_task(
    folder: Path, config: Mapping[str, Any], rows: Iterable[Mapping[str, Any]] = ROWS, *, text: str = ""
) -> Path:
    """Write a task's YAML (with more `text` behind it) and its rows; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{config['task']}.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False) + text)
    asked = list(rows)
    # All splits of a data set have the same columns.
    shots = [{key: row[key] for key in row if key in asked[0]} for row in ROWS]
    for name, lines in (("rows.jsonl", asked), ("shots.jsonl", shots)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
