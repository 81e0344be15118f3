"""PDF files: the text of every page, in reading order as far as the file tells it, by PDFium.

Scripts are not run, attachments not opened, links not followed; that they are there is said. Text that is drawn in the
colour of the paper, or not at all, is taken out and counted; the invisible text that lies over a scanned page is what
text recognition left there, and stays.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import hypot

import pypdfium2
import pypdfium2.raw as pdfium

from generators.documents import plain
from generators.documents.results import Options, Parsed, Refused
from generators.markdown import PLAIN_TEXT

UNSEEN = "characters in the colour of the paper or not drawn"
LIGHT = 245
"""A colour with every channel (0 to 255) at least this is the paper's."""
TINY_POINTS = 1.5
_MAGIC_WITHIN = 1024
_BROKEN_WORD = ("\x02\r\n", "\ufffe\r\n", "\x02", "\ufffe")
"""How PDFium marks a word that goes on in the next line."""

Box = tuple[float, float, float, float]


def parse(content: bytes, name: str, options: Options) -> list[Parsed]:
    """Return the one document of a PDF.

    Raises:
        Refused: it is no PDF, encrypted, damaged, too long, or has no text (scanned pages).
    """
    if b"%PDF-" not in content[:_MAGIC_WITHIN]:
        what = plain.looks_like(content)
        raise Refused("no PDF, whatever its name says" + (f": it starts like {what}" if what else ""))
    document = _opened(content)
    if len(document) > options.max_pages:
        raise Refused(f"{len(document):,} pages, more than {options.max_pages:,} (documents.max_pages)")
    removed: Counter[str] = Counter()
    pages, blank, unreadable = [], 0, 0
    for number in range(len(document)):
        try:
            page = document[number]
        except pypdfium2.PdfiumError:
            unreadable += 1
            continue
        text = plain.tidy(_text_of(page, removed), removed).strip()
        blank += not text
        pages.append(text)
        page.close()
    text = "\n\n".join(filter(None, pages)).replace("\0", "")
    if not text:
        raise Refused(_why_empty(len(document), unreadable, removed))
    plain.demand_text(text)
    title = " ".join(document.get_metadata_value("Title").split())
    return [Parsed(text, PLAIN_TEXT, title, removed=removed, notes=tuple(_notes(document, blank, unreadable)))]


def _opened(content: bytes) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        if pdfium.FPDF_GetLastError() == pdfium.FPDF_ERR_PASSWORD or "password" in str(error).lower():
            raise Refused("encrypted: it asks for a password; save it without one") from error
        raise Refused(f"no readable PDF: {error}") from error


def _why_empty(pages: int, unreadable: int, removed: Counter[str]) -> str:
    if unreadable == pages:
        return "no readable PDF: not one page can be loaded"
    if removed:
        return "empty: it has no text but what it hides"
    return "no text in it: scanned pages have to go through text recognition (OCR) first"


def _notes(document: pypdfium2.PdfDocument, blank: int, unreadable: int) -> Iterator[str]:
    if unreadable:
        yield f"{unreadable:,} of {len(document):,} pages can't be loaded"
    if blank:
        yield f"{blank:,} of {len(document):,} pages have no text"
    if (scripts := pdfium.FPDFDoc_GetJavaScriptActionCount(document.raw)) > 0:
        yield f"scripts in it that were not run: {scripts:,}"
    if attachments := document.count_attachments():
        yield f"attachments in it that were not opened: {attachments:,}"


def _text_of(page: pypdfium2.PdfPage, removed: Counter[str]) -> str:
    textpage = page.get_textpage()
    text = str(textpage.get_text_range())
    if suspects := _unseen_objects(page):
        text = _without(textpage, suspects, removed)
    for mark in _BROKEN_WORD:
        text = text.replace(mark, "")
    textpage.close()
    return text


@dataclass(frozen=True)
class _Shape:
    """Something drawn that text may lie on."""

    box: Box
    is_image: bool

    def covers(self, box: Box) -> bool:
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        return self.box[0] <= x <= self.box[2] and self.box[1] <= y <= self.box[3]


def _unseen_objects(page: pypdfium2.PdfPage) -> set[int]:
    """Return the addresses of the text objects that a reader does not see."""
    below: list[_Shape] = []
    unseen: set[int] = set()
    for thing in page.get_objects():
        if thing.type == pdfium.FPDF_PAGEOBJ_IMAGE:
            below.append(_Shape(thing.get_bounds(), is_image=True))
        elif thing.type in (pdfium.FPDF_PAGEOBJ_PATH, pdfium.FPDF_PAGEOBJ_SHADING):
            if thing.type == pdfium.FPDF_PAGEOBJ_SHADING or not _is_light(thing.raw):
                below.append(_Shape(thing.get_bounds(), is_image=False))
        elif thing.type == pdfium.FPDF_PAGEOBJ_TEXT and _is_unseen(thing, below):
            unseen.add(_address(thing.raw))
    return unseen


def _is_unseen(thing: pypdfium2.PdfObject, below: list[_Shape]) -> bool:
    mode = pdfium.FPDFTextObj_GetTextRenderMode(thing.raw)
    invisible = mode in (pdfium.FPDF_TEXTRENDERMODE_INVISIBLE, pdfium.FPDF_TEXTRENDERMODE_CLIP)
    filled = mode in (pdfium.FPDF_TEXTRENDERMODE_FILL, pdfium.FPDF_TEXTRENDERMODE_FILL_CLIP)
    if not invisible and not (filled and _is_light(thing.raw)) and not _is_tiny(thing):
        return False
    box = thing.get_bounds()
    return not any(shape.covers(box) for shape in below if shape.is_image or not invisible)


def _is_light(thing: pdfium.FPDF_PAGEOBJECT) -> bool:
    red, green, blue, alpha = (ctypes.c_uint() for _ in range(4))
    if not pdfium.FPDFPageObj_GetFillColor(thing, red, green, blue, alpha):
        return False
    return alpha.value <= 12 or min(red.value, green.value, blue.value) >= LIGHT


def _is_tiny(thing: pypdfium2.PdfObject) -> bool:
    size = ctypes.c_float()
    if not pdfium.FPDFTextObj_GetFontSize(thing.raw, size):
        return False
    matrix = thing.get_matrix()
    return abs(size.value) * max(hypot(matrix.a, matrix.b), hypot(matrix.c, matrix.d)) < TINY_POINTS


def _address(thing: pdfium.FPDF_PAGEOBJECT) -> int:
    return ctypes.cast(thing, ctypes.c_void_p).value or 0


def _without(textpage: pypdfium2.PdfTextPage, unseen: set[int], removed: Counter[str]) -> str:
    """Return a page's text without what belongs to the given objects."""
    kept = []
    for index in range(textpage.count_chars()):
        thing = pdfium.FPDFText_GetTextObject(textpage.raw, index)
        character = chr(pdfium.FPDFText_GetUnicode(textpage.raw, index))
        if thing and _address(thing) in unseen:
            removed[UNSEEN] += not character.isspace()
        else:
            kept.append(character)
    # PDFium gives a character beyond the first plane in two halves.
    return "".join(kept).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
