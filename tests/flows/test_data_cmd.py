"""`tutelage data` on a real catalogue: listed, shown, compared, counted, drawn, exported, converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from data_catalog.catalogue import Catalogue
from data_catalog.datasets import write_dataset
from data_catalog.errors import ConfigError, DataError
from data_catalog.records import Chunk, Document, Kind, Outcome, Split, Verdict
from data_catalog.row_formats import RowFormat
from flows.commands import data as commands
from tests.flows.compared import qa

EVIL = "What weighs \x1b[31m40 kg\x1b[0m?\n\nAnd now?"


def invoke(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(commands.data, [*arguments, "--home", str(home)])


def output(home: Path, *arguments: str) -> str:
    result = invoke(home, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def read(home: Path, *arguments: str) -> Any:
    return json.loads(output(home, *arguments, "--json"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two versions of `learn`: in the second one item has fallen out and one has come in."""
    document = Document.of(path="pump.md", title="Pump", text="The pump weighs 40 kg.")
    chunk = Chunk.of(
        document_id=document.id, start=0, end=22, heading_path=("Pump",), text=document.text, split=Split.TRAIN
    )
    catalogue = Catalogue(tmp_path / "home")
    catalogue.sync_documents([document], [chunk], [])
    items = [qa(chunk, EVIL, "40 kg"), qa(chunk, "What is it?", "A pump."), qa(chunk, "Who?", "Nobody.")]
    catalogue.add_items(items)
    said = [Outcome.PASSED, Outcome.PASSED, Outcome.FAILED]
    for again in (said, [Outcome.PASSED, Outcome.FAILED, Outcome.PASSED]):
        catalogue.put_verdicts(
            [
                Verdict(
                    item_id=item.id, check="evidence@1", outcome=outcome, reason="" if outcome == "passed" else "no"
                )
                for item, outcome in zip(items, again, strict=True)
            ]
        )
        kept = [item for item, outcome in zip(items, again, strict=True) if outcome is Outcome.PASSED]
        write_dataset(catalogue, "learn", Kind.MESSAGES, kept)
    return catalogue.home


def test_the_offered_formats_are_those_there_are() -> None:
    assert list(commands.FORMATS) == [shape.value for shape in RowFormat]


def test_versions_are_listed_newest_first(home: Path) -> None:
    newest, oldest = read(home, "list")
    assert (newest["name"], newest["kind"], newest["rows"]) == ("learn", "messages", 2)
    assert newest["dataset"] != oldest["dataset"]
    assert output(home, "list").splitlines()[1].split()[:2] == ["learn", newest["dataset"]]


def test_an_empty_catalogue_says_so(tmp_path: Path) -> None:
    Catalogue(tmp_path)
    assert output(tmp_path, "list") == "no dataset version has been written yet\n"
    assert output(tmp_path, "funnel") == "no items yet\n"


def test_a_version_is_shown_with_recipes_documents_and_models(home: Path) -> None:
    told = read(home, "show", "learn")
    assert (told["recipes"], told["documents"], told["models"]) == ({"grounded_qa": 2}, {"pump.md": 2}, [])
    text = output(home, "show", "learn")
    for expected in (told["id"], told["sha256"], "2  pump.md", "models trained on it\n  none"):
        assert expected in text


def test_a_diff_names_the_causes_and_shows_the_rows(home: Path) -> None:
    text = output(home, "diff", "learn~1", "learn")
    assert "1 rows are in both, 2 differ" in text
    assert "added · verdict changed · grounded_qa, pump.md" in text
    assert "evidence@1 said failed: no; it passes now" in text
    assert "+   user: Who?" in text
    assert "-   user: What is it?" in text
    assert "and 1 more rows" in output(home, "diff", "learn~1", "learn", "--limit", "1")
    found = read(home, "diff", "learn~1", "learn")
    assert [(row["change"], row["cause"]) for row in found["rows"]] == [
        ("added", "verdict changed"),
        ("removed", "verdict changed"),
    ]


def test_the_funnel_of_a_version_counts_its_recipes(home: Path) -> None:
    text = output(home, "funnel", "learn")
    assert "2 passed evidence@1: 1 failed of 3" in text
    assert "2 accepted, 1 rejected" in text
    assert read(home, "funnel", "learn") == read(home, "funnel")


def test_samples_stand_beside_their_source_and_hide_nothing(home: Path) -> None:
    text = output(home, "sample", "learn", "-n", "10")
    assert "from pump.md > Pump\n    The pump weighs 40 kg." in text
    assert "passed evidence@1" in text
    assert "\x1b" not in text
    assert "user: What weighs \u241b[31m40 kg" in text
    assert output(home, "sample", "learn", "--seed", "3") == output(home, "sample", "learn", "--seed", "3")
    (whole,) = [one for one in read(home, "sample", "learn") if "weighs" in str(one["payload"])]
    assert whole["payload"]["messages"][0]["content"] == EVIL


@pytest.mark.slow
def test_an_export_is_read_back_and_converted_to_a_replay_file(home: Path, tmp_path: Path) -> None:
    from training.rows import load_replay

    said = output(home, "export", "learn", str(tmp_path / "a.json"), "--format", "alpaca")
    assert said.startswith("2 rows of dataset-")
    assert {row["output"] for row in json.loads((tmp_path / "a.json").read_text())} == {"40 kg", "Nobody."}
    result = CliRunner().invoke(commands.data, ["convert", str(tmp_path / "a.json"), str(tmp_path / "replay.jsonl")])
    assert result.output.startswith("2 rows of the format alpaca written to")
    replay = load_replay(tmp_path / "replay.jsonl")
    assert {row.payload["messages"][0]["content"] for row in replay} == {EVIL, "Who?"}


def test_what_conversion_leaves_out_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "q", "completion": "a", "stars": 5}\n')
    arguments = ["convert", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--format", "sharegpt"]
    result = CliRunner().invoke(commands.data, arguments)
    assert result.stderr == "left out: `stars` in 1 rows\n"
    row = json.loads((tmp_path / "b.jsonl").read_text())
    assert row == {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["show", "lern"], ConfigError, "learn"),
        (["export", "learn", "rows.csv"], ConfigError, "ends in `.csv`"),
        (["export", "learn", "rows.json", "--format", "preference"], ConfigError, "can't hold"),
        (["diff", "learn", "learn~7"], ConfigError, "has 2 versions"),
    ],
)
def test_what_cannot_be_is_an_error_that_says_what_can(
    home: Path, arguments: list[str], error: type[Exception], said: str
) -> None:
    result = invoke(home, *arguments)
    assert isinstance(result.exception, error)
    assert said in str(result.exception)


def test_a_wrong_format_named_for_a_source_is_told_by_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    result = CliRunner().invoke(
        commands.data, ["convert", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--from", "alpaca"]
    )
    assert isinstance(result.exception, DataError)
    assert "row 1: `instruction` is missing" in str(result.exception)
