"""HTML pages: what a reader sees of them, as Markdown.

trafilatura finds the main text; menus, footers and the like are left out, and where that is most of the page, it is
said. Before it looks, everything that a reader does not see is taken out and counted. Nothing is fetched and no script
is run.
"""

from __future__ import annotations

import re
from collections import Counter

import trafilatura
from lxml import etree
from lxml.html import HtmlElement, HTMLParser, document_fromstring

from generators.documents import plain
from generators.documents.concealment import Sight, Styles, blends_in, hides, seen_in
from generators.documents.html_blocks import page_markdown
from generators.documents.results import Options, Parsed, Refused
from generators.markdown import MARKDOWN, first_heading

HIDDEN = "passages that the page hides"
BLENDED = "passages in the colour of their background"
MAX_LEFT_OUT = 0.5
"""Share of the visible text above which what trafilatura leaves out is told."""

_NO_TEXT = ("script", "style", "noscript", "head", "svg", "math", "iframe", "object", "template")
_DECLARED = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)|<\?xml[^>]{0,100}?encoding=[\"']([\w.:-]+)", re.I
)
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]()#+.!<>~-])")
_TRAILING_BLANKS = re.compile(r"[ \t]+$", re.MULTILINE)
_STRUCTURE = re.compile(r"^(?:#{1,6} |\||```)", re.MULTILINE)
_FENCED = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def parse(content: bytes, name: str, options: Options) -> list[Parsed]:
    """Return the one document of a page.

    Raises:
        Refused: it is no text, nested too deeply, or a reader would see nothing.
    """
    decoded = _decode(content, options)
    plain.demand_text(decoded.text)
    root = _tree(decoded.text)
    title = " ".join((root.findtext(".//title") or "").split())
    removed: Counter[str] = Counter()
    _take_out_unseen(root, removed)
    visible = len("".join(" ".join(_visible_texts(root)).split()))
    if not visible:
        raise Refused("empty: the page shows no text" + (" but what it hides" if removed else ""))
    text = plain.tidy(_main_text(root), removed)
    if not text.strip():
        raise Refused("no main text was found in the page")
    kept = len("".join(text.split())) / visible
    notes = [decoded.note] if decoded.note else []
    if kept < 1 - MAX_LEFT_OUT:
        notes.append(f"{1 - min(kept, 1):.0%} of the page's text looks like menus and the like and was left out")
    return [Parsed(text, MARKDOWN, title or first_heading(text), removed=removed, notes=tuple(notes))]


def _main_text(root: HtmlElement) -> str:
    """Return the main text; a page whose structure trafilatura loses (a short one) is taken as it is."""
    markdown = trafilatura.extract(
        root, output_format="markdown", include_tables=True, include_formatting=True, include_comments=False,
        favor_recall=True,
    )  # fmt: skip
    text = _TRAILING_BLANKS.sub("", _unescaped(markdown or ""))
    structured = root.xpath("//body//h1|//body//h2|//body//h3|//body//table|//body//pre")
    if not text.strip() or (structured and not _STRUCTURE.search(text)):
        return page_markdown(root)
    return text


def _decode(content: bytes, options: Options) -> plain.Decoded:
    declared = _DECLARED.search(content[:4096])
    encoding = (declared[1] or declared[2]).decode() if declared else options.encoding
    try:
        return plain.decode(content, encoding)
    except LookupError:
        return plain.decode(content, options.encoding)


def _tree(text: str) -> HtmlElement:
    parser = HTMLParser(encoding="utf-8", remove_pis=True, huge_tree=False, no_network=True)
    try:
        root = document_fromstring(text.encode(), parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError) as error:
        raise Refused(f"no readable HTML: {error}") from error
    # The parser goes on without what lies too deep; half a page must not pass for a whole one.
    if limits := [entry.message for entry in parser.error_log if entry.type_name == "ERR_RESOURCE_LIMIT"]:
        raise Refused(f"no readable HTML: {limits[0].partition(',')[0].lower()}")
    return root


def _take_out_unseen(root: HtmlElement, removed: Counter[str]) -> None:
    """Remove what a reader does not see. Only text counts: an empty hidden box is nothing to report."""
    styles = Styles()
    for sheet in root.iter("style"):
        styles.add(sheet.text or "")
    for comment in list(root.iter(etree.Comment)):
        comment.drop_tree()
    for anchor in root.find_class("headerlink"):
        anchor.drop_tree()  # the sign by which documentation pages link to their own headings
    waiting = [(root, Sight())]
    while waiting:
        element, outside = waiting.pop()
        if not isinstance(element.tag, str) or element.tag in _NO_TEXT:
            continue
        style = styles.of(element)
        sight = seen_in(style, outside)
        if hides(element, style):
            removed[HIDDEN] += bool(element.text_content().strip())
            element.drop_tree()
            continue
        children = [(child, sight) for child in element]
        if blends_in(style, sight):
            removed[BLENDED] += _blank(element)
        waiting += children
    for kind in [kind for kind, count in removed.items() if not count]:
        del removed[kind]


def _blank(element: HtmlElement) -> int:
    """Remove an element's own text, not that of the elements in it; return 1 if there was any."""
    own = [element.text or "", *(child.tail or "" for child in element)]
    element.text = None
    for child in element:
        child.tail = " "
    return int(any(text.strip() for text in own))


def _visible_texts(root: HtmlElement) -> list[str]:
    shown = " and ".join(f"not(ancestor::{tag})" for tag in _NO_TEXT)
    return [str(text) for text in root.xpath(f"//body//text()[{shown}]")]


def _unescaped(markdown: str) -> str:
    r"""Return Markdown without the backslashes that trafilatura sets before signs: `1 \< 2` is no quote of the page."""
    parts = _FENCED.split(markdown)
    return "".join(part if place % 2 else _ESCAPED.sub(r"\1", part) for place, part in enumerate(parts))
