"""Short sessions on the one DuckDB file: who may write, what is durable when, and what a failure means.

DuckDB lets one process write and then shuts out every other, readers too. So a write is a short session: take a file
lock, open, one transaction in bulk, commit, checkpoint, close. A reader opens read-only and retries for a moment.

A write counts as done only after its checkpoint. The write-ahead log therefore never holds anything that a caller was
told is kept, and one that a kill or a full disk left torn is moved aside without losing an acknowledged row.
"""

from __future__ import annotations

import errno
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import duckdb

from data_catalog import migrate
from data_catalog.errors import CatalogueBusy, CatalogueCorrupt, CatalogueError, Interrupted, MachineError
from data_catalog.files import sync
from data_catalog.locks import Holder, LockHeld, hold

_LOG = logging.getLogger(__name__)

STORAGE_VERSION = "v1.5.0"
"""The oldest DuckDB that can read the file; without it only 2.0 and later could."""

_SETTINGS = {
    # Without this a damaged write-ahead log drops committed rows in silence.
    "debug_abort_on_wal_failure": "true",
    "storage_compatibility_version": STORAGE_VERSION,
    # What comes from documents and teachers is data: nothing in it may reach a file or the network.
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    # A join with more ids than this scans the table though it has an index; up to 2,048 rows an index may find.
    "dynamic_or_filter_threshold": "2000",
    "lock_configuration": "true",
}
_INTERRUPTED = "Query interrupted"
_RETRY_SECONDS = (0.005, 0.1)
_DISK_FULL = ("no space left", "file too large", "disk quota exceeded", "failed to offload data block")
_LOCKED = ("could not set lock on file", "conflicting lock")
_DAMAGED_LOG = ("replaying wal", "corrupt wal")
_DAMAGED_FILE = (
    "corrupt database file",
    "not a valid duckdb database file",
    "could not read enough bytes",
    "failed to deserialize",
    "checksum",
)
_UNREADABLE = ("permission denied", "cannot open file", "read-only file system")
_NEWER_FORMAT = ("database file with version number", "storage version")
_DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# Two configurations of one file can't be open in one process at the same time, so its threads take turns.
_TURNS: dict[Path, threading.RLock] = {}
_TURNS_GUARD = threading.Lock()


