"""What a user is told of the documents: by the notes of the ingest step, and by `tutelage check`."""

from __future__ import annotations

from pathlib import Path

from data_catalog.records import Document
from flows.data_steps import MAX_NOTES, ingest_notes
from generators.documents import ReadResult, Refusal, Remark
from generators.sensitive import Sensitive
from generators.withholding import Open
from tests.flows.projects import tutelage, write_project
from tests.generators.documents.files import pdf_of, shown

DOCUMENT = Document.of(path="a.md", title="A", text="a")


def test_the_notes_name_files_up_to_a_number_and_sum_up_what_was_removed() -> None:
    read = ReadResult(
        documents=(DOCUMENT,) * 3,
        refusals=tuple(Refusal(f"{number}.md", "empty") for number in range(MAX_NOTES + 5)),
        remarks=(
            Remark("a.md", {"zero-width characters": 3}),
            Remark("b.md", {"zero-width characters": 1, "soft hyphens": 2}, ("read as cp1252, which was guessed",)),
            Remark("c.md", notes=("1 of 2 pages have no text",)),
        ),
        not_included={".png": 9, ".csv": 1},
    )
    notes = list(ingest_notes(read, Open((DOCUMENT,), (), withheld=2, kinds={Sensitive.EMAIL: 2, Sensitive.IBAN: 1})))
    assert notes[0] == "left out 0.md: empty"
    assert notes[MAX_NOTES:] == [
        "5 more were left out; the report has them all",
        "a.md: removed zero-width characters (3)",
        "b.md: removed zero-width characters (1), soft hyphens (2); read as cp1252, which was guessed",
        "c.md: 1 of 2 pages have no text",
        "text that no reader sees was removed from 2 of 3 documents: zero-width characters (4), soft hyphens (2)",
        "withheld 2 chunks with personal data or secrets: email in 2, iban in 1 (documents.withhold_sensitive)",
        "not looked at: 9 *.png, 1 *.csv (documents.include)",
    ]


def test_nothing_is_said_where_there_is_nothing_to_say() -> None:
    assert list(ingest_notes(ReadResult(documents=(DOCUMENT,), refusals=()), Open((DOCUMENT,), ()))) == []


def test_check_reads_every_format_and_keeps_nothing(tmp_path: Path) -> None:
    config = write_project(tmp_path, "http://127.0.0.1:9/v1", count=1)
    (tmp_path / "docs" / "manual.pdf").write_bytes(pdf_of(shown("The press weighs 312 kg.")))
    (tmp_path / "docs" / "scan.pdf").write_bytes(pdf_of("0 0 9 9 re f"))
    (tmp_path / "docs" / "planted.md").write_text("# P\n\nIt\u200b is\u202e here.\n")
    before = sorted(tmp_path.rglob("*"))
    checked = tutelage("check", config)
    assert checked.returncode == 0, checked.stderr
    assert "documents  3 in 4 chunks" in checked.stdout
    assert "scan.pdf: no text in it: scanned pages" in checked.stdout
    assert (
        "planted.md: removed zero-width characters (1), signs that turn the direction of writing (1)" in checked.stdout
    )
    assert sorted(tmp_path.rglob("*")) == before
