"""Files of rows: every ending, read again, detected, refused with the line where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.dataset_export import convert_rows, export_dataset
from data_catalog.datasets import write_dataset
from data_catalog.errors import ConfigError, DataError, MachineError, TutelageError
from data_catalog.records import DatasetVersion, Item, Kind, Split
from data_catalog.row_files import read_payloads, write_rows
from data_catalog.row_formats import RowFormat
from tests.data_catalog.small_world import chunk, document

ENDINGS = (".jsonl", ".json", ".parquet", "")
PAIR = {
    "prompt": [{"role": "user", "content": "Q <script>?"}],
    "chosen": [{"role": "assistant", "content": "文 \u2028"}],
    "rejected": [{"role": "assistant", "content": "n\no"}],
}


def payloads(kind: Kind) -> list[dict[str, Any]]:
    if kind is Kind.TEXT:
        return [{"text": f"line {number}\nand \u2028 文 {number}"} for number in range(3)]
    if kind is Kind.PREFERENCE:
        return [PAIR]
    if kind is Kind.LABEL:
        return [{"text": f"line {number}\nand \u2028 文", "label": f"{number}"} for number in range(3)]
    turns = [PAIR["prompt"][0], PAIR["chosen"][0]]
    return [
        {"messages": [{"role": "system", "content": "Be exact."}, *turns]},
        {"messages": [*turns, *turns]},
        {"messages": turns},
    ]


def stored(catalogue: Catalogue, kind: Kind, rows: list[dict[str, Any]] | None = None) -> DatasetVersion:
    of = chunk(document("a.md"))
    items = [
        Item.of(
            kind=kind,
            payload=payload,
            recipe="grounded_qa",
            split=Split.TRAIN,
            chunk_id=of.id,
            document_id=of.document_id,
        )
        for payload in rows or payloads(kind)
    ]
    return write_dataset(catalogue, kind.value, kind, items)


def in_order(found: Any) -> list[str]:
    return sorted(json.dumps(entry, sort_keys=True) for entry in found)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("shape", RowFormat)
def test_a_version_comes_back_from_every_format_and_file(
    shape: RowFormat, ending: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    version = stored(catalogue, shape.kind)
    path = export_dataset(catalogue, version, tmp_path / f"out{ending}", shape)
    found = read_payloads(path)
    assert found.format is shape
    assert in_order(found.payloads) == in_order(payloads(shape.kind))
    assert set(found.left_out) <= {"id", "recipe", "document_id"}


def test_csv_is_read_with_its_quotes_and_not_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(
        '\ufefftext,label,by\r\n"It leaks, ""badly"",\nand hums.",fault,me\r\n\r\n声音很大,0,\r\n'.encode()
    )
    found = read_payloads(path)
    assert found.payloads == (
        {"text": 'It leaks, "badly",\nand hums.', "label": "fault"},
        {"text": "声音很大", "label": "0"},
    )
    assert found.left_out == {"by": 2}
    with pytest.raises(ConfigError, match=r"ends in `\.csv`"):
        write_rows(tmp_path / "out.csv", RowFormat.LABEL, found.payloads)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\nIt leaks, badly.,fault\n", r"line 2: 3 fields, where the header has 2"),
        ('text,label\n"It leaks,fault\n', r"line \d: not CSV"),
        ("text,label\n", "has no rows"),
        ("", "has no rows"),
        ("words,class\nIt leaks.,fault\n", "none of the known formats: its keys are class, words"),
    ],
)
def test_csv_that_is_none(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        read_payloads(path)


def test_a_versions_own_file_is_read_as_what_it_holds(catalogue: Catalogue) -> None:
    version = stored(catalogue, Kind.PREFERENCE)
    found = read_payloads(catalogue.home / version.path)
    assert (found.format, found.payloads) == (RowFormat.PREFERENCE, (PAIR,))


def test_rows_keep_their_origin_where_there_is_room(catalogue: Catalogue, tmp_path: Path) -> None:
    version = stored(catalogue, Kind.MESSAGES)
    directory = export_dataset(catalogue, version, tmp_path / "hub")
    table = pq.read_table(directory / "data" / "train-00000-of-00001.parquet")
    assert table.column_names == ["id", "recipe", "document_id", "messages"]
    assert table["document_id"].unique().to_pylist() == [document("a.md").id]
    lines = export_dataset(catalogue, version, tmp_path / "rows.jsonl").read_text(encoding="utf-8").split("\n")
    # The nth line is the nth item of the version, so nothing is lost where only the row itself is written.
    read = [json.loads(line) for line in lines[:-1]]
    assert read == [{"messages": row["messages"]} for row in table.to_pylist()]


def test_the_card_says_what_it_is_and_where_it_comes_from(catalogue: Catalogue, tmp_path: Path) -> None:
    version = stored(catalogue, Kind.MESSAGES)
    card = (export_dataset(catalogue, version, tmp_path / "hub") / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nconfigs:\n")
    for expected in (version.id, version.sha256, "3 rows", "1 document,", "| grounded_qa | 3 |", "not known here"):
        assert expected in card


def test_a_directory_of_datasets_save_to_disk_is_read(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(payloads(Kind.TEXT))
    with (
        pa.OSFile(str(tmp_path / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table)
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert in_order(read_payloads(tmp_path).payloads) == in_order(payloads(Kind.TEXT))


def test_several_splits_are_not_mixed(tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match="several splits: train, test"):
        read_payloads(tmp_path)
    assert read_payloads(tmp_path / "train.jsonl").payloads == ({"text": "a"},)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"text": "a", "score": 1}, {"text": "b", "score": 2, "url": "u"}]', encoding="utf-8-sig")
    found = read_payloads(path)
    assert (found.format, found.left_out) == (RowFormat.TEXT, {"score": 2, "url": 1})


def test_what_only_some_rows_of_a_format_have_is_read_and_not_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"system": "Be exact.", "conversations": [{"from": "human", "value": "q"}]}\n')
    found = read_payloads(path)
    assert found.left_out == {}
    assert found.payloads[0]["messages"][0] == {"role": "system", "content": "Be exact."}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "line 2 is no object but list"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 3}\n', "row 2: `text` is int"),
        ("a.jsonl", b'{"question": "a"}\n', "none of the known formats: its keys are question"),
        ("a.jsonl", b"\n\n", "has no rows"),
        ("a.jsonl", b'{"text": "\xff"}\n', "can't be read"),
        ("a.jsonl", b"[" * 100_000, "can't be read|not JSON"),
        ("a.json", b'{"text": "a"}\n{"text": "b"}\n', "is not JSON"),
        ("a.parquet", b"PAR1 and then nothing", "can't be read"),
        ("a.tsv", b"text\na\n", "ends in `.tsv`"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TutelageError, match=said) as caught:
        read_payloads(path)
    assert str(path) in str(caught.value) or name in str(caught.value)


def test_a_missing_file_and_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file at"):
        read_payloads(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no rows"):
        read_payloads(tmp_path)


def test_nothing_that_exists_is_written_over(catalogue: Catalogue, tmp_path: Path) -> None:
    version = stored(catalogue, Kind.TEXT)
    path = tmp_path / "rows.jsonl"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        export_dataset(catalogue, version, path)
    assert path.read_text() == "mine"


def test_a_format_of_another_kind_is_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    version = stored(catalogue, Kind.TEXT)
    with pytest.raises(ConfigError, match=r"`alpaca` can't hold dataset-.* text items"):
        export_dataset(catalogue, version, tmp_path / "a.json", RowFormat.ALPACA)
    source = export_dataset(catalogue, version, tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match="`sharegpt` can't hold rows of the format `text`"):
        convert_rows(read_payloads(source), tmp_path / "b.json", RowFormat.SHAREGPT)


def test_a_row_that_does_not_fit_stops_the_export_and_is_named(catalogue: Catalogue, tmp_path: Path) -> None:
    version = stored(catalogue, Kind.MESSAGES, [{"messages": [{"role": "user", "content": "q"}]}])
    with pytest.raises(DataError, match=r"item item-.* can't be written as `alpaca`"):
        export_dataset(catalogue, version, tmp_path / "a.json", RowFormat.ALPACA)
    assert not (tmp_path / "a.json").exists()


def test_half_a_surrogate_pair_survives_json_and_is_refused_by_parquet(catalogue: Catalogue, tmp_path: Path) -> None:
    version = stored(catalogue, Kind.TEXT, [{"text": "a \ud800 b"}])
    path = export_dataset(catalogue, version, tmp_path / "a.jsonl")
    assert read_payloads(path).payloads == ({"text": "a \ud800 b"},)
    with pytest.raises(DataError, match="half a surrogate pair"):
        export_dataset(catalogue, version, tmp_path / "hub")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.jsonl", "home"]


def test_a_damaged_version_is_not_exported(catalogue: Catalogue, tmp_path: Path) -> None:
    version = stored(catalogue, Kind.TEXT)
    path = catalogue.home / version.path
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(DataError, match="is damaged"):
        export_dataset(catalogue, version, tmp_path / "a.jsonl")


def test_a_place_that_cannot_be_written_is_a_machine_error(catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "in the way").write_text("")
    with pytest.raises(MachineError, match="can't be written"):
        export_dataset(catalogue, stored(catalogue, Kind.TEXT), tmp_path / "in the way" / "a.jsonl")
