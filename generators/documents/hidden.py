"""Text that a reader does not see: characters without width, signs that turn the direction, comments in Markdown.

What people do not see they can't check, and a model reads it all the same: it is the usual way to plant an instruction
in a document. It is taken out and counted by kind. Signs that writing needs stay: joiners between emoji and inside
words of the scripts that use them, one variation selector after a character, the tags of a flag.
"""

from __future__ import annotations

import re
from collections import Counter

from generators.markdown import MAX_HEADING_CHARS, BlockKind, blocks

ZERO_WIDTH = "zero-width characters"
BIDI = "signs that turn the direction of writing"
SOFT_HYPHENS = "soft hyphens"
TAGS = "invisible tag characters"
SELECTORS = "surplus variation selectors"
COMMENTS = "comments that no reader sees"

_JOINED = (
    r"[\u0600-\u1cff\u200c\u200d\u2190-\u2bff\u3030-\u303d\ua8e0-\ua8ff\ufb50-\ufdff\ufe0f\ufe70-\ufefc"
    r"\U0001f000-\U0001faff]"
)
"""What a joiner may follow: the scripts from Arabic to Vedic, and emoji."""

_HIDDEN = re.compile(
    rf"""(?P<flag>\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f)
    | (?P<joiner>(?<={_JOINED})[\u200c\u200d](?=[^\s\u200c\u200d]))
    | (?P<zero>[\u200b-\u200d\u2060-\u2065\u206a-\u206f\ufeff\u180e\u115f\u1160\u3164\uffa0\ufff9-\ufffb])
    | (?P<bidi>[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069])
    | (?P<soft>\u00ad)
    | (?P<tag>[\U000e0000-\U000e007f])
    | (?<=[\ufe00-\ufe0f\U000e0100-\U000e01ef])(?P<selector>[\ufe00-\ufe0f\U000e0100-\U000e01ef]+)""",
    re.VERBOSE,
)
_KINDS = {"zero": ZERO_WIDTH, "bidi": BIDI, "soft": SOFT_HYPHENS, "tag": TAGS, "selector": SELECTORS}
_COMMENT = re.compile(r"(?P<code>(?P<ticks>`+)(?!`)[^\n]*?(?<!`)(?P=ticks)(?!`))|(?P<comment><!--.*?-->)", re.DOTALL)


def without_hidden_characters(text: str, removed: Counter[str]) -> str:
    """Return a text without the characters that no reader sees; `removed` gets their number by kind."""

    def replace(match: re.Match[str]) -> str:
        name = match.lastgroup or ""
        if name not in _KINDS:
            return match[0]
        removed[_KINDS[name]] += len(match[0])
        return ""

    # Nothing below U+00AD is matched, and most texts are ASCII.
    return text if text.isascii() else _HIDDEN.sub(replace, text)


def one_line(title: str) -> str:
    """Return a title as it may stand in a prompt: one line, of bounded length, nothing in it that no reader sees."""
    plain = without_hidden_characters(title, Counter()).encode("utf-8", "replace").decode()
    return " ".join("".join(sign if sign.isprintable() else " " for sign in plain).split())[:MAX_HEADING_CHARS]


def without_comments(text: str, removed: Counter[str]) -> str:
    """Return Markdown without its HTML comments; those inside code are text and stay. `removed` gets their number."""
    if "<!--" not in text:
        return text

    def replace(match: re.Match[str]) -> str:
        if match["comment"] is None:
            return match[0]
        removed[COMMENTS] += 1
        return ""

    parts: list[str] = []
    position = 0
    for block in blocks(text):
        if block.kind is BlockKind.CODE:
            parts += [_COMMENT.sub(replace, text[position : block.start]), text[block.start : block.end]]
            position = block.end
    return "".join([*parts, _COMMENT.sub(replace, text[position:])])
