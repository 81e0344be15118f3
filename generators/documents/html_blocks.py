"""The blocks of an HTML page as Markdown: for pages too short for trafilatura to tell text from menus.

Only what the page itself marks as a menu, a footer or a form is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lxml.html import HtmlElement

# fmt: off
_LEFT_OUT = frozenset({
    "nav", "footer", "aside", "form", "button", "select", "script", "style", "noscript", "head", "svg", "math",
    "iframe", "object", "template",
})
_BLOCKS = frozenset({
    "address", "article", "blockquote", "body", "center", "dd", "details", "div", "dl", "dt", "fieldset", "figcaption",
    "figure", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "html", "li", "main", "ol", "p", "pre", "section",
    "summary", "table", "ul",
})
# fmt: on
_HEADING = re.compile(r"h([1-6])")


def page_markdown(root: HtmlElement) -> str:
    """Return the blocks of a page, divided by blank lines."""
    body = root.find(".//body")
    parts = [block for block in _blocks(root if body is None else body) if block.strip()]
    return "\n\n".join(parts)


def _blocks(element: HtmlElement) -> Iterator[str]:
    """Yield the blocks in an element; what stands between two of them is a paragraph."""
    loose = [element.text or ""]
    for child in element:
        tag = child.tag if isinstance(child.tag, str) else ""
        if tag and tag not in _LEFT_OUT:
            if tag in _BLOCKS:
                yield _folded(loose)
                loose = []
                yield from _block(child, tag)
            elif any(isinstance(inner.tag, str) and inner.tag in _BLOCKS for inner in child.iterdescendants()):
                yield _folded(loose)
                loose = []
                yield from _blocks(child)
            else:
                loose.append("\n" if tag == "br" else _inline(child))
        loose.append(child.tail or "")
    yield _folded(loose)


def _block(element: HtmlElement, tag: str) -> Iterator[str]:
    if match := _HEADING.fullmatch(tag):
        words = " ".join(_inline(element).split())
        if words:
            yield f"{'#' * int(match[1])} {words}"
    elif tag == "pre":
        code = element.text_content().strip("\n")
        fence = "~~~~" if "```" in code else "```"
        yield f"{fence}\n{code}\n{fence}" if code.strip() else ""
    elif tag == "table" and not element.xpath(".//table"):
        yield _table(element)
    elif tag in ("ul", "ol"):
        yield "\n".join(_list(element, ordered=tag == "ol"))
    else:
        yield from _blocks(element)


def _list(element: HtmlElement, *, ordered: bool) -> Iterator[str]:
    for number, entry in enumerate(element.findall("li"), start=1):
        text = "\n".join(block for block in _blocks(entry) if block.strip())
        if text:
            yield (f"{number}. " if ordered else "- ") + text.replace("\n", "\n  ")


def _table(element: HtmlElement) -> str:
    rows = [[_cell(cell) for cell in row.xpath("./td|./th")] for row in element.iter("tr")]
    rows = [row for row in rows if any(row)]
    if not rows:
        return ""
    width = max(map(len, rows))
    lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * width, *lines[1:]])


def _cell(element: HtmlElement) -> str:
    return " ".join(_inline(element).split()).replace("|", "\\|")


def _inline(element: HtmlElement) -> str:
    """Return the text of an element whose parts run on in one line; code keeps its mark."""
    if element.tag == "code" and "`" not in (text := element.text_content()) and text.strip():
        return f"`{text}`"
    parts = [element.text or ""]
    for child in element:
        if isinstance(child.tag, str) and child.tag not in _LEFT_OUT:
            parts.append("\n" if child.tag == "br" else _inline(child))
            if child.tag in _BLOCKS:
                parts.append(" ")
        parts.append(child.tail or "")
    return "".join(parts)


def _folded(parts: list[str]) -> str:
    lines = (" ".join(line.split()) for line in "".join(parts).split("\n"))
    return "\n".join(filter(None, lines))
