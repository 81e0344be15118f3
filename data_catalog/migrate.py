"""Bring a catalogue's schema up to date: numbered `.sql` files, each applied once, in one transaction with its record.

A migration that was applied must never be edited: its SHA-256 is in the catalogue and is compared on every opening.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb

from data_catalog import queries
from data_catalog.errors import CatalogueError

MIGRATIONS = Path(__file__).parent / "migrations"
_OWN_FAULTS = (
    duckdb.ProgrammingError,
    duckdb.IntegrityError,
    duckdb.DataError,
    duckdb.NotSupportedError,
    duckdb.DependencyException,
)
"""What a wrong migration raises; a full disk or a damaged file is another matter."""
_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


@dataclass(frozen=True)
class Migration:
    """One numbered `.sql` file."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """The digest of the file's text, as recorded when it is applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def read_migrations(directory: Path = MIGRATIONS) -> list[Migration]:
    """Return the migrations of `directory` in order; they must be numbered 0001, 0002, ... without a gap."""
    found = []
    for path in sorted(directory.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise CatalogueError(f"{path} is no migration", valid="names such as 0002_more_columns.sql")
        found.append(Migration(int(match[1]), path.stem, path.read_text(encoding="utf-8")))
    numbers = [migration.version for migration in found]
    if not found or numbers != list(range(1, len(found) + 1)):
        raise CatalogueError(
            f"{directory} holds the migrations {numbers}",
            valid="numbers from 0001 without gap or repetition",
            next_step="reinstall Tutelage: its files are incomplete",
        )
    return found


def pending(con: duckdb.DuckDBPyConnection, migrations: list[Migration], path: Path) -> list[Migration]:
    """Return the migrations that `path` still lacks.

    Raises:
        CatalogueError: the file is no catalogue, is newer than this code, or was made by an edited migration.
    """
    if not con.execute(queries.HAS_MIGRATION_TABLE).fetchall():
        raise CatalogueError(
            f"{path} is a DuckDB database, but no Tutelage catalogue",
            next_step="set `home` to another directory, or move that file aside",
        )
    applied: dict[int, tuple[str, str]] = {
        version: (name, sha256) for version, name, sha256 in con.execute(queries.APPLIED_MIGRATIONS).fetchall()
    }
    newest = max(applied, default=0)
    if newest > len(migrations):
        raise CatalogueError(
            f"{path} was written by a newer Tutelage: it has migration {newest} ({applied[newest][0]})",
            valid=f"migrations up to {len(migrations)}, which is what this version knows",
            next_step="upgrade Tutelage; the catalogue was not touched",
        )
    for migration in migrations[:newest]:
        name, sha256 = applied.get(migration.version, ("missing", ""))
        if sha256 != migration.sha256:
            raise CatalogueError(
                f"migration {migration.name} differs from the one that made {path} ({name}, SHA-256 {sha256[:12]})",
                valid=f"SHA-256 {migration.sha256[:12]}; an applied migration is never edited",
                next_step="restore the .sql file, or reinstall Tutelage; the catalogue was not touched",
            )
    return migrations[newest:]


def prepare(con: duckdb.DuckDBPyConnection) -> None:
    """Give an empty database the table that records migrations."""
    con.execute(queries.CREATE_MIGRATION_TABLE)


def apply(con: duckdb.DuckDBPyConnection, migrations: list[Migration]) -> None:
    """Apply each of `migrations` in a transaction of its own, together with its record.

    Raises:
        CatalogueError: a migration failed, or broke a view; the catalogue is as it was before it.
    """
    for migration in migrations:
        con.execute("BEGIN TRANSACTION")
        try:
            con.execute(migration.sql)
            _try_views(con)
        except _OWN_FAULTS as error:
            con.execute("ROLLBACK")
            raise CatalogueError(
                f"migration {migration.name} failed: {error}",
                valid="the catalogue is as it was before; nothing was lost",
                next_step="go on with the Tutelage that wrote it last, and report this message",
            ) from error
        con.execute(queries.RECORD_MIGRATION, [migration.version, migration.name, migration.sha256, time.time()])
        con.execute("COMMIT")


def _try_views(con: duckdb.DuckDBPyConnection) -> None:
    """Select from every view: a migration that breaks one does so in silence."""
    for (name,) in con.execute(queries.OUR_VIEWS).fetchall():
        con.execute(queries.TRY_VIEW.format(view=name.replace('"', '""')))
