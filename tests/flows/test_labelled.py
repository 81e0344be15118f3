"""Labelled texts in a run: read and split, refused with the reason, trained on, and scored before and after."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_catalog.catalogue import Catalogue
from data_catalog.datasets import list_datasets
from data_catalog.errors import ConfigError, DataError
from data_catalog.records import Kind
from evaluation.specs import SuiteSpec
from evaluation.suites import load_suite
from flows.config_file import load_config
from flows.labelled import check_labelled, read_texts
from flows.pipeline import run
from flows.plan import describe
from flows.progress import RecordingReporter, SilentReporter
from tests.flows.projects import tutelage, write_project
from tests.scripted_server import ScriptedServer, ScriptedTeacher

LABELS = {"moving": ["moving", "it turns"], "still": ["still", "静止"]}
PARTS = {"rotor": "moving", "piston": "moving", "boiler": "still", "gasket": "still"}
TEXTS = [
    {"text": f"The {part} of the {name} {number} is here.", "label": label}
    for number in range(10)
    for name in ("Veltrano", "Brixal")
    for part, label in PARTS.items()
]


def project(
    folder: Path, rows: Sequence[Mapping[str, Any]] = TEXTS, data: str = "labelled: topics.jsonl", **train: Any
) -> Path:
    """Write a project whose last stage classifies."""
    path = write_project(folder, "http://127.0.0.1:9/v1", count=1)
    (folder / "topics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    settings = {
        "stage": "classify",
        "labels": LABELS,
        "templates": ["{text}\nPart: {label}", "Which part? {text} {label}"],
        "learning_rate": 4e-3,
        "epochs": 2,
        "max_length": 128,
        **train,
    }
    stage = f"  - {{name: sort, train: {json.dumps(settings)}, gate: [], data: {{{data}}}}}\n"
    path.write_text(path.read_text("utf-8") + stage, "utf-8")
    return path


def stage_of(path: Path) -> Any:
    return load_config(path).stages[-1]


def test_a_share_is_held_out_and_always_the_same(tmp_path: Path) -> None:
    texts = read_texts(stage_of(project(tmp_path)))
    assert len(texts.train) + len(texts.held_out) == len(TEXTS)
    assert 8 <= len(texts.held_out) <= 24
    assert not {text.text for text in texts.train} & {text.text for text in texts.held_out}
    again = read_texts(stage_of(project(tmp_path, [*reversed(TEXTS), *TEXTS])))
    assert set(again.held_out) == set(texts.held_out)
    assert len(again.train) == len(texts.train)  # a row that is repeated counts once
    more = read_texts(stage_of(project(tmp_path, data="labelled: topics.jsonl, held_out_share: 0.5")))
    assert set(texts.held_out) < set(more.held_out)


def test_a_file_of_its_own_is_held_out(tmp_path: Path) -> None:
    path = project(tmp_path, data="labelled: topics.jsonl, held_out: apart.csv")
    (tmp_path / "apart.csv").write_text('text,label\n"The valve, of brass.",still\n', "utf-8")
    texts = read_texts(stage_of(path))
    assert (len(texts.train), texts.held_out[0].text) == (len(TEXTS), "The valve, of brass.")
    (tmp_path / "apart.csv").write_text(f"text,label\n{TEXTS[3]['text'].upper()},still\n", "utf-8")
    with pytest.raises(DataError, match=r"1 texts stand both in .*topics.jsonl and in .*apart.csv"):
        read_texts(stage_of(path))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*TEXTS, {"text": "x", "label": "odd"}, {"text": "y", "label": "odd"}], "doesn't know: 'odd' \\(2 rows\\)"),
        ([*TEXTS, {"text": " ", "label": "still"}], "1 rows without a text, such as row 81"),
        ([*TEXTS, {**TEXTS[0], "label": "still"}], "as 'moving' and as 'still'"),
        ([*TEXTS, {"text": "x"}], "row 81: `label` is missing"),
        ([row for row in TEXTS if row["label"] == "still"], "no text with the label 'moving' to train on; .* still: "),
        ([], "has no rows"),
    ],
)
def test_texts_that_can_not_be_used(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    path = project(tmp_path, rows)
    with pytest.raises(DataError, match=said):
        read_texts(stage_of(path))
    with pytest.raises(DataError, match=said):
        describe(load_config(path))  # `tutelage check`


def test_nothing_held_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text to be scored on: of 80 none is held out"):
        read_texts(stage_of(project(tmp_path, data="labelled: topics.jsonl, held_out_share: 0.000001")))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "stages[2].data: classify needs `labelled`"),
        ("labelled: nothing.csv", "stages[2].data.labelled: no file at"),
        ("labelled: topics.jsonl, held_out: nothing.csv", "stages[2].data.held_out: no file at"),
        ("labelled: topics.jsonl, held_out_share: 1.5", "less than 1"),
        (
            "labelled: topics.jsonl, part: [0, 0.5]",
            "stages[2].data.part: a stage of kind classify trains on `labelled`",
        ),
        ("labelled: topics.jsonl, recipes: [grounded_qa]", "classify trains on `labelled` alone"),
    ],
)
def test_a_configuration_without_texts(tmp_path: Path, data: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(project(tmp_path, data=data))
    assert said.split(": ")[-1] in str(caught.value)


def test_another_stage_reads_no_labelled_texts(tmp_path: Path) -> None:
    path = project(tmp_path)
    path.write_text(
        path.read_text().replace(
            "epochs: 2, max_length: 128}\n", "epochs: 2, max_length: 128}\n    data: {labelled: topics.jsonl}\n", 1
        )
    )
    with pytest.raises(ConfigError, match="only a stage of kind classify reads it, and this is sft"):
        load_config(path)


def test_the_plan_tells_how_many_there_are(tmp_path: Path) -> None:
    texts = read_texts(stage_of(project(tmp_path)))
    lines = describe(load_config(project(tmp_path))).splitlines()
    assert f"           {len(texts.train)} labelled texts, {len(texts.held_out)} held out" in lines


def test_what_a_suite_asks_is_not_trained_on(tmp_path: Path) -> None:
    stage = stage_of(project(tmp_path))
    texts = read_texts(stage)
    suite = tmp_path / "suite.jsonl"
    spec = SuiteSpec.model_validate({"path": suite, "scorer": {"name": "classification", "labels": LABELS}})
    row = {"question": texts.train[0].text, "answers": [texts.train[0].label]}
    suite.write_text(json.dumps(row), "utf-8")
    with pytest.raises(DataError, match="1 labelled texts of stage sort hold questions"):
        check_labelled([stage], [load_suite("sorted", spec)])
    suite.write_text(json.dumps({**row, "question": texts.held_out[0].text}), "utf-8")
    check_labelled([stage], [load_suite("sorted", spec)])  # held out, it may be asked


@pytest.mark.slow
def test_a_run_trains_and_scores_before_and_after(tmp_path: Path) -> None:
    """The whole job: dataset, training, accuracies in the report, lineage; and nothing is done twice."""
    from tests.training.tiny import build_model

    labels = {"moving": ["moving", "it turns"], "still": ["still"]}
    path = project(tmp_path, TEXTS[:24], labels=labels, epochs=1)
    with ScriptedServer(ScriptedTeacher().answer) as server:
        plan = yaml.safe_load(path.read_text("utf-8"))
        plan["teacher"]["base_url"] = server.base_url
        plan["student"]["model"] = str(build_model(tmp_path / "student"))
        plan["stages"], plan["suites"] = plan["stages"][-1:], {}
        path.write_text(yaml.safe_dump(plan), "utf-8")
        config = load_config(path)
        summary = run(config, RecordingReporter(SilentReporter()))
        again = RecordingReporter(SilentReporter())
        assert run(config, again).model_version == summary.model_version
    (line,) = [step.detail for step in again.times if step.step == "classify:sort"]
    found = re.fullmatch(r"([\d.]+) %.* \u2192 ([\d.]+) %.*, ([\d.]+) % by the commonest label", line)
    assert found is not None, line
    assert all(0 <= float(share) <= 100 for share in found.groups())
    assert [step.cached for step in again.times if step.step == "train:sort"] == [True]
    assert sum(note.startswith("classify:sort: '") for note in again.notes) == 2
    page = unescape(summary.report.read_text("utf-8"))
    assert f"): {line}." in page
    assert "for a text that says nothing: moving " in page
    catalogue = Catalogue(config.home)
    (dataset,) = [one for one in list_datasets(catalogue) if one.name == "test-sort"]
    assert (dataset.kind, dataset.rows) == (Kind.LABEL, len(read_texts(config.stages[0]).train))
    assert summary.model_version is not None
    traced = tutelage("trace", summary.model_version, "--home", config.home)
    assert traced.returncode == 0, traced.stderr
    assert dataset.id in traced.stdout
