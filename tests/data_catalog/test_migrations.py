"""Migrations: applied once, never edited, never halfway."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.errors import CatalogueError
from data_catalog.migrate import MIGRATIONS, read_migrations
from tests.data_catalog.small_world import completion, request

Open = Callable[[Path], Catalogue]


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """A copy of the real migrations, to add to."""
    return Path(shutil.copytree(MIGRATIONS, tmp_path / "migrations"))


def add(migrations: Path, sql: str) -> Path:
    number = len(read_migrations(migrations)) + 1
    path = migrations / f"{number:04d}_added.sql"
    path.write_text(sql)
    return path


def test_every_migration_is_recorded_with_its_digest(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "new" / "home")
    with catalogue.store.reading() as con:
        recorded = con.execute("SELECT version, name, sha256 FROM schema_migrations ORDER BY version").fetchall()
    assert recorded == [(one.version, one.name, one.sha256) for one in read_migrations()]


def test_a_new_migration_is_applied_to_an_old_catalogue_and_keeps_its_rows(
    catalogue: Catalogue, migrations: Path
) -> None:
    asked = request("kept?")
    catalogue.add_completions([asked], [completion(asked)])
    add(migrations, "ALTER TABLE completions ADD COLUMN remark VARCHAR; CREATE VIEW remarks AS FROM completions;")
    newer = Catalogue(catalogue.home, migrations=migrations)
    assert newer.answered([asked.key]) == {asked.key: completion(asked)}
    with newer.store.reading() as con:
        assert con.execute("SELECT remark FROM remarks").fetchall() == [(None,)]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE half (id VARCHAR); SELECT no_such_column FROM half;",
        "CREATE TABLE half (id VARCHAR); DROP TABLE requests;",
        "CREATE TABLE half (id VARCHAR); INSERT INTO half SELEKT 1;",
    ],
    ids=["fails", "breaks a view", "is no SQL"],
)
def test_a_wrong_migration_leaves_nothing_of_itself(catalogue: Catalogue, migrations: Path, sql: str) -> None:
    add(migrations, sql)
    with pytest.raises(CatalogueError, match=r"added failed"):
        Catalogue(catalogue.home, migrations=migrations)
    with Catalogue(catalogue.home).store.reading() as con:
        assert con.execute("SELECT max(version) FROM schema_migrations").fetchall() == [(len(read_migrations()),)]
        assert con.execute("SELECT * FROM duckdb_tables() WHERE table_name = 'half'").fetchall() == []


def test_a_newer_catalogue_is_refused(catalogue: Catalogue, migrations: Path) -> None:
    add(migrations, "CREATE TABLE later (id VARCHAR);")
    Catalogue(catalogue.home, migrations=migrations)
    with pytest.raises(CatalogueError, match=r"newer Tutelage: it has migration \d \(\d{4}_added\)"):
        Catalogue(catalogue.home)


def test_an_edited_migration_is_refused(catalogue: Catalogue, migrations: Path) -> None:
    first = next(migrations.glob("0001*"))
    first.write_text(first.read_text() + "-- edited\n")
    with pytest.raises(CatalogueError, match=r"0001_\w+ differs from the one that made"):
        Catalogue(catalogue.home, migrations=migrations)


@pytest.mark.parametrize("name", ["0099_gap.sql", "2_short.sql"])
def test_misnumbered_files_are_refused(migrations: Path, name: str) -> None:
    (migrations / name).write_text("SELECT 1;")
    with pytest.raises(CatalogueError, match=r"holds the migrations \[1.*, 99\]|is no migration"):
        read_migrations(migrations)


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "catalogue.duckdb")) as con:
        con.execute("CREATE TABLE theirs AS SELECT 42 AS answer")
    with pytest.raises(CatalogueError, match="no Tutelage catalogue"):
        Catalogue(tmp_path)
    with duckdb.connect(str(tmp_path / "catalogue.duckdb")) as con:
        assert con.execute("SELECT answer FROM theirs").fetchall() == [(42,)]


def test_the_file_can_be_read_by_the_oldest_duckdb_it_promises(catalogue: Catalogue) -> None:
    asked = request("still old?")
    catalogue.add_completions([asked], [completion(asked)])
    with catalogue.store.reading() as con:
        tags = con.execute("SELECT tags FROM duckdb_databases() WHERE NOT internal").fetchall()
    assert tags[0][0]["storage_version"] == "v1.5.0+"


def test_nothing_that_is_read_can_reach_files(catalogue: Catalogue, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with catalogue.store.reading() as con, pytest.raises(duckdb.PermissionException):
        con.execute(f"SELECT * FROM read_csv('{secret}')")
    with catalogue.store.reading() as con, pytest.raises(duckdb.Error, match="locked"):
        con.execute("SET enable_external_access = true")
