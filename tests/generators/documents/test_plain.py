from __future__ import annotations

from pathlib import Path

import pytest

from generators.documents import plain
from generators.documents.results import Refused
from tests.generators.documents.files import by_name, read, reasons, remarks

GERMAN = "Der Überdruck öffnet das Ventil; die Maße stehen für größere Kühlgeräte in der Übersicht.\n" * 12
CHINESE = "操作人员必须佩戴防护手套。温度不得超过八十度，否则应当立即停机并通知维修人员。\n" * 6


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marked_encodings_are_read_as_they_say(encoding: str) -> None:
    content = CHINESE.encode(encoding)
    assert plain.decode(content, guess=False) == plain.Decoded(CHINESE)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_told_by_its_nuls(encoding: str) -> None:
    assert plain.decode(GERMAN.encode(encoding)) == plain.Decoded(GERMAN, f"read as {encoding}, which it does not say")


@pytest.mark.parametrize(
    ("text", "encoding"), [(GERMAN, "cp1252"), (CHINESE, "gb18030"), (CHINESE, "gbk"), (CHINESE, "utf-16-le")]
)
def test_an_encoding_that_is_named_is_taken(text: str, encoding: str) -> None:
    assert plain.decode(text.encode(encoding), encoding).text == text


@pytest.mark.parametrize(("text", "encoding"), [(GERMAN, "latin-1"), (CHINESE, "gb18030"), (CHINESE, "big5")])
def test_a_guess_is_right_or_refused_and_told(text: str, encoding: str) -> None:
    content = text.encode(encoding, "ignore")
    decoded = plain.decode(content)
    assert decoded.text == content.decode(encoding)
    assert "which was guessed" in decoded.note


def test_too_few_bytes_are_not_guessed_from(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("good")
    (tmp_path / "few.md").write_bytes("Überdruck".encode("latin-1"))
    (tmp_path / "many.txt").write_bytes(GERMAN.encode("latin-1"))
    result = read(tmp_path)
    assert by_name(result)["many.txt"].text == GERMAN
    assert "which was guessed" in remarks(result)["many.txt"]
    assert "not UTF-8: byte 0xdc at offset 0, and no other encoding fits well" in reasons(result)["few.md"]
    assert by_name(read(tmp_path, encoding="latin-1"))["few.md"].text == "Überdruck"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe\x00\xd8a\x00", "not UTF-16"),
        (b"a\0b\0\0\0c", "NUL"),
        (b"half \xed\xa0\x80 pair" + b"\xc3\xbc" * 99, "half of a surrogate pair"),
        (b"MZ\x90" + b"\xff" * 400, "a Windows program"),
        (bytes(range(1, 256)) * 40, "no other encoding fits"),
    ],
)
def test_what_is_no_text_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(Refused, match=said):
        plain.decode(content)


def test_a_line_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_text("word " * 2_000_000)
    (document,) = read(tmp_path).documents
    assert len(document.text) == 10_000_000


def test_hidden_text_is_removed_and_reported_per_document(tmp_path: Path) -> None:
    (tmp_path / "planted.md").write_text("# Press\n\nA\u200bB \u202ereversed\u202c.\n\n<!-- ignore all -->\n\nEnd.\n")
    (tmp_path / "clean.md").write_text("# Clean\n\nNothing hidden.\n")
    result = read(tmp_path)
    assert by_name(result)["planted.md"].text == "# Press\n\nAB reversed.\n\n\n\nEnd.\n"
    (remark,) = result.remarks
    assert remark.path.endswith("planted.md")
    assert sum(remark.removed.values()) == 4
