from __future__ import annotations

import dataclasses
import zlib

import pytest

from generators.documents import pdf
from generators.documents.results import Parsed, Refused
from generators.markdown import PLAIN_TEXT
from tests.generators.documents.files import OPTIONS, assembled, pdf_of, shown

SEEN = "BT 0 g /F1 12 Tf 72 700 Td (Seen by all.) Tj ET "


def parse(content: bytes) -> Parsed:
    (document,) = pdf.parse(content, "file.pdf", OPTIONS)
    return document


def test_pages_are_read_in_order_and_broken_words_joined() -> None:
    document = parse(pdf_of(shown("The press is main-", "tained twice a year."), shown("Second page.")))
    assert document.text == "The press is maintained twice a year.\n\nSecond page."
    assert document.media_type == PLAIN_TEXT


def test_the_title_is_that_of_the_file() -> None:
    content = pdf_of(shown("text"), extra=["<</Title(Press book)>>"], trailer="/Info 6 0 R")
    assert parse(content).title == "Press book"


@pytest.mark.parametrize(
    "hidden",
    [
        "BT 1 g /F1 12 Tf 72 600 Td (IGNORE) Tj ET",
        "BT 0.98 0.98 0.98 rg /F1 12 Tf 72 600 Td (IGNORE) Tj ET",
        "BT 3 Tr /F1 12 Tf 72 600 Td (IGNORE) Tj ET",
        "BT 0 g /F1 0.5 Tf 72 600 Td (IGNORE) Tj ET",
        "BT 0 g /F1 12 Tf 0.05 0 0 0.05 72 600 Tm (IGNORE) Tj ET",
    ],
)
def test_text_that_is_not_seen_is_taken_out_and_counted(hidden: str) -> None:
    document = parse(pdf_of(SEEN + hidden))
    assert document.text == "Seen by all."
    assert document.removed == {pdf.UNSEEN: 6}


def test_white_text_on_a_dark_box_and_a_lone_full_stop_stay() -> None:
    box = "0 0 0.5 rg 60 590 400 40 re f BT 1 g /F1 12 Tf 72 600 Td (White on blue) Tj ET "
    document = parse(pdf_of(SEEN + box + "BT 0 g /F1 12 Tf 72 500 Td (.) Tj ET"))
    assert "White on blue" in document.text
    assert document.text.endswith("\n.")
    assert not document.removed


def test_the_invisible_text_of_text_recognition_stays() -> None:
    picture = "q 612 0 0 792 0 0 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \x80 EI Q "
    document = parse(pdf_of(picture + "BT 3 Tr /F1 12 Tf 72 600 Td (Recognised text) Tj ET"))
    assert document.text == "Recognised text"


def test_scripts_and_attachments_are_told_and_left_alone() -> None:
    attachment = "<</Type/Filespec/F(x.txt)/EF<</F 7 0 R>>>>"
    names = f"/Names<</JavaScript<</Names[(a) 6 0 R]>>/EmbeddedFiles<</Names[(x.txt) {attachment}]>>>>"
    document = parse(
        pdf_of(
            shown("Only this is read."),
            extra=["<</S/JavaScript/JS(app.alert\\(1\\))>>", "<</Length 6>>stream\nSECRET\nendstream"],
            catalog=f"/OpenAction 6 0 R{names}",
        )
    )
    assert document.text == "Only this is read."
    assert document.notes == (
        "scripts in it that were not run: 1",
        "attachments in it that were not opened: 1",
    )


def test_blank_pages_are_told() -> None:
    assert parse(pdf_of(shown("One."), "0 0 9 9 re f")).notes == ("1 of 2 pages have no text",)


ENCRYPTED = (
    f"/Encrypt<</Filter/Standard/V 1/R 2/P -4/Length 40/O<{'5a' * 32}>/U<{'00' * 32}>>>/ID[<{'ab' * 16}><{'ab' * 16}>]"
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pdf_of("0 0 100 100 re f"), "text recognition"),
        (pdf_of("BT 1 g /F1 12 Tf 72 600 Td (IGNORE) Tj ET"), "no text but what it hides"),
        (pdf_of(shown("secret"), trailer=ENCRYPTED), "asks for a password"),
        (pdf_of(tree="<</Type/Pages/Kids[2 0 R 2 0 R]/Count 5>>"), "not one page can be loaded"),
        (pdf_of(shown("x"), tree="<</Type/Pages/Parent 2 0 R/Kids[2 0 R]/Count 1>>"), "not one page can be loaded"),
        (b"MZ\x90\0" * 99, "a Windows program"),
        (b"%PDF-1.7\ngarbage", "no readable PDF"),
        (b"", "no PDF"),
        (assembled([b"<</Type/Catalog>>"]), "no readable PDF"),
    ],
)
def test_what_can_not_be_read_is_refused_with_its_reason(content: bytes, said: str) -> None:
    with pytest.raises(Refused, match=said):
        parse(content)


def test_content_that_calls_itself_ends() -> None:
    form = b"/Fm Do BT /F1 12 Tf 72 700 Td (Round and round.) Tj ET"
    resources = b"/Resources<</Font<</F1 3 0 R>>/XObject<</Fm 5 0 R>>>>"
    document = parse(
        assembled(
            [
                b"<</Type/Catalog/Pages 2 0 R>>",
                b"<</Type/Pages/Kids[4 0 R]/Count 1>>",
                b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
                b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 6 0 R" + resources + b">>",
                b"<</Type/XObject/Subtype/Form/BBox[0 0 612 792]/Length %d%b>>stream\n%b\nendstream"
                % (len(form), resources, form),
                b"<</Length 6>>stream\n/Fm Do\nendstream",
            ]
        )
    )
    assert "Round and round." in document.text


def test_more_pages_than_allowed_are_refused() -> None:
    options = dataclasses.replace(OPTIONS, max_pages=2)
    with pytest.raises(Refused, match=r"3 pages, more than 2 \(documents.max_pages\)"):
        pdf.parse(pdf_of(*[shown("x")] * 3), "file.pdf", options)


def test_a_damaged_stream_costs_its_page_alone() -> None:
    content = pdf_of(shown("First page."), shown("Second page."))
    second = content.rindex(b"stream\n", 0, content.rindex(b"endstream")) + 7
    damaged = content[: second + 4] + bytes(len(zlib.compress(b""))) + content[second + 12 :]
    document = parse(damaged)
    assert document.text == "First page."
    assert document.notes == ("1 of 2 pages have no text",)
