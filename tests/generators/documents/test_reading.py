from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_catalog.errors import DocumentError
from tests.generators.documents.files import read, reasons


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "good.md").write_text("# Good\n\nThis one is read.\n")
    return folder


def test_each_bad_file_is_refused_with_its_reason_and_the_others_go_on(folder: Path, tmp_path: Path) -> None:
    (folder / "empty.md").write_bytes(b"")
    (folder / "blank.md").write_text(" \n\t\n")
    (folder / "picture.md").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    (folder / "controls.md").write_bytes(b"\x01\x02\x03 bytes that are UTF-8 all the same")
    (folder / "latin1.txt").write_bytes("Überdruck".encode("latin-1"))
    (folder / "wide.md").write_text("# Wide", encoding="utf-16")
    (folder / "surrogate.md").write_bytes(b"half a pair \xed\xa0\x80")
    (folder / "big.md").write_text("x" * 2001)
    (folder / "copy.md").write_text("# Good\n\nThis one is read.\n")
    (folder / "dangling.md").symlink_to(folder / "nowhere.md")
    (folder / "loop.md").symlink_to(folder / "loop.md")
    (tmp_path / "secret.md").write_text("outside")
    (folder / "outside.md").symlink_to(tmp_path / "secret.md")
    os.mkfifo(folder / "pipe.md")

    result = read(folder, max_bytes=2000)

    assert [Path(document.path).name for document in result.documents] == ["copy.md", "wide.md"]
    said = reasons(result)
    assert said.pop("good.md").startswith("same text as ")
    assert said.pop("dangling.md").startswith("can't be read")
    assert said.pop("loop.md")
    assert said == {
        "empty.md": "empty",
        "blank.md": "empty",
        "picture.md": "binary: it has NUL bytes and starts like a picture",
        "controls.md": "binary: more than one in a hundred characters is a control character",
        "latin1.txt": "not UTF-8: byte 0xdc at offset 0, and no other encoding fits well; save it as UTF-8 or set "
        "documents.encoding",
        "surrogate.md": "not UTF-8: byte 0xed at offset 12; it has half of a surrogate pair",
        "big.md": "larger than 2,000 bytes (documents.max_bytes)",
        "outside.md": "a symbolic link that leads out of the folder",
        "pipe.md": "not a regular file",
    }


def test_what_is_kept_of_a_file_is_its_text_without_mark_and_with_plain_line_feeds(folder: Path) -> None:
    (folder / "good.md").write_bytes(b"\xef\xbb\xbf# T\xc3\xa9l\xc3\xa9\r\n\r\none\rtwo\r\n")
    (document,) = read(folder).documents
    assert document.text == "# Télé\n\none\ntwo\n"
    assert document.title == "Télé"


def test_the_order_is_as_configured_and_then_by_path(folder: Path, tmp_path: Path) -> None:
    (folder / "b" / "deep").mkdir(parents=True)
    (folder / "b" / "deep" / "x.md").write_text("deep")
    (folder / "b" / "a.txt").write_text("second folder")
    (folder / ".git").mkdir()
    (folder / ".git" / "hidden.md").write_text("hidden")
    (folder / "._good.md").write_text("hidden too")
    (folder / "ignored.png").write_text("another pattern")
    first = tmp_path / "zzz.markdown"
    first.write_text("named by the user")
    names = [Path(document.path).name for document in read(first, folder, folder / "good.md").documents]
    assert names == ["zzz.markdown", "a.txt", "x.md", "good.md"]


@pytest.mark.parametrize(
    ("name", "text", "title"),
    [
        ("a.md", "text first\n\n## Second level ##\n", "Second level"),
        ("b.md", "---\ntitle: 'From the front'\ntags: x\n---\n\n# Not this\n", "From the front"),
        ("c.md", "no heading at all", "c"),
        ("d.txt", "# no Markdown here\n\ntext", "d"),
    ],
)
def test_the_title_is_the_first_heading_or_the_file_stem(folder: Path, name: str, text: str, title: str) -> None:
    (folder / "good.md").unlink()
    (folder / name).write_text(text)
    assert read(folder).documents[0].title == title


def test_a_moved_file_is_the_same_document(folder: Path) -> None:
    before = read(folder).documents[0]
    (folder / "good.md").rename(folder / "moved.md")
    after = read(folder).documents[0]
    assert after.id == before.id
    assert after.path != before.path


def test_a_file_name_that_is_no_text_is_written_in_escapes(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.md")).write_text("its text is fine")
    paths = [document.path for document in read(folder).documents]
    assert any(path.endswith("bad\\xff.md") for path in paths)


@pytest.mark.parametrize("prepare", [lambda folder: None, lambda folder: (folder / "only.md").write_bytes(b"\0")])
def test_nothing_usable_is_an_error_that_says_what_was_there(tmp_path: Path, prepare: object) -> None:
    assert callable(prepare)
    prepare(tmp_path)
    with pytest.raises(DocumentError, match="no usable document") as caught:
        read(tmp_path)
    assert ("only.md: binary" in str(caught.value)) == (tmp_path / "only.md").exists()
    assert caught.value.exit_code == 3


def test_a_path_that_does_not_exist_stops_everything(folder: Path) -> None:
    # Reading on would look as if its documents had been withdrawn.
    with pytest.raises(DocumentError, match="which does not exist"):
        read(folder, folder / "missing")
