r"""Markdown and plain text: bytes to text, whatever the encoding.

What is kept of a file is its text without a byte order mark, with `\n` line endings and without what no reader sees;
nothing else is changed (no Unicode normalisation), so that offsets and quotes stay true.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePath

from charset_normalizer import from_bytes

from generators.documents.hidden import without_comments, without_hidden_characters
from generators.documents.results import Options, Parsed, Refused
from generators.markdown import MARKDOWN, PLAIN_TEXT, first_heading, front_matter_title

PLAIN_SUFFIXES = frozenset({".txt", ".text"})
MAX_CONTROL_SHARE = 0.01
"""Share of control characters above which a file that is valid UTF-8 still counts as binary."""
MAX_GUESS_CHAOS = 0.05
"""Share of unlikely characters above which a guessed encoding is not believed (charset-normalizer's measure)."""
GUESSABLE_BYTES = 64
"""Fewer bytes outside ASCII say too little: any of a dozen encodings would fit."""

_CONTROL = re.compile(r"[\x01-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_HALF_PAIR = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
# The four-byte marks first: UTF-32 in little endian starts like UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MAGIC = (
    (b"MZ", "a Windows program"),
    (b"\x7fELF", "a Linux program"),
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a zip or an Office file"),
    (b"\xd0\xcf\x11\xe0", "an old or an encrypted Office file"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"PAR1", "a Parquet file"),
)


@dataclass(frozen=True)
class Decoded:
    """A text and how it was found in the bytes."""

    text: str
    note: str = ""
    """Set where the encoding had to be guessed."""


class NeedsGuessing(Refused):
    """The bytes are no UTF-8 and bear no mark: guessing takes time, which the caller may want to limit."""


def looks_like(content: bytes) -> str:
    """Return what the first bytes of a file say it is, or an empty string."""
    return next((name for magic, name in _MAGIC if content.startswith(magic)), "")


def parse(content: bytes, name: str, options: Options, *, guess: bool = True) -> list[Parsed]:
    """Return the one document of a text file.

    Raises:
        Refused: it is empty, binary, or in no encoding that can be told.
        NeedsGuessing: only guessing would tell, and `guess` is off.
    """
    decoded = decode(content, options.encoding, guess=guess)
    media_type = PLAIN_TEXT if PurePath(name).suffix.lower() in PLAIN_SUFFIXES else MARKDOWN
    removed: Counter[str] = Counter()
    text = tidy(decoded.text, removed)
    if media_type == MARKDOWN:
        text = without_comments(text, removed)
    demand_text(text)
    title = "" if media_type == PLAIN_TEXT else front_matter_title(text) or first_heading(text)
    notes = (decoded.note,) if decoded.note else ()
    return [Parsed(text, media_type, title, removed=removed, notes=notes)]


def tidy(text: str, removed: Counter[str]) -> str:
    """Return a text with plain line feeds and without hidden characters."""
    return without_hidden_characters(text.replace("\r\n", "\n").replace("\r", "\n"), removed)


def demand_text(text: str) -> None:
    """Refuse what is empty or no text at all."""
    if not text.strip():
        raise Refused("empty")
    if not _is_whole(text):
        raise Refused("it has half of a surrogate pair")
    if "\0" in text:
        raise Refused("binary: it has NUL characters")
    if len(_CONTROL.findall(text)) > MAX_CONTROL_SHARE * len(text):
        raise Refused("binary: more than one in a hundred characters is a control character")


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def decode(content: bytes, encoding: str | None = None, *, guess: bool = True) -> Decoded:
    """Return the text of bytes: by their mark, as UTF-8, as `encoding` says, or by a guess that is well founded."""
    for mark, name in _MARKS:
        if content.startswith(mark):
            return Decoded(_strictly(content, name))
    if b"\0" in content and (what := looks_like(content)):
        raise Refused(f"binary: it has NUL bytes and starts like {what}")
    if wide := _unmarked_utf16(content):
        return Decoded(_strictly(content, wide), f"read as {wide}, which it does not say")
    if b"\0" in content and encoding is None:
        raise Refused("binary: it has NUL bytes")
    try:
        return Decoded(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        if encoding is not None:
            return Decoded(_strictly(content, encoding))
        return _guessed(content, error, guess=guess)


def _strictly(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise Refused(
            f"not {encoding.removesuffix('-sig').upper()}: {error.reason} at offset {error.start:,}"
        ) from error


def _unmarked_utf16(content: bytes) -> str:
    """Return the byte order of UTF-16 without a mark, told by where the NUL bytes of ASCII and spaces are."""
    if b"\0" not in content or len(content) % 2:
        return ""
    even, odd = content[0::2].count(0), content[1::2].count(0)
    few, many = len(content) // 200, len(content) // 10
    if odd >= many and even <= few:
        return "utf-16-le"
    return "utf-16-be" if even >= many and odd <= few else ""


def _guessed(content: bytes, error: UnicodeDecodeError, *, guess: bool) -> Decoded:
    said = f"not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start:,}"
    if _HALF_PAIR.search(content):
        raise Refused(f"{said}; it has half of a surrogate pair")
    if what := looks_like(content):
        raise Refused(f"{said}; it starts like {what}")
    if not guess:
        raise NeedsGuessing(said)
    best = None
    if len(content) - len(content.translate(None, bytes(range(128, 256)))) >= GUESSABLE_BYTES:
        best = from_bytes(content).best()
    if best is None or best.chaos > MAX_GUESS_CHAOS:
        raise Refused(f"{said}, and no other encoding fits well; save it as UTF-8 or set documents.encoding")
    return Decoded(_strictly(content, best.encoding), f"read as {best.encoding}, which was guessed")
