"""`tutelage inspect-batch`: from a file of any format and from a dataset version, in words and colours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.datasets import write_dataset
from data_catalog.errors import ConfigError
from data_catalog.records import Chunk, Document, Kind, Split
from flows.batch_view import dataset_file, inspect_batch, inspection_lines, start_model, wants_colour
from flows.config_file import load_config
from tests.flows.compared import qa
from tests.flows.projects import STUDENT, tutelage, write_project
from training.specs import InspectCheck, InspectResult, Ledger, SeenRow

LEDGER = Ledger(rows=1, kept=1, truncated=0, dropped=0)


def result(*, passed: bool = True) -> InspectResult:
    row = SeenRow(
        row="item-1",
        ids=(1, 2, 3, 4),
        tokens=("<|im_start|>user\n", "Hi\x1b[31m", "Ho", "<|im_end|>"),
        roles=("user", "user", "assistant", "assistant"),
        loss=(False, False, True, True),
    )
    check = InspectCheck(name="EOS is supervised", passed=passed, seen="in all rows", fix="" if passed else "do it")
    return InspectResult(rows=(row,), checks=(check,), ledger=LEDGER, cells=4, tokens=4, target_tokens=2)


def test_plain_marks_without_colours() -> None:
    text = "\n".join(inspection_lines(result(), colour=False))
    assert "item-1: 4 tokens, 2 with loss" in text
    assert "  user       <|im_start|>user⏎│Hi␛[31m\n  assistant  «Ho│<|im_end|>»" in text
    assert "PASS  EOS is supervised: in all rows" in text
    assert "\x1b" not in text


def test_colours_say_role_and_loss() -> None:
    text = "\n".join(inspection_lines(result(passed=False), colour=True))
    assert "\x1b[36m<|im_start|>user⏎│Hi␛[31m\x1b[0m" in text
    assert "\x1b[32m\x1b[1mHo│<|im_end|>\x1b[0m" in text
    assert "fix: do it" in text
    assert "«Ho" not in text


class Terminal:
    def __init__(self, is_one: bool) -> None:
        self._is_one = is_one

    def isatty(self) -> bool:
        return self._is_one


@pytest.mark.parametrize(
    ("terminal", "no_colour", "wanted"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_when_colours_are_wanted(monkeypatch: pytest.MonkeyPatch, terminal: bool, no_colour: str, wanted: bool) -> None:
    monkeypatch.setenv("NO_COLOR", no_colour)
    stream: Any = Terminal(terminal)
    assert wants_colour(stream) == wanted


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    config = load_config(write_project(tmp_path, "http://127.0.0.1:9/v1"))
    with pytest.raises(ConfigError, match="no stage `lern`") as caught:
        inspect_batch(config, "lern")
    assert "read, learn" in caught.value.valid
    with pytest.raises(ConfigError, match="no dataset version yet") as caught:
        inspect_batch(config, "learn")
    assert "--rows FILE" in caught.value.next_step


def test_a_stage_starts_from_what_the_one_before_it_left(tmp_path: Path) -> None:
    config = load_config(write_project(tmp_path, "http://127.0.0.1:9/v1"))
    learn = config.stages[1]
    assert start_model(config, learn) == STUDENT
    catalogue = Catalogue(config.home)
    run = catalogue.start_step("train:read", "f" * 32)
    model = config.home / "stages" / f"read-{'f' * 16}" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    assert start_model(config, learn) == STUDENT  # it has not ended
    catalogue.finish_step(run, {})
    assert start_model(config, learn) == model
    assert start_model(config, config.stages[0]) == STUDENT
    with catalogue.store.writing() as con:  # a sweep since then
        con.execute(
            "INSERT INTO step_runs SELECT 'run-' || n, 'sweep:learn', 'g' || n, 'done', 4e9 + n, 4e9 + n, '{}', '' "
            "FROM range(150) AS r (n)"
        )
    assert start_model(config, learn) == model


def test_the_newest_version_of_the_stage_is_taken(tmp_path: Path) -> None:
    config = load_config(write_project(tmp_path, "http://127.0.0.1:9/v1"))
    document = Document.of(path="pump.md", title="Pump", text="The pump weighs 40 kg.")
    chunk = Chunk.of(
        document_id=document.id, start=0, end=22, heading_path=("Pump",), text=document.text, split=Split.TRAIN
    )
    catalogue = Catalogue(config.home)
    catalogue.sync_documents([document], [chunk], [])
    items = [qa(chunk, "What weighs 40 kg?", "The pump."), qa(chunk, "What is it?", "A pump.")]
    catalogue.add_items(items)
    older = write_dataset(catalogue, "test-learn", Kind.MESSAGES, items[:1])
    newer = write_dataset(catalogue, "test-learn", Kind.MESSAGES, items)
    assert dataset_file(config, config.stages[1], None) == config.home / newer.path
    assert dataset_file(config, config.stages[1], "test-learn~1") == config.home / older.path


@pytest.mark.slow
def test_rows_of_a_file(tmp_path: Path) -> None:
    path = write_project(tmp_path, "http://127.0.0.1:9/v1")
    rows = [{"instruction": f"What weighs {n} kg?", "input": "", "output": "The pump."} for n in range(6)]
    rows.append({"instruction": "long? " * 200, "input": "", "output": "Yes."})
    (tmp_path / "alpaca.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen = tutelage("inspect-batch", path, "--stage", "learn", "-n", "2", "--rows", tmp_path / "alpaca.jsonl")
    assert seen.returncode == 5, seen.stderr
    assert seen.stdout.count("tokens, ") == 2
    assert "«" in seen.stdout
    assert "\x1b" not in seen.stdout
    assert seen.stdout.count("PASS  ") == 6
    assert "1 x longer than max_length" in seen.stdout
    assert "fix: raise max_length" in seen.stdout
    assert "1 of 7 checks fail" in seen.stderr
