"""Every error that Tutelage raises on purpose, and the exit code each one ends the command with.

    TutelageError                    1   anything below; never raised itself
    ├── ConfigError                  2   what the user wrote in YAML or on the command line
    ├── DocumentError                3   a document or a folder of documents can't be used
    ├── TeacherError                 4   the teacher endpoint did not do its part
    │   └── TeacherUnreachable       4   it never answered at all
    ├── TrainingError                5   a training stage can't start or did not end well
    ├── GateError                    6   a gate said FAIL (or INCONCLUSIVE where PASS was demanded)
    ├── DataError                    7   too few items, a damaged dataset, an unusable suite
    ├── CatalogueError               8   the DuckDB catalogue can't be used
    │   ├── CatalogueBusy            8   another process holds it
    │   └── CatalogueCorrupt         8   the file is damaged; it is never deleted
    ├── RegistryError                9   a model version or stage operation was refused
    ├── MachineError                10   disk, memory, port, process, missing program
    │   └── MissingDependency       10   an optional package is not installed
    └── Interrupted                130   SIGINT or SIGTERM; what was done is kept

Every error says what was got, what is valid, and what to do next.
"""

from __future__ import annotations

from typing import Any, ClassVar


class TutelageError(Exception):
    """What went wrong, in three parts.

    Args:
        message: what was got, with the value.
        valid: what would have been valid; left out where the message says it.
        next_step: the command or the edit that continues.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, valid: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.valid = valid
        self.next_step = next_step

    def __str__(self) -> str:
        parts = [self.message]
        if self.valid:
            parts.append(f"  valid: {self.valid}")
        if self.next_step:
            parts.append(f"  next:  {self.next_step}")
        return "\n".join(parts)


class ConfigError(TutelageError):
    """What the user wrote can't be used; raised before anything starts."""

    exit_code = 2


class DocumentError(TutelageError):
    """A document, or the folder of documents as a whole, can't be used."""

    exit_code = 3


class TeacherError(TutelageError):
    """The teacher endpoint did not do its part; answered requests are kept."""

    exit_code = 4


class TeacherUnreachable(TeacherError):
    """No request ever reached the teacher endpoint."""


class TrainingError(TutelageError):
    """A training stage can't start, or did not end well."""

    exit_code = 5


class GateError(TutelageError):
    """A gate between stages did not pass; nothing is promoted.

    `summary` is what is known of the run that it stopped, for whoever shows it.
    """

    exit_code = 6
    summary: Any = None


class DataError(TutelageError):
    """Training or evaluation data can't be used."""

    exit_code = 7


class CatalogueError(TutelageError):
    """The DuckDB catalogue can't be used."""

    exit_code = 8


class CatalogueBusy(CatalogueError):
    """Another process holds the catalogue, or another run of the project is active."""


class CatalogueCorrupt(CatalogueError):
    """The catalogue file is damaged. Tutelage never deletes it."""


class RegistryError(TutelageError):
    """A model version or a stage operation was refused."""

    exit_code = 9


class MachineError(TutelageError):
    """The machine lacks something: disk, memory, a port, a program."""

    exit_code = 10


class MissingDependency(MachineError):
    """An optional package is not installed."""


class Interrupted(TutelageError):
    """The run was asked to stop; what was done is kept."""

    exit_code = 130
