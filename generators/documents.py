r"""Reading documents: Markdown and plain text files, each either read whole or refused with a reason.

A file that can't be used never stops the others. What is kept of a file is its text as UTF-8 without a byte order mark
and with `\n` line endings; nothing else is changed (no Unicode normalisation), so that offsets and quotes stay true.
Hidden files and folders (`.git`, `._notes.md`) are not looked at, and symbolic links to folders are not followed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from data_catalog.errors import DocumentError
from data_catalog.records import Document
from generators.markdown import MARKDOWN, PLAIN_TEXT, first_heading, front_matter_title
from generators.specs import DocumentsSpec

PLAIN_SUFFIXES = frozenset({".txt", ".text"})
MAX_CONTROL_SHARE = 0.01
"""Share of control characters above which a file that is valid UTF-8 still counts as binary."""

_CONTROL = re.compile(r"[\x01-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Refusal:
    """A file that was not read, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ReadResult:
    """The documents in a fixed order (as configured, then by path), and the files that were refused."""

    documents: tuple[Document, ...]
    refusals: tuple[Refusal, ...]


class _Refused(Exception):
    """Carries the reason why one file is not read up to `read_documents`."""


def read_documents(spec: DocumentsSpec) -> ReadResult:
    """Read every document that `spec` names.

    Raises:
        DocumentError: a configured path does not exist, or not one usable document was found.
    """
    documents: list[Document] = []
    refusals: list[Refusal] = []
    first_with: dict[str, str] = {}
    seen: set[Path] = set()
    for path, folder in _candidates(spec):
        name = _printable(path)
        try:
            if path in seen:
                continue
            seen.add(path)
            document = _read(path, folder, name, spec.max_bytes)
            if document.id in first_with:
                raise _Refused(f"same text as {first_with[document.id]}")
        except _Refused as refused:
            refusals.append(Refusal(name, str(refused)))
            continue
        first_with[document.id] = name
        documents.append(document)
    if not documents:
        raise _nothing_usable(spec, refusals)
    return ReadResult(tuple(documents), tuple(refusals))


def _candidates(spec: DocumentsSpec) -> Iterator[tuple[Path, Path | None]]:
    """Yield each file with the folder that it must not lead out of (none for a file that the user named)."""
    for path in spec.paths:
        if path.is_dir():
            yield from ((file, path) for file in _files_in(path, spec.include))
        elif path.exists():
            yield path, None
        else:
            raise DocumentError(
                f"documents.paths names {_printable(path)}, which does not exist",
                valid="existing files or folders",
                next_step="correct the path in the configuration; nothing was read or withdrawn",
            )


def _files_in(folder: Path, include: tuple[str, ...]) -> list[Path]:
    patterns = [pattern.lower() for pattern in include]
    found: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=_raise_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and any(fnmatchcase(name.lower(), pattern) for pattern in patterns):
                found.append(Path(parent, name))
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _raise_unreadable(error: OSError) -> None:
    # A folder that can't be listed must not look like a folder whose documents were withdrawn.
    raise DocumentError(
        f"the folder {error.filename} can't be listed: {error.strerror}",
        next_step="make it readable for this user, or leave it out of documents.paths",
    ) from error


def _read(path: Path, folder: Path | None, name: str, max_bytes: int) -> Document:
    text = _text_of(_bytes_of(path, folder, max_bytes))
    media_type = PLAIN_TEXT if path.suffix.lower() in PLAIN_SUFFIXES else MARKDOWN
    headings = "" if media_type == PLAIN_TEXT else front_matter_title(text) or first_heading(text)
    return Document.of(path=name, title=headings or _printable(Path(path.stem)), text=text, media_type=media_type)


def _bytes_of(path: Path, folder: Path | None, max_bytes: int) -> bytes:
    try:
        if folder is not None and path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise _Refused("a symbolic link that leads out of the folder")
        # O_NONBLOCK: opening a FIFO without a writer would wait for ever; the type is checked on what was opened.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _Refused("not a regular file")
            content = stream.read(max_bytes + 1)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise _Refused(f"can't be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > max_bytes:
        raise _Refused(f"larger than {max_bytes:,} bytes (documents.max_bytes)")
    return content


def _text_of(content: bytes) -> str:
    if content.startswith(_UTF16_MARKS):
        raise _Refused("UTF-16 text; save it as UTF-8")
    if b"\0" in content:
        raise _Refused("binary: it has NUL bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise _Refused(f"not UTF-8: byte 0x{byte:02x} at offset {error.start:,}") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise _Refused("empty")
    if len(_CONTROL.findall(text)) > MAX_CONTROL_SHARE * len(text):
        raise _Refused("binary: more than one in a hundred characters is a control character")
    return text


def _printable(path: Path) -> str:
    r"""Return a path as text that any store accepts: bytes of a name that are no UTF-8 become `\\xNN`."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _nothing_usable(spec: DocumentsSpec, refusals: list[Refusal]) -> DocumentError:
    where = ", ".join(_printable(path) for path in spec.paths)
    shown = "".join(f"\n  {refusal.path}: {refusal.reason}" for refusal in refusals[:10])
    more = f"\n  and {len(refusals) - 10:,} more" if len(refusals) > 10 else ""
    return DocumentError(
        f"no usable document in {where}{shown}{more}",
        valid=f"files named {', '.join(spec.include)} with text in UTF-8",
        next_step="put documents there, or change documents.paths or documents.include",
    )
