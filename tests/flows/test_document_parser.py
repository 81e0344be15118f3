"""Hostile files through a real parser process: each costs only itself, whatever it does to its parser."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
import zipfile
import zlib
from pathlib import Path

import pytest

from data_catalog.errors import DocumentError
from flows.document_parser import document_parser
from generators.documents import ReadResult, read_documents, worker
from generators.documents.results import Refused
from generators.specs import DocumentsSpec
from tests.generators.documents.files import (
    OPTIONS,
    assembled,
    by_name,
    docx_of,
    paragraph,
    pdf_of,
    read,
    reasons,
    shown,
    zip_of,
)

MIB = 1 << 20


def slow_pdf(pages: int = 120) -> bytes:
    """Return a PDF that keeps its parser busy for seconds: on every page each character has to be looked at."""
    lines = [f"Line {number} of a page that has a good deal of text on it." * 2 for number in range(50)]
    return pdf_of(*[shown(*lines) + " 1 g BT /F1 12 Tf 9 9 Td (white) Tj ET"] * pages)


def flate_bomb(mib: int) -> bytes:
    """Return a PDF of some kilobytes whose page content unpacks to `mib` MiB."""
    packer = zlib.compressobj(9)
    once = b"".join([*(packer.compress(b" " * MIB) for _ in range(mib)), packer.flush()])
    twice = zlib.compress(once, 9)
    stream = b"<</Length %d/Filter[/FlateDecode/FlateDecode]>>stream\n%b\nendstream" % (len(twice), twice)
    return assembled(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R>>",
            stream,
        ]
    )


def test_every_format_is_read_in_one_go(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Markdown\n")
    (tmp_path / "b.html").write_text("<h1>Page</h1><p>of a site</p>")
    (tmp_path / "c.pdf").write_bytes(pdf_of(shown("of a file")))
    (tmp_path / "d.docx").write_bytes(docx_of(paragraph("of a letter")))
    (tmp_path / "e.zip").write_bytes(zip_of({"in/f.pdf": pdf_of(shown("in a zip")), "in/g.txt": "text in a zip"}))
    result = read(tmp_path)
    assert {name: document.text for name, document in by_name(result).items()} == {
        "a.md": "# Markdown\n",
        "b.html": "# Page\n\nof a site",
        "c.pdf": "of a file",
        "d.docx": "of a letter",
        "f.pdf": "in a zip",
        "g.txt": "text in a zip",
    }
    assert [document.path for document in result.documents][-2:] == [
        f"{tmp_path.as_posix()}/e.zip!in/f.pdf",
        f"{tmp_path.as_posix()}/e.zip!in/g.txt",
    ]
    assert result.refusals == ()


def test_a_folder_of_text_starts_no_process(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\n")
    (tmp_path / "b.txt").write_text("b", encoding="utf-16")

    def start(*_: object) -> None:
        raise AssertionError("a process was asked for")

    result = read_documents(DocumentsSpec(paths=(tmp_path,)), start)  # type: ignore[arg-type]
    assert [document.text.strip() for document in result.documents] == ["# A", "b"]


def test_names_and_types_that_lie_are_refused_and_the_others_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "good.pdf").write_bytes(pdf_of(shown("good")))
    (folder / "setup.pdf").write_bytes(b"MZ\x90\0" * 99)
    (folder / "page.docx").write_bytes(pdf_of(shown("good")))
    (folder / "text.zip").write_bytes(b"no zip at all")
    (folder / "nul.html").write_bytes(b"<p>\0\0\0</p>")
    (tmp_path / "secret.pdf").write_bytes(pdf_of(shown("secret")))
    (folder / "outside.pdf").symlink_to(tmp_path / "secret.pdf")
    (folder / "loop.pdf").symlink_to(folder / "loop.pdf")
    os.mkfifo(folder / "pipe.pdf")
    result = read(folder)
    assert [document.text for document in result.documents] == ["good"]
    said = reasons(result)
    assert said["setup.pdf"] == "no PDF, whatever its name says: it starts like a Windows program"
    assert said["page.docx"] == "no DOCX, whatever its name says: it starts like a PDF"
    assert said["text.zip"].startswith("no readable zip")
    assert said["nul.html"].startswith("binary")
    assert said["outside.pdf"] == "a symbolic link that leads out of the folder"
    assert said["loop.pdf"].startswith("can't be read")
    assert said["pipe.pdf"] == "not a regular file"


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_no_document(device: str) -> None:
    with pytest.raises(DocumentError, match="not a regular file"):
        read(Path(device))


def test_what_a_zip_may_not_hold_is_refused_by_name(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.md")
    link.external_attr = 0o120777 << 16
    members: dict[str, bytes | str] = {
        "good.md": "good",
        "../../above.md": "x",
        "/absolute.md": "x",
        "C:\\windows.md": "x",
        "..\\back.md": "x",
        "inner.zip": zip_of({"a.md": "x"}),
        "bad.pdf": b"MZ",
        "\x1b[31mred.md": "good too",
        "picture.png": b"\x89PNG",
        ".hidden.md": "x",
        "__MACOSX/good.md": "x",
    }
    (tmp_path / "all.zip").write_bytes(zip_of(members))
    with zipfile.ZipFile(tmp_path / "all.zip", "a") as archive:
        archive.writestr(link, "/etc/passwd")
    result = read(tmp_path)
    assert {document.path.partition("!")[2]: document.text for document in result.documents} == {
        "good.md": "good",
        "?[31mred.md": "good too",
    }
    assert {refusal.path.partition("!")[2]: refusal.reason for refusal in result.refusals} == {
        "../../above.md": "its name leads out of the zip",
        "/absolute.md": "its name leads out of the zip",
        "C:\\windows.md": "its name leads out of the zip",
        "..\\back.md": "its name leads out of the zip",
        "inner.zip": "a zip in a zip; unpack it once",
        "link.md": "a symbolic link",
        "bad.pdf": "no PDF, whatever its name says: it starts like a Windows program",
        "": "not looked at in it: 1 *.png (documents.include)",
    }


def test_zip_bombs_are_refused_by_what_they_claim_and_by_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("good")
    bomb = zip_of({"bomb.txt": b"0" * 3 * MIB, "small.txt": "small"})
    (tmp_path / "honest.zip").write_bytes(bomb)
    (tmp_path / "lying.zip").write_bytes(bomb.replace((3 * MIB).to_bytes(4, "little"), (9).to_bytes(4, "little")))
    (tmp_path / "big.zip").write_bytes(zip_of({"big.txt": b"0" * 2 * MIB, "other.txt": "other"}))
    result = read(tmp_path, max_bytes=MIB, max_unpacked_bytes=2 * MIB + 100)
    assert sorted(document.text for document in result.documents) == ["good", "other", "small"]
    said = {refusal.path.rpartition("/")[2]: refusal.reason for refusal in result.refusals}
    assert "more than 2,097,252 (documents.max_unpacked_bytes)" in said["honest.zip"]
    assert said["big.zip!big.txt"] == "larger than 1,048,576 bytes (documents.max_bytes)"
    assert said["lying.zip!bomb.txt"].startswith("damaged")


def test_a_flate_bomb_meets_the_limit_of_memory_and_the_next_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(flate_bomb(512))
    (tmp_path / "b.pdf").write_bytes(pdf_of(shown("good")))
    assert (tmp_path / "a.pdf").stat().st_size < 10_000
    result = read(tmp_path, max_memory_mib=128)
    assert [document.text for document in result.documents] == ["good"]
    assert reasons(result)["a.pdf"].startswith("its parser was ended by ")
    assert reasons(result)["a.pdf"].endswith("more than 128 MiB are needed")


def test_a_file_that_takes_too_long_is_given_up_and_the_next_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(slow_pdf())
    (tmp_path / "b.pdf").write_bytes(pdf_of(shown("good")))
    result = read(tmp_path, max_seconds=1)
    assert [document.text for document in result.documents] == ["good"]
    assert reasons(result)["a.pdf"] == "not done after 1 s of processor time (documents.max_seconds)"


def test_work_that_neither_goes_on_nor_ends_is_killed() -> None:
    def sleep() -> str:
        time.sleep(300)
        return ""

    with pytest.raises(Refused, match=r"its parser stood still for 1 s \(documents.max_seconds\)"):
        worker.in_fork(sleep, dataclasses.replace(OPTIONS, max_seconds=1))


def test_work_that_goes_on_slowly_is_waited_for() -> None:
    def plod() -> str:
        began = time.monotonic()
        while time.monotonic() - began < 3.5:
            until = time.process_time() + 0.04
            while time.process_time() < until:
                pass
            time.sleep(0.3)
        return "done"

    assert worker.in_fork(plod, dataclasses.replace(OPTIONS, max_seconds=1)) == "done"


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "ended by SIGKILL"),
        (lambda: os._exit(3), "its parser failed; "),
        (lambda: "".index("x"), "its parser failed; "),
        (lambda: bytearray(1 << 36), "needs more than 1,024 MiB"),
    ],
)
def test_however_a_parser_ends_there_is_a_reason(ending: object, said: str) -> None:
    assert callable(ending)
    with pytest.raises(Refused, match=said):
        worker.in_fork(lambda: str(ending()), OPTIONS)


def test_a_killed_process_costs_the_file_it_was_at(tmp_path: Path) -> None:
    folder, home = tmp_path / "documents", tmp_path / "home"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(pdf_of(shown("first")))
    (folder / "b.pdf").write_bytes(slow_pdf(40))
    (folder / "c.pdf").write_bytes(pdf_of(shown("third")))
    seen: list[tuple[int, int]] = []

    def on_progress(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 1:
            (record,) = (home / "run").glob("*.json")
            os.killpg(json.loads(record.read_text())["group"], signal.SIGKILL)

    result: ReadResult = read_documents(DocumentsSpec(paths=(folder,)), document_parser(home, on_progress))
    assert [document.text for document in result.documents] == ["first", "third"]
    assert reasons(result)["b.pdf"].startswith("the process that parsed it ended")
    assert seen[-1] == (3, 3)
    assert not list((home / "run").glob("*.json"))


def test_a_missing_package_is_told_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "block" / "sitecustomize.py").parent.mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'pypdfium2' else find(name, *rest)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'block'}:{os.environ.get('PYTHONPATH', '')}")
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(pdf_of(shown("x")))
    (folder / "b.html").write_text("<p>still read</p>")
    result = read(folder)
    assert [document.text for document in result.documents] == ["still read"]
    assert reasons(result)["a.pdf"] == "pypdfium2 not installed; run: pip install '.[documents]'"
