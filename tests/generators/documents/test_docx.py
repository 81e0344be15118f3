from __future__ import annotations

import dataclasses
import io
import zipfile

import pytest

from generators.documents import docx
from generators.documents.results import Parsed, Refused
from tests.generators.documents.files import OPTIONS, WORD, docx_of, paragraph, zip_of

STYLES = f"""<w:styles xmlns:w="{WORD}">
<w:style w:type="paragraph" w:styleId="1"><w:name w:val="heading 1"/></w:style>
<w:style w:type="paragraph" w:styleId="ue2"><w:name w:val="Heading 2"/></w:style>
<w:style w:type="paragraph" w:styleId="own"><w:name w:val="Mine"/><w:pPr><w:outlineLvl w:val="2"/></w:pPr></w:style>
<w:style w:type="paragraph" w:styleId="c"><w:name w:val="Code"/></w:style></w:styles>"""
NOTES = (
    f'<w:footnotes xmlns:w="{WORD}"><w:footnote w:type="separator"><w:p/></w:footnote>'
    f'<w:footnote w:id="2">{paragraph("As of May.")}</w:footnote></w:footnotes>'
)
LAUGHS = "".join(f'<!ENTITY x{number + 1} "{f"&x{number};" * 10}">' for number in range(9))


def parse(content: bytes) -> Parsed:
    (document,) = docx.parse(content, "file.docx", OPTIONS)
    return document


def test_headings_lists_tables_code_and_notes_become_markdown() -> None:
    def cell(text: str) -> str:
        return f"<w:tc>{paragraph(text)}</w:tc>"

    table = f"<w:tbl><w:tr>{cell('part')}{cell('a|b')}</w:tr><w:tr>{cell('bolt')}</w:tr></w:tbl>"
    body = (
        paragraph("Presse", "1") + paragraph("安全", "ue2") + paragraph("Third", "own") + paragraph("It weighs 312 kg.")
        + paragraph("one", properties="<w:numPr/>") + paragraph("two", properties="<w:numPr/>") + table
        + paragraph("press --reset", "c") + paragraph("  --hard", "c") + paragraph("The end.")
    )  # fmt: skip
    document = parse(docx_of(body, parts={"word/styles.xml": STYLES, "word/footnotes.xml": NOTES}))
    assert document.text.split("\n\n") == [
        "# Presse",
        "## 安全",
        "### Third",
        "It weighs 312 kg.",
        "- one\n- two",
        "| part | a\\|b |\n|---|---|\n| bolt |  |",
        "```\npress --reset\n  --hard\n```",
        "The end.",
        "As of May.",
    ]
    assert document.title == "Presse"


@pytest.mark.parametrize("run", ["<w:vanish/>", '<w:color w:val="FFFFFF"/>', '<w:sz w:val="2"/>'])
def test_hidden_letters_are_taken_out_and_counted(run: str) -> None:
    document = parse(docx_of(paragraph("Seen.") + paragraph("IGNORE", run=run)))
    assert document.text == "Seen."
    assert document.removed == {docx.HIDDEN: 1}


def test_white_letters_on_a_colour_and_letters_that_are_not_hidden_stay() -> None:
    shaded = '<w:color w:val="FFFFFF"/><w:shd w:fill="000080"/>'
    document = parse(docx_of(paragraph("On blue.", run=shaded) + paragraph("Shown.", run='<w:vanish w:val="0"/>')))
    assert document.text == "On blue.\n\nShown."


def test_deleted_text_is_gone_and_inserted_text_is_there() -> None:
    deleted = "<w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
    body = f"<w:p><w:r><w:t>It is </w:t></w:r>{deleted}<w:ins><w:r><w:t>new</w:t></w:r></w:ins></w:p>"
    assert parse(docx_of(body)).text == "It is new"


def test_what_is_left_out_is_told() -> None:
    parts = {"word/comments.xml": "<x/>", "word/media/image1.png": "x", "word/header1.xml": "<x/>"}
    assert parse(docx_of(paragraph("x"), parts=parts)).notes == ("its comments and headers and pictures are left out",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            docx_of(paragraph("&x;"), declaration='<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
            "declares a document type",
        ),
        (docx_of(paragraph("&x9;"), declaration=f'<!DOCTYPE d [<!ENTITY x0 "lol">{LAUGHS}]>'), "no readable DOCX"),
        (docx_of("<w:sdt>" * 100_000 + "</w:sdt>" * 100_000), "[Ee]xcessive depth"),
        (docx_of(paragraph("cut off")).replace(b"PK\x05\x06", b"PK\x05\x07"), "no readable zip"),
        (docx_of("<w:p>"), "no readable DOCX"),
        (docx_of(paragraph(" ")), "empty"),
        (zip_of({"mimetype": "text"}), "it has no word/document.xml"),
        (b"\xd0\xcf\x11\xe0" + b"\0" * 99, "encrypted, or an old .doc"),
        (b"MZ\x90\0" * 99, "a Windows program"),
    ],
)
def test_what_can_not_be_read_is_refused_with_its_reason(content: bytes, said: str) -> None:
    with pytest.raises(Refused, match=said):
        parse(content)


def test_a_file_on_this_machine_never_gets_into_the_text() -> None:
    sneaky = docx_of(paragraph("&x;"), declaration='<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/hostname">]>')
    with pytest.raises(Refused):
        parse(sneaky)


def test_a_bomb_is_refused_before_it_unpacks() -> None:
    options = dataclasses.replace(OPTIONS, max_unpacked_bytes=100_000)
    bomb = docx_of(paragraph("x" * 1_000_000))
    assert len(bomb) < 10_000
    with pytest.raises(Refused, match=r"larger than 100,000 bytes \(documents.max_unpacked_bytes\)"):
        docx.parse(bomb, "bomb.docx", options)


def test_a_part_that_lies_about_its_size_is_refused() -> None:
    content = bytearray(docx_of(paragraph("x" * 10_000)))
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as package:
        size = package.getinfo(docx.BODY).file_size
    lying = bytes(content).replace(size.to_bytes(4, "little"), (7).to_bytes(4, "little"))
    with pytest.raises(Refused):
        parse(lying)
