"""Numbers, times and quotes as a reader wants them; plain functions without markup."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from typing import NamedTuple

from flows.progress import clock

NARROW = "\u202f"
"""Narrow no-break space: 91 % stays on one line."""
MINUS = "\u2212"
CLIP = 4000


class Segment(NamedTuple):
    """A piece of a text; `marked` where it is the evidence."""

    text: str
    marked: bool


def percent(share: float | None, digits: int = 0) -> str:
    """Return a share as `91 %`; a dash where there is none. 99.6 % does not become 100 %, nor 0.3 % nothing."""
    if share is None:
        return "\u2013"
    if digits == 0 and (0 < share <= 0.005 or 0.995 <= share < 1):
        digits = 1
    return f"{100 * share:.{digits}f}{NARROW}%"


def points(difference: float | None) -> str:
    """Return a difference of shares in points, such as `+88.0`; a dash where there is none."""
    if difference is None:
        return "\u2013"
    text = f"{100 * difference:+.1f}"
    return text.replace("-", MINUS) if float(text) else "0.0"


def number(value: float | None) -> str:
    """Return `1,234`, `0.0312` or `1.2e-07`; a dash where there is none or it is not finite."""
    if value is None or not math.isfinite(value):
        return "\u2013"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    magnitude = abs(value)
    return f"{value:,.1f}" if magnitude >= 100 else f"{value:.3g}"


def p_value(value: float | None) -> str:
    """Return a p-value as `0.031` or `< 0.0001`."""
    if value is None:
        return "\u2013"
    return f"<{NARROW}0.0001" if value < 0.0001 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Return `7 s`, `1 min 05 s` or `2 h 03 min`."""
    return clock(max(0.0, seconds))


def moment(epoch: float) -> str:
    """Return a point in time in UTC, such as `22 November 2026, 12:07 UTC`."""
    return time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(epoch)).lstrip("0")


def size(count: int) -> str:
    """Return bytes as `2.4 MiB`."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def short(identifier: str) -> str:
    """Return an id's prefix and first digits: enough to recognise it; the full one stands beside it."""
    prefix, dash, digits = identifier.rpartition("-")
    return f"{prefix}{dash}{digits[:8]}" if len(digits) > 12 else identifier


def clip(text: str, limit: int = CLIP) -> str:
    """Return a text that a page can hold, and say how much was left out."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit:,} more characters)"


def visible(text: str) -> str:
    """Return `text` with control characters and lone surrogates as visible signs, so that nothing hides or breaks."""
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    code = ord(character)
    if code < 0x20 and character not in "\n\t":
        return chr(0x2400 + code)
    if 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000:
        return "\ufffd"
    # Marks that turn the direction of the text around them can make a quote read as another one.
    return f"[U+{code:04X}]" if 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 else character


def highlight(text: str, quote: str) -> tuple[Segment, ...]:
    """Cut `text` where `quote` stands in it, white space and case folded; one unmarked piece where it doesn't."""
    parts = quote.split()
    found = re.search(r"\s+".join(map(re.escape, parts)), text, re.IGNORECASE) if parts else None
    if found is None:
        return (Segment(text, marked=False),)
    return tuple(_pieces(text, found.start(), found.end()))


def _pieces(text: str, start: int, end: int) -> Iterator[Segment]:
    for piece, marked in ((text[:start], False), (text[start:end], True), (text[end:], False)):
        if piece:
            yield Segment(piece, marked)
