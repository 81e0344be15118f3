"""Which files the configuration names, and their bytes.

Hidden files and folders (`.git`, `._notes.md`) are not looked at, and symbolic links to folders are not followed.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from data_catalog.errors import DocumentError
from generators.documents.results import Refused
from generators.specs import DocumentsSpec


@dataclass
class Candidates:
    """The files that the configuration names."""

    files: list[tuple[Path, Path | None]] = field(default_factory=list)
    """Each with the folder that it must not lead out of (none for a file that the user named)."""
    not_included: Counter[str] = field(default_factory=Counter)
    """Other files in the folders: ending to count."""


def candidates(spec: DocumentsSpec) -> Candidates:
    """Return each file once, as configured, then by path.

    Raises:
        DocumentError: a configured path does not exist, or a folder can't be listed.
    """
    found = Candidates()
    seen: set[Path] = set()
    for path in spec.paths:
        if path.is_dir():
            inside = _files_in(path, spec.include, found.not_included)
            files: Iterator[tuple[Path, Path | None]] = ((file, path) for file in inside)
        elif path.exists():
            files = iter([(path, None)])
        else:
            raise DocumentError(
                f"documents.paths names {printable(path)}, which does not exist",
                valid="existing files or folders",
                next_step="correct the path in the configuration; nothing was read or withdrawn",
            )
        for file, folder in files:
            if file not in seen:
                seen.add(file)
                found.files.append((file, folder))
    return found


def _files_in(folder: Path, include: tuple[str, ...], not_included: Counter[str]) -> list[Path]:
    found: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=_raise_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.startswith("."):
                continue
            if is_included(name, include):
                found.append(Path(parent, name))
            else:
                not_included[printable(Path(Path(name).suffix.lower() or name))] += 1
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def is_included(name: str, include: tuple[str, ...]) -> bool:
    """Say whether a file's name fits one of the patterns, whatever the case of its letters."""
    return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in include)


def _raise_unreadable(error: OSError) -> None:
    # A folder that can't be listed must not look like a folder whose documents were withdrawn.
    raise DocumentError(
        f"the folder {error.filename} can't be listed: {error.strerror}",
        next_step="make it readable for this user, or leave it out of documents.paths",
    ) from error


def bytes_of(path: Path, folder: Path | None, max_bytes: int) -> bytes:
    """Return a file's bytes, or refuse it; never waits for a writer and never reads more than `max_bytes`."""
    try:
        if folder is not None and path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise Refused("a symbolic link that leads out of the folder")
        # O_NONBLOCK: opening a FIFO without a writer would wait for ever; the type is checked on what was opened.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Refused("not a regular file")
            content = stream.read(max_bytes + 1)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise Refused(f"can't be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > max_bytes:
        raise Refused(f"larger than {max_bytes:,} bytes (documents.max_bytes)")
    return content


def printable(path: Path) -> str:
    r"""Return a path as text that any store accepts: bytes of a name that are no UTF-8 become `\\xNN`."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
