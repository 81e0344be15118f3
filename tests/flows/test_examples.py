"""In-context examples in a project: from a dataset version of its own, and from a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_catalog.catalogue import Catalogue, DocumentDiff
from data_catalog.datasets import list_datasets
from data_catalog.errors import ConfigError, DataError
from data_catalog.records import Split
from flows.config_file import load_config
from flows.data_steps import Ingested
from flows.examples import example_pools
from flows.pipeline import refresh
from flows.progress import SilentReporter
from tests.flows.projects import write_project
from tests.scripted_server import ScriptedServer, ScriptedTeacher

ROW = {"heading": "Solmer 7", "sentence": "The Solmer 7 is green.", "response": "Green is what the Solmer 7 is."}


def with_shots(config: Path, recipe: str, source: str) -> None:
    text = config.read_text()
    line = f"{{recipe: {recipe}, samples: 1"
    config.write_text(text.replace(line, f"{line}, shots: 2, shots_from: {source}"))


@pytest.mark.slow
def test_accepted_items_of_a_version_become_examples_and_the_requests_stand_still(tmp_path: Path) -> None:
    with ScriptedServer(ScriptedTeacher().answer) as server:
        config = write_project(tmp_path, server.base_url, count=4)
        config.write_text(config.read_text().replace("evaluation_share: 0.0", "evaluation_share: 0.3"))
        refresh(load_config(config), SilentReporter())
        catalogue = Catalogue(tmp_path / ".tutelage")
        version = next(one for one in list_datasets(catalogue) if one.name == "test-learn")
        with_shots(config, "grounded_qa", version.id)
        sent = len(server.received)
        refresh(load_config(config), SilentReporter())
        conversations = [body["messages"] for body in server.received[sent:] if len(body["messages"]) == 6]
        assert conversations
        splits = {chunk.id: chunk.split for chunk in catalogue.chunks()}
        of_item = {item.id: item for item in catalogue.items(recipe="grounded_qa")}
        shown = [item for item in of_item.values() if "examples" in item.meta]
        assert shown
        for item in shown:
            examples = [of_item[id_] for id_ in item.meta["examples"]]
            assert len(examples) == 2
            assert item.chunk_id not in {example.chunk_id for example in examples}
            assert {splits[example.chunk_id or ""] for example in examples} == {Split.TRAIN}
        assert Split.EVALUATION in splits.values()
        again = refresh(load_config(config), SilentReporter())
        assert again.asked == 0, "more was accepted since, and the version is the same"

        for path in (tmp_path / "docs").glob("*.md"):
            path.write_text(path.read_text().replace(" 40", " 41"))
        with pytest.raises(ConfigError, match="has no example of grounded_qa"):
            refresh(load_config(config), SilentReporter())


@pytest.mark.parametrize(
    ("row", "error", "said"),
    [
        ("{", ConfigError, "examples.jsonl:1 is no JSON"),
        (json.dumps({**ROW, "focus": "x"}), ConfigError, "examples.jsonl:1 has focus, heading, response, sentence"),
        (json.dumps([1]), ConfigError, "examples.jsonl:1 has list"),
        ("", ConfigError, "has no example of paraphrase"),
        (
            json.dumps({**ROW, "response": "In which town did the Brixal 40 begin? In Brixalholm."}),
            DataError,
            "examples.jsonl:1 contains an evaluation question",
        ),
    ],
)
def test_a_file_of_examples_that_cannot_be_used_says_where(
    tmp_path: Path, row: str, error: type[Exception], said: str
) -> None:
    config = write_project(tmp_path, "http://127.0.0.1:9/v1", count=1)
    (tmp_path / "examples.jsonl").write_text(f"{row}\n")
    with_shots(config, "paraphrase", "examples.jsonl")
    with pytest.raises(error, match=said):
        refresh(load_config(config), SilentReporter())


def test_a_file_that_is_missing_is_told_with_its_place(tmp_path: Path) -> None:
    config = write_project(tmp_path, "http://127.0.0.1:9/v1", count=1)
    with_shots(config, "paraphrase", "examples.jsonl")
    with pytest.raises(ConfigError, match=r"generate.recipes\[1\].shots_from: no file at .*examples.jsonl"):
        load_config(config)


def test_a_recipe_that_shows_no_template_takes_no_examples(tmp_path: Path) -> None:
    config = write_project(tmp_path, "http://127.0.0.1:9/v1", count=1)
    (tmp_path / "examples.jsonl").write_text(json.dumps(ROW) + "\n")
    config.write_text(config.read_text().replace("{recipe: paraphrase,", "{recipe: magpie, openings: [x],"))
    with_shots(config, "magpie, openings: [x]", "examples.jsonl")
    loaded = load_config(config)
    nothing = Ingested((), (), (), DocumentDiff())
    with pytest.raises(ConfigError, match="magpie asks in two steps and takes no examples"):
        example_pools(loaded, Catalogue(tmp_path / ".tutelage"), nothing, len)


@pytest.mark.slow
def test_rows_of_a_file_are_shown_before_the_question(tmp_path: Path) -> None:
    with ScriptedServer(ScriptedTeacher().answer) as server:
        config = write_project(tmp_path, server.base_url, count=1)
        (tmp_path / "examples.jsonl").write_text(json.dumps(ROW) + "\n")
        with_shots(config, "paraphrase", "examples.jsonl")
        refresh(load_config(config), SilentReporter())
        shown = [body["messages"] for body in server.received if len(body["messages"]) == 4]
    assert shown
    assert all(ROW["sentence"] in messages[1]["content"] for messages in shown)
    assert {messages[2]["content"] for messages in shown} == {ROW["response"]}
    made = Catalogue(tmp_path / ".tutelage").items(recipe="paraphrase")
    assert {tuple(item.meta["examples"]) for item in made} == {("examples.jsonl:1",)}
