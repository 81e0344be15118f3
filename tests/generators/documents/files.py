"""What the tests of the documents share: reading with a real parser process, and small files of every format."""

from __future__ import annotations

import io
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from data_catalog.records import Document
from flows.document_parser import document_parser
from generators.documents import Options, ReadResult, read_documents
from generators.specs import DocumentsSpec

OPTIONS = Options.of(DocumentsSpec(paths=(Path("documents"),)))

CONTENT_TYPES = """<?xml version="1.0"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>"""
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def read(*paths: Path, **settings: object) -> ReadResult:
    spec = DocumentsSpec.model_validate({"paths": paths, **settings})
    with tempfile.TemporaryDirectory() as home:
        return read_documents(spec, document_parser(Path(home)))


def reasons(result: ReadResult) -> dict[str, str]:
    return {Path(refusal.path).name: refusal.reason for refusal in result.refusals}


def by_name(result: ReadResult) -> dict[str, Document]:
    return {Path(document.path).name: document for document in result.documents}


def remarks(result: ReadResult) -> dict[str, str]:
    return {Path(remark.path).name: str(remark) for remark in result.remarks}


def zip_of(members: Mapping[str, bytes | str], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def docx_of(body: str, *, declaration: str = "", parts: Mapping[str, str] | None = None) -> bytes:
    document = f'<?xml version="1.0"?>{declaration}<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'
    return zip_of({"[Content_Types].xml": CONTENT_TYPES, "word/document.xml": document, **(parts or {})})


def paragraph(text: str, style: str = "", run: str = "", properties: str = "") -> str:
    styled = f'<w:pStyle w:val="{style}"/>' if style else ""
    return (
        f"<w:p><w:pPr>{styled}{properties}</w:pPr>"
        f'<w:r><w:rPr>{run}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'
    )


def shown(*lines: str) -> str:
    """Return page content that draws lines of text in black."""
    return "BT /F1 12 Tf 72 700 Td 14 TL " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"


def pdf_of(
    *pages: str, extra: Iterable[str] = (), catalog: str = "", page_entries: str = "", trailer: str = "",
    tree: str = "",
) -> bytes:  # fmt: skip
    """Return a PDF. Objects: 1 catalogue, 2 page tree, 3 font, then page and content in turn, then `extra`."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        f"<</Type/Catalog/Pages 2 0 R {catalog}>>".encode(),
        (tree or f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>").encode(),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    for number, content in enumerate(pages):
        objects += [
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents {5 + 2 * number} 0 R"
            f"/Resources<</Font<</F1 3 0 R>>>>{page_entries}>>".encode(),
            stream_of(content.encode("latin-1")),
        ]
    return assembled([*objects, *(text.encode("latin-1") for text in extra)], trailer)


def stream_of(content: bytes, *, times: int = 1) -> bytes:
    """Return a stream object, deflated `times` over."""
    for _ in range(times):
        content = zlib.compress(content, 9)
    filters = "/FlateDecode " * times
    return f"<</Length {len(content)}/Filter[{filters}]>>stream\n".encode() + content + b"\nendstream"


def assembled(objects: Iterable[bytes], trailer: str = "") -> bytes:
    """Return a PDF file of numbered objects, the first of which is the catalogue."""
    content = bytearray(b"%PDF-1.7\n")
    places = []
    for number, entry in enumerate(objects, start=1):
        places.append(len(content))
        content += f"{number} 0 obj\n".encode() + entry + b"\nendobj\n"
    start = len(content)
    content += f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n".encode()
    content += b"".join(f"{place:010} 00000 n \n".encode() for place in places)
    content += f"trailer<</Size {len(places) + 1}/Root 1 0 R {trailer}>>\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(content)
