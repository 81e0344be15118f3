"""Labelled texts in a run: read and split, refused with the reason, trained on, and scored before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.errors import ConfigError, DataError
from evaluation.specs import SuiteSpec
from evaluation.suites import load_suite
from flows import model_steps, workers
from flows.config_file import load_config
from flows.context import RunContext
from flows.labelled import check_labelled, classified_lines, labelled_dataset, read_texts, score_held_out, summary
from flows.plan import describe
from flows.progress import SilentReporter
from flows.teacher import LazyTeacher
from flows.workers import WorkerHost
from tests.flows.projects import STUDENT, write_project
from tests.training.tiny import build_model
from training.specs import TrainResult

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
def test_a_stage_is_trained_and_scored_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through processes and catalogue: the dataset, the training, the accuracies, and nothing asked twice."""
    student = build_model(tmp_path / "student")
    path = project(tmp_path, TEXTS[:48], epochs=6, learning_rate=1e-2)
    path.write_text(path.read_text().replace(str(STUDENT), str(student)))
    config = load_config(path)
    with WorkerHost(config.home) as host:
        teacher = cast(LazyTeacher, Resting())
        ctx = RunContext(config, Catalogue(config.home), teacher, SilentReporter(), host)
        trained_and_scored(ctx, monkeypatch)


def trained_and_scored(ctx: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, base = ctx.config.stages[-1], model_steps.base_model(ctx)
    dataset = labelled_dataset(ctx, stage)
    assert (dataset.kind, dataset.rows) == ("label", len(read_texts(stage).train))
    run, trained = model_steps.train(ctx, stage, base, dataset)
    result = TrainResult.model_validate(run.result["train"])
    assert result.ledger.rows == dataset.rows
    told = score_held_out(ctx, stage, base, trained)
    assert told.before.best is not None
    assert told.after.best is not None
    assert told.before.best < told.after.best
    assert told.after.best > 0.9
    assert len(told.after.templates) == 2
    assert "→" in summary(told)
    assert len(list(classified_lines(told))) == 4

    def nobody(*arguments: object, **options: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(workers, "complete", nobody)
    assert score_held_out(ctx, stage, base, trained) == told


class Resting:
    """A teacher that has nothing to do."""

    def rest(self) -> None:
        """Make room for the training."""