class Store:
    """One catalogue file: created and migrated on first use, then read and written in short sessions.

    Args:
        path: the DuckDB file.
        wait: seconds to wait for other processes before giving up with CatalogueBusy.
        migrations: the directory of the numbered `.sql` files.
    """

    def __init__(self, path: Path, *, wait: float = 60.0, migrations: Path = migrate.MIGRATIONS) -> None:
        self.path = path.resolve()
        self._wait = wait
        self._lock_file = self.path.with_suffix(".lock")
        self._migrations = migrate.read_migrations(migrations)
        with _TURNS_GUARD:
            self._turn = _TURNS.setdefault(self.path, threading.RLock())
        self.created = not self.path.exists() and self._create()
        self._migrate()

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open read-only; the session sees everything that was written before it.

        Raises:
            CatalogueBusy: another process kept the file to itself all the time.
            CatalogueCorrupt: the file is damaged.
            Interrupted: a signal's handler raised something during a query.
        """
        with self._turn:
            con = self._open(read_only=True)
            try:
                with self._explained():
                    yield con
            finally:
                con.close()

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Hold one write transaction; when the block has ended without an exception, what it wrote is durable.

        Raises:
            CatalogueBusy: another process kept the file to itself all the time; nothing was written.
            CatalogueCorrupt: the file is damaged; nothing was written.
            MachineError: the disk is full; what was there before is kept.
            Interrupted: a signal's handler raised something during a query; unless that was the commit, nothing was
                written.
        """
        with self._exclusive():
            con = self._open(read_only=False)
            try:
                with self._explained():
                    con.execute("BEGIN TRANSACTION")
                    yield con
                    con.execute("COMMIT")
                    con.execute("CHECKPOINT")
            finally:
                # Closing an open transaction rolls it back.
                con.close()

    def _create(self) -> bool:
        """Make the file whole under another name first: a kill in between leaves no half catalogue."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MachineError(
                f"{self.path.parent} can't be created: {error.strerror}",
                valid="a `home` in a directory that you may write to",
                next_step="change `home` in the configuration, or the directory's permissions",
            ) from error
        with self._exclusive():
            if self.path.exists():
                return False
            draft = self.path.with_suffix(".new")
            for leftover in (draft, _wal_of(draft)):
                leftover.unlink(missing_ok=True)
            if _wal_of(self.path).exists():
                # It belongs to a file that was moved away; it must not be replayed into the new one.
                self._set_log_aside()
            with self._explained():
                self._build(draft)
            draft.replace(self.path)
            sync(self.path.parent)
        return True

    def _build(self, draft: Path) -> None:
        con = duckdb.connect(str(draft), config=dict(_SETTINGS))
        try:
            migrate.prepare(con)
            migrate.apply(con, self._migrations)
            con.execute("CHECKPOINT")
        finally:
            con.close()

    def _migrate(self) -> None:
        with self.reading() as con:
            missing = migrate.pending(con, self._migrations, self.path)
        if not missing:
            return
        with self._exclusive():
            con = self._open(read_only=False)
            try:
                with self._explained():
                    # Another process may have been faster.
                    migrate.apply(con, migrate.pending(con, self._migrations, self.path))
                    con.execute("CHECKPOINT")
            finally:
                con.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what an error of DuckDB's means, and that a signal was a signal."""
        try:
            yield
        except duckdb.Error as error:
            self._explain(error)
        except RuntimeError as error:
            # Handlers of signals run during a query too, and DuckDB puts this in the place of what they raised.
            if str(error) != _INTERRUPTED:
                raise
            raise Interrupted(
                f"stopped by a signal while {self.path} was in use; what was done is kept",
                next_step="run the same command to go on",
            ) from error

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Be the only one who writes, in this process and among all that use this class."""
        try:
            with self._turn, hold(self._lock_file, _own_command(), wait=self._wait):
                yield
        except LockHeld as error:
            raise self._busy(error.holder, "is being written to") from error
        except OSError as error:
            if error.errno in _DISK_FULL_ERRNOS:
                raise self._disk_full(error) from error
            raise

    def _open(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        """Connect, waiting for processes that have the file open in a way that excludes us."""
        deadline = time.monotonic() + self._wait
        pause, longest = _RETRY_SECONDS
        while True:
            try:
                return duckdb.connect(str(self.path), read_only=read_only, config=dict(_SETTINGS))
            except duckdb.Error as error:
                text = str(error).lower()
                if _contains(text, _DAMAGED_LOG):
                    self._recover(read_only=read_only)
                elif not _contains(text, _LOCKED):
                    self._explain(error, opening=True)
                elif time.monotonic() > deadline:
                    raise self._busy(_holder_in(str(error)), "is open in another process") from error
                else:
                    time.sleep(pause)
                    pause = min(2 * pause, longest)

    def _recover(self, *, read_only: bool) -> None:
        """Move a torn write-ahead log aside, as the writer; a reader lets a write session do it."""
        if not read_only:
            self._set_log_aside()
            return
        with self._exclusive():
            self._open(read_only=False).close()

    def _set_log_aside(self) -> None:
        torn = _wal_of(self.path)
        aside = torn.with_name(f"{torn.name}.torn-{time.time_ns()}")
        with suppress(FileNotFoundError):
            torn.replace(aside)
            _LOG.warning(
                "a write was cut off before it was acknowledged; its log was moved to %s and the catalogue is as it "
                "was before that write",
                aside,
            )

    def _explain(self, error: duckdb.Error, *, opening: bool = False) -> NoReturn:
        """Raise what `error` means to the user; a mistake in our own SQL travels as it is."""
        text = str(error).lower()
        if _contains(text, _DISK_FULL):
            raise self._disk_full(error) from error
        if isinstance(error, duckdb.OutOfMemoryException):
            raise MachineError(
                f"not enough memory to use {self.path}: {error}", next_step="free memory, then run the same command"
            ) from error
        if opening and _contains(text, _UNREADABLE):
            raise CatalogueError(
                f"{self.path} can't be opened: {error}",
                valid="a file that you may read and write",
                next_step=f"check the permissions: ls -l {self.path}",
            ) from error
        if opening and _contains(text, _NEWER_FORMAT):
            raise CatalogueError(
                f"{self.path} was written by a newer DuckDB than {duckdb.__version__}: {error}",
                next_step="upgrade Tutelage; the catalogue was not touched",
            ) from error
        damaged = _contains(text, _DAMAGED_FILE) or isinstance(
            error, duckdb.FatalException | duckdb.InternalException | duckdb.SerializationException
        )
        if opening or damaged:
            raise self._corrupt(error) from error
        raise error

    def _corrupt(self, error: duckdb.Error) -> CatalogueCorrupt:
        first_line = str(error).splitlines()[0]
        return CatalogueCorrupt(
            f"the catalogue {self.path} is damaged: {first_line}",
            valid="a whole DuckDB file; it was left as it is, and datasets and models beside it are not touched",
            next_step=(
                "restore it from a backup, or continue with a new one, which takes over every answer of the teacher "
                f"that can still be read: mv {self.path} {damaged_name(self.path)} and run the same command"
            ),
        )

    def _busy(self, holder: Holder | str | None, doing: str) -> CatalogueBusy:
        who = str(holder) if holder else "a process that left no name"
        pid = holder.pid if isinstance(holder, Holder) else None
        return CatalogueBusy(
            f"the catalogue {self.path} {doing}: {who}; waited {self._wait:.0f} s",
            next_step="wait for it or end it"
            + (f" (kill {pid})" if pid else "")
            + ", then run the same command; nothing was lost",
        )

    def _disk_full(self, error: Exception) -> MachineError:
        first_line = str(error).splitlines()[0]
        return MachineError(
            f"the disk of {self.path.parent} is full: {first_line}",
            valid="everything that was acknowledged before is kept; the write that failed is not counted as done",
            next_step=f"free some space (df -h {self.path.parent}), then run the same command",
        )


def damaged_name(path: Path) -> Path:
    """Where the user is told to move a damaged catalogue; a new one takes over its answers from there."""
    return path.with_name(f"{path.name}.damaged")


def _wal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")


def _own_command() -> str:
    return " ".join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])[:200]


def _contains(text: str, signs: tuple[str, ...]) -> bool:
    return any(sign in text for sign in signs)


def _holder_in(message: str) -> str | None:
    """Return whom DuckDB's message names: `Conflicting lock is held in /usr/bin/python3 (PID 4711)`."""
    match = re.search(r"held in (\S+) \(PID (\d+)\)", message)
    return f"process {match[2]} ({match[1]})" if match else None
