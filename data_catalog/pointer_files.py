"""Small files beside the models that say to other programs what the log says: one per stage, and how long the log is.

Each is replaced whole, so a server that reads `production.json` at any moment gets the old version or the new one. The
log wins: files that say otherwise are written anew by the next reader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog import queries
from data_catalog.errors import MachineError
from data_catalog.files import write_durably
from data_catalog.locks import LockHeld, hold
from data_catalog.records import Stage
from data_catalog.registry_log import GENESIS, Head, stage_pointers

if TYPE_CHECKING:
    from data_catalog.store import Store

_WAIT = 10.0
"""Seconds to wait for another process that writes the files."""


class PointerFiles:
    """The pointer files of one `models` directory, and the file that remembers the head of the log."""

    def __init__(self, directory: Path, store: Store) -> None:
        self._directory = directory
        self._store = store

    def head(self) -> Head:
        """Return what is remembered of the log's end; nothing where no file is there."""
        content = _read_json(self._head_file)
        seq, known = content.get("seq", 0), content.get("hash", GENESIS)
        whole = isinstance(seq, int) and isinstance(known, str)
        return Head(seq=seq if whole else 0, hash=known if whole else GENESIS, source=str(self._head_file))

    def agree(self, pointers: Mapping[Stage, str]) -> bool:
        """Return whether every file names the version that its stage points to."""
        return all(_read_json(self._file(stage)).get("model_id") == pointers.get(stage) for stage in Stage)

    def write(self) -> None:
        """Write every stage's pointer and the log's head. Taking turns, the last writer has read the newest log.

        Raises:
            MachineError: a file could not be replaced; the log has the move all the same.
        """
        try:
            with hold(self._directory / "pointers.lock", "registry", wait=_WAIT):
                self._write_in_turn()
        except (LockHeld, OSError) as error:
            raise MachineError(
                f"the log has the change, but the pointer files in {self._directory} could not be written: {error}",
                valid="a directory that may be written to; until then other programs read the former version there",
                next_step="check disk space and permissions; `tutelage models` writes the files again",
            ) from error

    def _write_in_turn(self) -> None:
        with self._store.reading() as con:
            current = stage_pointers(con)
            last = con.execute(queries.LAST_EVENT).fetchone()
        for abandoned in self._directory.glob(".*.json.*"):
            # Whoever writes holds the lock, so this is what a killed writer left.
            abandoned.unlink(missing_ok=True)
        for pointer in current:
            content = pointer._asdict() | {"path": f"{self._directory.name}/{pointer.model_id}"}
            if _read_json(self._file(pointer.stage)) != content:
                write_durably(self._file(pointer.stage), _pretty(content))
        for stage in set(Stage) - {pointer.stage for pointer in current}:
            self._file(stage).unlink(missing_ok=True)
        if last and self.head().seq < last[0]:
            write_durably(self._head_file, _pretty({"seq": last[0], "hash": last[1]}))

    @property
    def _head_file(self) -> Path:
        return self._directory / "log-head.json"

    def _file(self, stage: Stage) -> Path:
        return self._directory / f"{stage}.json"


def _read_json(path: Path) -> dict[str, Any]:
    """Return a small file's mapping; an empty one where it is missing or garbled, since it can be written again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _pretty(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
