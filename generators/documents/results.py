"""What comes out of reading documents, and what a parser is told. All of it can travel between processes as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Self

from data_catalog.records import Document
from generators.specs import DocumentsSpec


class Refused(Exception):
    """Carries the reason why one file, or one part of it, is not read up to whoever reads the next."""


@dataclass(frozen=True)
class Refusal:
    """A file that was not read, or a part of one, and why."""

    path: str
    reason: str


def counted(removed: Mapping[str, int]) -> str:
    """Return `soft hyphens (2), invisible tag characters (31)`."""
    return ", ".join(f"{kind} ({count:,})" for kind, count in removed.items())


@dataclass(frozen=True)
class Remark:
    """What a user should know of a document that was read."""

    path: str
    removed: Mapping[str, int] = field(default_factory=dict)
    """Text that a reader does not see and that was taken out: kind to number of characters or passages."""
    notes: tuple[str, ...] = ()
    """Anything else, such as an encoding that was guessed."""

    def __str__(self) -> str:
        said = counted(self.removed)
        return "; ".join(([f"removed {said}"] if said else []) + list(self.notes))


@dataclass(frozen=True)
class ReadResult:
    """The documents in a fixed order (as configured, then by path), what was refused, and what else was seen."""

    documents: tuple[Document, ...]
    refusals: tuple[Refusal, ...]
    remarks: tuple[Remark, ...] = ()
    not_included: Mapping[str, int] = field(default_factory=dict)
    """Files in the folders that no pattern of `documents.include` names: ending to count."""


@dataclass(frozen=True)
class Options:
    """What parsers obey, as plain values."""

    include: tuple[str, ...]
    max_bytes: int
    max_unpacked_bytes: int
    max_pages: int
    max_seconds: int
    max_memory_mib: int
    encoding: str | None
    text_column: str
    title_column: str

    @classmethod
    def of(cls, spec: DocumentsSpec) -> Self:
        """Return the part of the configuration that parsers obey."""
        return cls(**{name: getattr(spec, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Job:
    """A file to be parsed in a process of its own."""

    path: str
    folder: str | None
    """What the file must not lead out of; none for a file that the user named."""
    name: str
    """The path as it is told to people and kept."""


@dataclass(frozen=True)
class Parsed:
    """One document of a file, as a parser returns it."""

    text: str
    media_type: str
    title: str = ""
    """Left empty, the document is called after its file."""
    part: str = ""
    """Which part of the file it is, such as `#12` (a row) or `!inner/name.md` (in a zip)."""
    removed: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class PartlyRefused(Exception):
    """Carries what could be read of a file, and why the rest could not."""

    def __init__(self, reason: str, documents: Sequence[Parsed]) -> None:
        super().__init__(reason)
        self.documents = documents


@dataclass(frozen=True)
class Answer:
    """What became of a job, or of one part of it; `last` ends the job."""

    job: int
    documents: tuple[Parsed, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    """Their paths are parts of the file, as in `Parsed.part`; empty for the file as a whole."""
    last: bool = True

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Return what `to_json` was made from."""
        fields = json.loads(line)
        documents = tuple(Parsed(**{**entry, "notes": tuple(entry["notes"])}) for entry in fields["documents"])
        refusals = tuple(Refusal(**entry) for entry in fields["refusals"])
        return cls(fields["job"], documents, refusals, fields["last"])


@dataclass(frozen=True)
class Order:
    """All that the worker is told: the files and the limits."""

    jobs: tuple[Job, ...]
    options: Options

    def to_json(self) -> str:
        """Return the order as JSON; names that are no text survive in it as escapes."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what `to_json` was made from."""
        fields = json.loads(text)
        options = Options(**{**fields["options"], "include": tuple(fields["options"]["include"])})
        return cls(tuple(Job(**entry) for entry in fields["jobs"]), options)


def endings(counts: Mapping[str, int]) -> str:
    """Return `2 *.png, 1 Makefile`: how many files have which ending or, without one, which name."""
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return ", ".join(f"{count:,} {'*' if ending.startswith('.') else ''}{ending}" for ending, count in ordered)
