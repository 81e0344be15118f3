"""The block structure of Markdown, as far as cutting needs it: headings, fences, tables, paragraphs, with offsets.

Rules as in CommonMark 0.31 sections 4.1 to 4.5 and the table extension of GitHub Flavored Markdown, with these
simplifications: a fence may stand at any indentation (lists), a list is a paragraph until its blank line, indented code
is a paragraph, and a heading longer than `MAX_HEADING_CHARS` is a paragraph (it would swell every prompt). Front matter
(`---` ... `---` at the very start) is data about the document, not part of its body.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

MARKDOWN = "text/markdown"
PLAIN_TEXT = "text/plain"
MAX_HEADING_CHARS = 200
MAX_FRONT_MATTER_LINES = 200
MAX_TABLE_RULE_CHARS = 4000

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*")
_RULE = re.compile(r" {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})")
_FENCE = re.compile(r"[ \t]*(?:(`{3,})[^`]*|(~{3,}).*)")
_TABLE_RULE = re.compile(r" {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
_LIST_MARKER = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+")
_FRONT_TITLE = re.compile(r"title[ \t]*:[ \t]*(.+)", re.IGNORECASE)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_HEADING_ID = re.compile(r"\s*\{#[^}]*\}\s*$")


class BlockKind(StrEnum):
    """What a block is. RULE, FRONT_MATTER and HEADING are not body text."""

    HEADING = "heading"
    PARAGRAPH = "paragraph"
    CODE = "code"
    TABLE = "table"
    RULE = "rule"
    FRONT_MATTER = "front_matter"


@dataclass(frozen=True)
class Block:
    """A block of a text: `text[start:end]`, without the line feed that ends it."""

    kind: BlockKind
    start: int
    end: int
    level: int = 0
    """Headings: 1 to 6."""
    title: str = ""
    """Headings: the words without markup."""


@dataclass(frozen=True)
class _Line:
    start: int
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def blank(self) -> bool:
        return not self.text.strip()


def blocks(text: str, media_type: str = MARKDOWN) -> list[Block]:
    """Return the blocks of a text in order; every character that is not white space is in exactly one block.

    A plain text has paragraphs only, divided by blank lines.
    """
    lines = list(_lines(text))
    if media_type == PLAIN_TEXT:
        return _paragraphs(lines)
    found: list[Block] = []
    position = _front_matter_end(lines)
    if position:
        found.append(Block(BlockKind.FRONT_MATTER, 0, lines[position - 1].end))
    while position < len(lines):
        if lines[position].blank:
            position += 1
            continue
        block, position = _next_block(lines, position)
        found.append(block)
    return found


def front_matter_title(text: str) -> str:
    """Return the `title:` of the front matter, or an empty string."""
    lines = list(_lines(text))
    for line in lines[: _front_matter_end(lines)]:
        if match := _FRONT_TITLE.fullmatch(line.text.rstrip()):
            return match[1].strip().strip("\"'").strip()[:MAX_HEADING_CHARS]
    return ""


def first_heading(text: str) -> str:
    """Return the first heading that has words, or an empty string."""
    return next((block.title for block in blocks(text) if block.kind is BlockKind.HEADING and block.title), "")


def list_marker_length(line: str) -> int:
    """Return how many characters of a line are its list marker (`- `, `12. `), indentation included; 0 without one."""
    match = _LIST_MARKER.match(line)
    return match.end() if match else 0


def _lines(text: str) -> Iterator[_Line]:
    start = 0
    # Not splitlines(): a form feed or a Unicode line separator does not end a line of Markdown.
    for line in text.split("\n"):
        yield _Line(start, line)
        start += len(line) + 1


def _paragraphs(lines: list[_Line]) -> list[Block]:
    found: list[Block] = []
    position = 0
    while position < len(lines):
        if lines[position].blank:
            position += 1
            continue
        last = position
        while last + 1 < len(lines) and not lines[last + 1].blank:
            last += 1
        found.append(_span(BlockKind.PARAGRAPH, lines, position, last))
        position = last + 1
    return found


def _next_block(lines: list[_Line], position: int) -> tuple[Block, int]:
    """Return the block that starts at a line with text, and the position behind it."""
    line = lines[position]
    if fence := _FENCE.fullmatch(line.text):
        last = _fence_end(lines, position, fence[1] or fence[2])
        return _span(BlockKind.CODE, lines, position, last), last + 1
    if heading := _atx(line.text):
        title = _plain_title(heading[2] or "")
        return Block(BlockKind.HEADING, line.start, line.end, len(heading[1]), title), position + 1
    if _RULE.fullmatch(line.text):
        return _span(BlockKind.RULE, lines, position, position), position + 1
    if _starts_table(lines, position):
        last = position + 1
        while last + 1 < len(lines) and not lines[last + 1].blank:
            last += 1
        return _span(BlockKind.TABLE, lines, position, last), last + 1
    return _paragraph_or_setext(lines, position)


def _paragraph_or_setext(lines: list[_Line], position: int) -> tuple[Block, int]:
    last = position
    while last + 1 < len(lines) and not lines[last + 1].blank:
        follower = lines[last + 1].text
        underline = _SETEXT.fullmatch(follower)
        text_length = lines[last].end - lines[position].start
        if underline and text_length <= MAX_HEADING_CHARS and not list_marker_length(lines[position].text):
            words = " ".join(line.text.strip() for line in lines[position : last + 1])
            level = 1 if underline[1].startswith("=") else 2
            block = Block(BlockKind.HEADING, lines[position].start, lines[last + 1].end, level, _plain_title(words))
            return block, last + 2
        if _interrupts_paragraph(lines, last + 1):
            break
        last += 1
    return _span(BlockKind.PARAGRAPH, lines, position, last), last + 1


def _interrupts_paragraph(lines: list[_Line], position: int) -> bool:
    text = lines[position].text
    return bool(_atx(text) or _FENCE.fullmatch(text) or _RULE.fullmatch(text) or _starts_table(lines, position))


def _atx(line: str) -> re.Match[str] | None:
    # The length first: the pattern takes quadratic time on a hostile line of a million spaces.
    return _ATX.fullmatch(line) if len(line) <= MAX_HEADING_CHARS else None


def _starts_table(lines: list[_Line], position: int) -> bool:
    if position + 1 >= len(lines) or "|" not in lines[position].text:
        return False
    rule = lines[position + 1].text.rstrip()
    return "|" in rule and len(rule) <= MAX_TABLE_RULE_CHARS and _TABLE_RULE.fullmatch(rule) is not None


def _fence_end(lines: list[_Line], position: int, fence: str) -> int:
    """Return the position of the closing fence, or of the last line with text where it is never closed."""
    closing = re.compile(rf"[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*")
    for later in range(position + 1, len(lines)):
        if closing.fullmatch(lines[later].text):
            return later
    last = len(lines) - 1
    while last > position and lines[last].blank:
        last -= 1
    return last


def _front_matter_end(lines: list[_Line]) -> int:
    """Return how many lines the front matter takes; 0 where there is none."""
    if not lines or lines[0].text.rstrip() != "---":
        return 0
    for position in range(1, min(len(lines), MAX_FRONT_MATTER_LINES)):
        if lines[position].text.rstrip() in ("---", "..."):
            body = lines[1:position]
            return position + 1 if any(":" in line.text for line in body) else 0
        if lines[position].blank:
            return 0
    return 0


def _plain_title(markup: str) -> str:
    title = _LINK.sub(r"\1", _HEADING_ID.sub("", markup))
    return " ".join(title.replace("**", "").replace("__", "").replace("`", "").split())


def _span(kind: BlockKind, lines: list[_Line], first: int, last: int) -> Block:
    return Block(kind, lines[first].start, lines[last].end)
