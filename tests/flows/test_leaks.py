"""Evaluation questions in the replay file stop a run before anybody is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_catalog.errors import DataError
from evaluation.specs import SuiteSpec
from evaluation.suites import load_suite
from flows.config_file import load_config
from flows.leaks import check_replay, leaks
from flows.pipeline import refresh
from flows.progress import SilentReporter
from tests.flows.projects import write_project
from tests.scripted_server import ScriptedServer, ScriptedTeacher

QUESTION = "In which town did the Brixal 40 begin?"


def turn(question: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "x"}]}


@pytest.mark.parametrize(
    ("row", "leaks_it"),
    [
        (turn("in which town did the Brixal 40 begin"), True),
        (turn(f"Read this: it is old. {QUESTION} Answer briefly."), True),
        ({"text": f"A quiz. {QUESTION} Brixalholm."}, True),
        (turn("In which town did the Brixal 41 begin?"), False),
        (turn("Who?"), True),
        (turn("Who? asked the man."), False),
        ({"text": "In which town did the Brixal"}, False),
        ({"messages": [{"role": "assistant", "content": QUESTION}]}, False),
        ({"messages": "nonsense"}, False),
    ],
)
def test_a_question_is_found_as_a_turn_and_inside_a_text(
    tmp_path: Path, row: dict[str, object], leaks_it: bool
) -> None:
    gold = tmp_path / "gold.jsonl"
    lines = [{"question": QUESTION, "answers": ["Brixalholm"]}, {"question": "Who?", "answers": ["me"]}]
    gold.write_text("\n".join(map(json.dumps, lines)) + "\n")
    suite = load_suite("gold", SuiteSpec(path=gold))
    assert bool(list(leaks([(7, row)], [suite]))) == leaks_it


def test_rows_that_cannot_be_read_are_left_to_the_loader(tmp_path: Path) -> None:
    replay = tmp_path / "replay.jsonl"
    replay.write_bytes(b'{"text": "half\n\xff\xfe\n[]\n\n{"text": "In which town did the Brixal 40 begin?"}\n')
    config = write_project(tmp_path / "project", "http://127.0.0.1:9/v1")
    suites = [load_suite(name, spec) for name, spec in load_config(config).suites.items()]
    with pytest.raises(
        DataError, match=r"1 rows of .*\n  line 5: 'In which town did the Brixal 40 begin\?' of suite gold"
    ):
        check_replay(replay, suites)
    check_replay(replay, [])


def test_a_run_stops_before_the_teacher_is_asked(tmp_path: Path) -> None:
    with ScriptedServer(ScriptedTeacher().answer) as server:
        config = write_project(tmp_path, server.base_url)
        (tmp_path / "replay.jsonl").write_text(json.dumps(turn(QUESTION)) + "\n")
        config.write_text(config.read_text() + "replay: replay.jsonl\n")
        with pytest.raises(DataError, match="hold questions that evaluation will ask"):
            refresh(load_config(config), SilentReporter())
        assert server.received == []
