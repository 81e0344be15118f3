"""Archives: which files are in a zip, and the bytes of one of them. Nothing is ever written to disk.

A zip in a zip is refused: it is how bombs are built, and unpacking it once is little to ask.
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

from generators.documents.files import is_included
from generators.documents.formats import is_zip
from generators.documents.results import Options, Refusal, Refused, endings

MAX_MEMBERS = 10_000
"""Files in one zip."""
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Contents:
    """The files of a zip that may be read, by their place in its directory, and what was refused."""

    members: tuple[tuple[int, str], ...]
    refusals: tuple[Refusal, ...]


def open_zip(content: bytes) -> zipfile.ZipFile:
    """Open a zip that is in memory."""
    try:
        return zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise Refused(f"no readable zip: {error}") from error


def contents(archive: zipfile.ZipFile, options: Options) -> Contents:
    """Return what is in a zip; hidden files are not looked at, as in folders.

    Raises:
        Refused: it has too many files, or would unpack to more than `documents.max_unpacked_bytes`.
    """
    entries = [(place, entry) for place, entry in enumerate(archive.infolist()) if not entry.is_dir()]
    if len(entries) > MAX_MEMBERS:
        raise Refused(f"a zip of {len(entries):,} files; at most {MAX_MEMBERS:,} are read, unpack it into a folder")
    total = sum(entry.file_size for _, entry in entries)
    if total > options.max_unpacked_bytes:
        raise Refused(
            f"unpacks to {total:,} bytes, more than {options.max_unpacked_bytes:,} (documents.max_unpacked_bytes)"
        )
    members, refusals = [], []
    other: Counter[str] = Counter()
    for place, entry in entries:
        name = _shown(entry.filename)
        inner = PurePosixPath(entry.filename)
        if reason := _objection(entry):
            refusals.append(Refusal(f"!{name}", reason))
        elif any(part.startswith(".") or part == "__MACOSX" for part in inner.parts):
            continue
        elif is_included(inner.name, options.include):
            members.append((place, name))
        else:
            other[_shown(inner.suffix.lower() or inner.name)] += 1
    if other:
        refusals.append(Refusal("", f"not looked at in it: {endings(other)} (documents.include)"))
    return Contents(tuple(members), tuple(refusals))


def _shown(name: str) -> str:
    """Return a name without what could steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in name)


def _objection(entry: zipfile.ZipInfo) -> str:
    # A backslash divides names on Windows, and a colon stands behind its drives.
    name = PurePosixPath(entry.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in entry.filename:
        return "its name leads out of the zip"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "a symbolic link"
    if entry.flag_bits & _ENCRYPTED:
        return "encrypted"
    if is_zip(entry.filename):
        return "a zip in a zip; unpack it once"
    return ""


def member_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo | str, max_bytes: int, field: str) -> bytes:
    """Return the bytes of one file of a zip, whatever size its directory claims.

    Raises:
        Refused: it is damaged, or larger than `max_bytes`, which the configuration calls `field`.
    """
    try:
        with archive.open(member) as stream:
            content = stream.read(max_bytes + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise Refused(f"damaged: {error}") from error
    if len(content) > max_bytes:
        raise Refused(f"larger than {max_bytes:,} bytes ({field})")
    return content
