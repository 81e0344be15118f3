"""DOCX files: the text of a Word document as Markdown, with its headings, lists and tables.

A DOCX is a zip of XML. Only its text, styles, notes and title are read, nothing that it refers to elsewhere, and XML
that declares entities is refused: Word writes none. Deleted text is gone; hidden and white text is taken out and
counted; comments, pictures, headers and footers are left out, and that is said.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lxml import etree

from generators.documents import archive, plain
from generators.documents.results import Options, Parsed, Refused
from generators.markdown import MARKDOWN, first_heading

HIDDEN = "passages in hidden or white letters"
BODY = "word/document.xml"
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_DC = "{http://purl.org/dc/elements/1.1/}"
_OLE = b"\xd0\xcf\x11\xe0"
_LEFT_OUT = {
    "word/comments.xml": "comments",
    "word/header": "headers",
    "word/footer": "footers",
    "word/media/": "pictures",
}
_NOTES = ("word/footnotes.xml", "word/endnotes.xml")
_MONOSPACED = ("code", "html preformatted", "plain text", "macro")


def parse(content: bytes, name: str, options: Options) -> list[Parsed]:
    """Return the one document of a DOCX file.

    Raises:
        Refused: it is no DOCX, encrypted, a bomb, or has no text.
    """
    if content.startswith(_OLE):
        raise Refused("encrypted, or an old .doc; save it as .docx without a password")
    if not content.startswith(b"PK"):
        what = plain.looks_like(content)
        raise Refused("no DOCX, whatever its name says" + (f": it starts like {what}" if what else ""))
    package = archive.open_zip(content)
    names = set(package.namelist())
    if BODY not in names:
        raise Refused(f"no DOCX: it has no {BODY}")
    writer = _Writer(_heading_levels(package, options), _code_styles(package, options))
    writer.body(_part(package, BODY, options))
    for notes in _NOTES:
        if notes in names:
            writer.notes(_part(package, notes, options))
    text = plain.tidy("\n\n".join(writer.blocks), writer.removed)
    plain.demand_text(text)
    left_out = sorted({word for prefix, word in _LEFT_OUT.items() if any(part.startswith(prefix) for part in names)})
    remarks = (f"its {' and '.join(left_out)} are left out",) if left_out else ()
    title = _title(package, options) or first_heading(text)
    return [Parsed(text, MARKDOWN, title, removed=writer.removed, notes=remarks)]


def _part(package: zipfile.ZipFile, name: str, options: Options) -> etree._Element:
    content = archive.member_bytes(package, name, options.max_unpacked_bytes, "documents.max_unpacked_bytes")
    parser = etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False)
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        raise Refused(f"no readable DOCX: {name}: {error}") from error
    # Entities are how a file reads other files, or grows beyond measure.
    if root.getroottree().docinfo.doctype:
        raise Refused(f"{name} declares a document type, which may bring entities in; Word writes none")
    return root


def _styles(package: zipfile.ZipFile, options: Options) -> Iterator[tuple[str, str, etree._Element]]:
    """Yield id, name in lower case, and element of every paragraph style."""
    if "word/styles.xml" in package.namelist():
        for style in _part(package, "word/styles.xml", options).iter(f"{_W}style"):
            named = style.find(f"{_W}name")
            yield style.get(f"{_W}styleId", ""), _value(named).lower(), style


def _heading_levels(package: zipfile.ZipFile, options: Options) -> Mapping[str, int]:
    """Return style id to level. The ids are in the language of whoever wrote the file; the names are English."""
    levels = {"Title": 1, **{f"Heading{level}": level for level in range(1, 7)}}
    for style_id, name, style in _styles(package, options):
        outline = style.find(f"{_W}pPr/{_W}outlineLvl")
        if name == "title":
            levels[style_id] = 1
        elif name.startswith("heading ") and name[8:].isdecimal():
            levels[style_id] = min(int(name[8:]), 6)
        elif outline is not None and _value(outline).isdecimal() and int(_value(outline)) < 6:
            levels[style_id] = int(_value(outline)) + 1
    return levels


def _code_styles(package: zipfile.ZipFile, options: Options) -> frozenset[str]:
    return frozenset(style_id for style_id, name, _ in _styles(package, options) if name.startswith(_MONOSPACED))


def _title(package: zipfile.ZipFile, options: Options) -> str:
    if "docProps/core.xml" not in package.namelist():
        return ""
    return " ".join((_part(package, "docProps/core.xml", options).findtext(f"{_DC}title") or "").split())


def _value(element: etree._Element | None) -> str:
    return "" if element is None else str(element.get(f"{_W}val", ""))


def _is_on(properties: etree._Element, name: str) -> bool:
    found = properties.find(f"{_W}{name}")
    return found is not None and _value(found) not in ("0", "false", "off")


@dataclass
class _Writer:
    """Collects the blocks of Markdown."""

    levels: Mapping[str, int]
    code_styles: frozenset[str]
    blocks: list[str] = field(default_factory=list)
    removed: Counter[str] = field(default_factory=Counter)
    _code: list[str] = field(default_factory=list)

    def body(self, root: etree._Element) -> None:
        body = root.find(f"{_W}body")
        self._blocks_of(root if body is None else body)
        self._end_code()

    def notes(self, root: etree._Element) -> None:
        for note in root:
            # Those with a type are the lines that divide notes from text.
            if note.get(f"{_W}type") is None:
                self._blocks_of(note)
        self._end_code()

    def _blocks_of(self, parent: etree._Element) -> None:
        for element in parent:
            if element.tag == f"{_W}p":
                self._paragraph(element)
            elif element.tag == f"{_W}tbl":
                self._end_code()
                self._table(element)
            elif element.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}ins", f"{_W}customXml"):
                self._blocks_of(element)

    def _paragraph(self, paragraph: etree._Element) -> None:
        text = self._text(paragraph)
        style = _value(paragraph.find(f"{_W}pPr/{_W}pStyle"))
        if style in self.code_styles:
            self._code.append(text)
            return
        self._end_code()
        if not text.strip():
            return
        if style in self.levels:
            self.blocks.append(f"{'#' * self.levels[style]} {' '.join(text.split())}")
        elif paragraph.find(f"{_W}pPr/{_W}numPr") is not None:
            self._list_entry(text.strip())
        else:
            self.blocks.append(text.strip())

    def _list_entry(self, text: str) -> None:
        entry = f"- {text}"
        if self.blocks and self.blocks[-1].startswith("- "):
            self.blocks[-1] += f"\n{entry}"
        else:
            self.blocks.append(entry)

    def _end_code(self) -> None:
        if any(line.strip() for line in self._code):
            fence = "```" if not any("```" in line for line in self._code) else "~~~~"
            self.blocks.append("\n".join([fence, *self._code, fence]))
        self._code = []

    def _table(self, table: etree._Element) -> None:
        rows = [[self._cell(cell) for cell in row.iter(f"{_W}tc")] for row in table.iterchildren(f"{_W}tr")]
        rows = [row for row in rows if any(row)]
        if not rows:
            return
        width = max(len(row) for row in rows)
        lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in rows]
        self.blocks.append("\n".join([lines[0], "|" + "---|" * width, *lines[1:]]))

    def _cell(self, cell: etree._Element) -> str:
        paragraphs = (self._text(paragraph) for paragraph in cell.iter(f"{_W}p"))
        return " ".join(" ".join(paragraphs).split()).replace("|", "\\|")

    def _text(self, paragraph: etree._Element) -> str:
        parts: list[str] = []
        for run in paragraph.iter(f"{_W}r"):
            text = "".join(_pieces(run))
            properties = run.find(f"{_W}rPr")
            if properties is not None and text.strip() and _is_unseen(properties):
                self.removed[HIDDEN] += 1
            else:
                parts.append(text)
        return "".join(parts)


def _pieces(run: etree._Element) -> Iterator[str]:
    for element in run:
        if element.tag == f"{_W}t":
            yield element.text or ""
        elif element.tag == f"{_W}tab":
            yield "\t"
        elif element.tag in (f"{_W}br", f"{_W}cr"):
            yield "\n"
        elif element.tag == f"{_W}noBreakHyphen":
            yield "-"


def _is_unseen(properties: etree._Element) -> bool:
    if _is_on(properties, "vanish") or _is_on(properties, "webHidden"):
        return True
    size = _value(properties.find(f"{_W}sz"))
    if size.isdecimal() and int(size) <= 2:  # half points
        return True
    white = _value(properties.find(f"{_W}color")).upper() in ("FFFFFF", "FEFEFE")
    on_colour = properties.find(f"{_W}shd") is not None or properties.find(f"{_W}highlight") is not None
    return white and not on_colour
