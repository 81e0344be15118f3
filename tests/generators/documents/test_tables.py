from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.generators.documents.files import read, reasons

WITH_TABLES = {"include": ("*.md", "*.jsonl", "*.csv", "*.tsv", "*.parquet")}


def test_every_row_is_a_document(tmp_path: Path) -> None:
    rows = [{"text": "first\u2028line", "title": "One"}, {"text": "second"}, {"text": "# Third\n\nwith heading"}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    (tmp_path / "b.csv").write_text('title;text\nA;"two\nlines"\nB;"say ""it"""\n')
    (tmp_path / "c.tsv").write_text("text\ttitle\n泵的重量\tC\n")
    pq.write_table(pa.table({"text": ["of a Parquet file"], "other": [1]}), tmp_path / "d.parquet")
    result = read(tmp_path, **WITH_TABLES)
    assert [(Path(document.path).name, document.title, document.text) for document in result.documents] == [
        ("a.jsonl#1", "One", "first\u2028line"),
        ("a.jsonl#2", "a", "second"),
        ("a.jsonl#3", "a", "# Third\n\nwith heading"),
        ("b.csv#1", "A", "two\nlines"),
        ("b.csv#2", "B", 'say "it"'),
        ("c.tsv#1", "C", "泵的重量"),
        ("d.parquet#1", "d", "of a Parquet file"),
    ]
    assert result.refusals == ()


def test_bad_rows_are_told_by_file_and_the_others_are_read(tmp_path: Path) -> None:
    lines = [
        '{"text": "good"}',
        '{"text": "\\ud800"}',
        '{"titel": "x"}',
        "{",
        '{"text": 7}',
        "[" * 100_000,
        '{"text": ""}',
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    result = read(tmp_path, **WITH_TABLES)
    assert [document.text for document in result.documents] == ["good"]
    (reason,) = reasons(result).values()
    assert reason.startswith("1 of 7 rows: it has half of a surrogate pair; ")
    assert reason.endswith("and 3 more (the first is #2)")


def test_a_table_without_the_column_is_refused_with_those_it_has(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("good")
    (tmp_path / "a.jsonl").write_text('{"body": "x", "title": "t"}\n')
    (tmp_path / "b.csv").write_text("body,title\nx,t\n")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and nothing else")
    (tmp_path / "e.csv").write_text("")
    said = reasons(read(tmp_path, **WITH_TABLES))
    assert said["a.jsonl"] == "no usable row: 1 of 1 rows: no column 'text' among body, title (documents.text_column)"
    assert "no column 'text' among body, title" in said["b.csv"]
    assert said["c.parquet"] == "none of the columns text, title among body"
    assert said["d.parquet"].startswith("no readable Parquet file")
    assert said["e.csv"] == "empty: it has no rows"
    (document, other) = read(tmp_path, **WITH_TABLES, text_column="body", title_column="body").documents
    assert (document.text, document.title, other.text) == ("x", "x", "good")


def test_ten_thousand_rows_with_one_text_are_one_document_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "same.jsonl").write_text('{"text": "again"}\n' * 10_000)
    result = read(tmp_path, **WITH_TABLES)
    assert len(result.documents) == 1
    (reason,) = reasons(result).values()
    assert reason.startswith("9,999 rows repeat a text that was read before, such as that of ")


def test_a_parquet_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("good")
    pq.write_table(
        pa.table({"text": ["x" * 3_000_000]}), tmp_path / "bomb.parquet", compression="zstd", use_dictionary=False
    )
    said = reasons(read(tmp_path, **WITH_TABLES, max_unpacked_bytes=1_000_000))
    assert "more than 1,000,000 (documents.max_unpacked_bytes)" in said["bomb.parquet"]


def test_tables_are_read_only_where_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("good")
    (tmp_path / "gold.jsonl").write_text('{"text": "a question"}\n')
    result = read(tmp_path)
    assert [document.text for document in result.documents] == ["good"]
    assert result.not_included == {".jsonl": 1}
    assert len(read(tmp_path, tmp_path / "gold.jsonl").documents) == 2
