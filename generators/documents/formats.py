"""Which parser reads which file: by the ending of its name. What a file claims to be, its parser checks.

A new format is one module with `parse(content, name, options)` and one line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import PurePath

from generators.documents.results import Options, Parsed, Refused

Parser = Callable[[bytes, str, Options], list[Parsed]]


@dataclass(frozen=True)
class Format:
    """How files of one kind are read."""

    module: str
    """The module of this package that has `parse`."""
    packages: tuple[str, ...] = ()
    """What it imports beyond the core dependencies; the extra `documents` brings it."""

    def parser(self) -> Parser:
        """Return the parser.

        Raises:
            Refused: a package that it needs is not installed.
        """
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise Refused(f"{' and '.join(missing)} not installed; run: pip install '.[documents]'")
        parse: Parser = import_module(f"generators.documents.{self.module}").parse
        return parse


TEXT = Format("plain")
ZIP_SUFFIXES = frozenset({".zip"})
_HTML = Format("html", ("lxml", "trafilatura"))
FORMATS = {
    ".html": _HTML,
    ".htm": _HTML,
    ".xhtml": _HTML,
    ".pdf": Format("pdf", ("pypdfium2",)),
    ".docx": Format("docx", ("lxml",)),
    ".jsonl": Format("tables"),
    ".ndjson": Format("tables"),
    ".csv": Format("tables"),
    ".tsv": Format("tables"),
    ".parquet": Format("parquet"),
}
"""Ending to format; any other file is read as text."""


def format_of(name: str) -> Format:
    """Return the format of a file by its name."""
    return FORMATS.get(PurePath(name).suffix.lower(), TEXT)


def is_zip(name: str) -> bool:
    """Say whether a file is an archive of files."""
    return PurePath(name).suffix.lower() in ZIP_SUFFIXES
