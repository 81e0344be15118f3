"""`tutelage trace`: the chain in both directions, as a tree and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from data_catalog.catalogue import Catalogue
from data_catalog.errors import ConfigError
from data_catalog.records import Chunk, Document, Item, Kind, Split
from flows.commands.trace import trace
from tests.flows.projects import REPOSITORY
from tests.flows.registered import register_model


def store_item(home: Path) -> tuple[Document, Item]:
    """Store a document, a chunk of it and an item made from that."""
    document = Document.of(path="pump.md", title="Pump", text="The pump weighs 40 kg.")
    chunk = Chunk.of(
        document_id=document.id,
        start=0,
        end=len(document.text),
        heading_path=("Pump",),
        text=document.text,
        split=Split.TRAIN,
    )
    item = Item.of(
        kind=Kind.TEXT,
        payload={"text": document.text},
        recipe="document@1",
        split=Split.TRAIN,
        chunk_id=chunk.id,
        document_id=document.id,
    )
    catalogue = Catalogue(home)
    catalogue.sync_documents([document], [chunk], [])
    catalogue.add_items([item])
    return document, item


def test_from_a_document_down_and_from_its_item_up(tmp_path: Path) -> None:
    document, item = store_item(tmp_path)
    down = CliRunner().invoke(trace, [document.id, "--home", str(tmp_path)]).output
    up = CliRunner().invoke(trace, [item.id, "--home", str(tmp_path)]).output
    assert item.id in down.partition("became")[2]
    assert document.id in up.partition("became")[0]


def test_json_has_both_directions(tmp_path: Path) -> None:
    document, item = store_item(tmp_path)
    node = json.loads(CliRunner().invoke(trace, [item.id, "--home", str(tmp_path), "--json"]).stdout)
    assert node["id"] == item.id
    assert {entry["kind"]: entry["count"] for entry in node["all_up"]}["document"] == 1
    assert document.id in json.dumps(node["up"])


def test_a_model_is_traced_by_its_stage(tmp_path: Path) -> None:
    version = register_model(tmp_path, "one")
    assert version.id in CliRunner().invoke(trace, ["candidate", "--home", str(tmp_path)]).output


def test_an_unknown_id_is_an_error_that_says_where_ids_are(tmp_path: Path) -> None:
    store_item(tmp_path)
    result = CliRunner().invoke(trace, ["item-0000", "--home", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    assert "tutelage models" in str(result.exception)


def test_it_starts_without_the_libraries_of_tables(tmp_path: Path) -> None:
    """DuckDB's `register` imports pandas where it is installed, which takes longer than the question itself."""
    _, item = store_item(tmp_path)
    program = (
        "import sys; from flows.commands.trace import trace; "
        f"trace([{item.id!r}, '--home', {str(tmp_path)!r}], standalone_mode=False); "
        "print('loaded:', [name for name in ('pandas', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert item.id in shown.stdout
    assert shown.stdout.splitlines()[-1] == "loaded: []"
