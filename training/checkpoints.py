"""Checkpoints that can be trusted: the newest one whose every byte is what was written.

A trainer writes a folder `checkpoint-<step>`; a marker with the size and SHA-256 of each of its files is written last.
A folder without a marker, or with a file that differs from it, is not resumed from, and is named.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from data_catalog.errors import MachineError
from data_catalog.files import sync
from data_catalog.identity import digest, file_sha256
from data_catalog.records import Record
from training.process import write_json

MARKER = "complete.json"
_FOLDER = re.compile(r"checkpoint-(\d+)")


class Marker(Record):
    """What makes a checkpoint complete."""

    step: int
    job: str
    """Digest of what is trained on what; a checkpoint of another job is never resumed from."""
    files: Mapping[str, tuple[int, str]]
    """Path inside the folder to (bytes, SHA-256)."""


@dataclass(frozen=True)
class Found:
    """The checkpoint to resume from, and those that were passed over with the reason."""

    path: Path | None
    step: int = 0
    skipped: tuple[str, ...] = ()


def step_of(folder: Path) -> int | None:
    """Return the step of a checkpoint folder, or None for another folder."""
    match = _FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else None


def seal(folder: Path, job: str) -> None:
    """Make a checkpoint durable and write its marker."""
    step = step_of(folder)
    if step is None:
        raise ValueError(f"{folder} is not a checkpoint folder")
    files: dict[str, tuple[int, str]] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            sync(file)
            files[file.relative_to(folder).as_posix()] = (file.stat().st_size, file_sha256(file))
    sync(folder)
    write_json(folder / MARKER, Marker(step=step, job=job, files=files))


def problem_with(folder: Path, job: str) -> str | None:
    """Return why a checkpoint can't be resumed from, or None if it can."""
    try:
        marker = Marker.model_validate(json.loads((folder / MARKER).read_text("utf-8")))
    except FileNotFoundError:
        return "it was not written to its end"
    except (OSError, ValueError) as error:
        return f"its marker can't be read ({type(error).__name__})"
    if marker.job != job:
        return "it belongs to another job (other data, model or settings)"
    for name, (size, sha256) in marker.files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, not {size}"
        if file_sha256(file) != sha256:
            return f"{name} differs from what was written"
    return None


def newest_verified(root: Path, job: str) -> Found:
    """Return the newest checkpoint below `root` that is whole and belongs to `job`."""
    folders = [(step, path) for path in root.glob("checkpoint-*") if (step := step_of(path)) is not None]
    skipped: list[str] = []
    for step, path in sorted(folders, reverse=True):
        problem = problem_with(path, job)
        if problem is None:
            return Found(path, step, tuple(skipped))
        skipped.append(f"{path.name}: {problem}")
    return Found(None, 0, tuple(skipped))


def prune(root: Path, *, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints that have a marker, and what is older than them."""
    sealed = sorted(
        (step for marker in root.glob(f"checkpoint-*/{MARKER}") if (step := step_of(marker.parent)) is not None),
        reverse=True,
    )
    if len(sealed) < keep:
        return
    for path in root.glob("checkpoint-*"):
        step = step_of(path)
        if step is not None and step < sealed[keep - 1]:
            shutil.rmtree(path, ignore_errors=True)


@dataclass
class Sealer:
    """Seals checkpoints in a thread beside the training, which goes on while large files are hashed.

    The one before the last stays until the last is sealed.
    """

    root: Path
    job: str
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "seal"))
    _pending: list[Future[None]] = field(default_factory=list)

    def submit(self, folder: Path) -> None:
        """Seal `folder` soon. A failure of an earlier one is raised here."""
        self.wait(done_only=True)
        self._pending.append(self._pool.submit(self._seal, folder))

    def _seal(self, folder: Path) -> None:
        seal(folder, self.job)
        prune(self.root, keep=2)

    def wait(self, *, done_only: bool = False) -> None:
        """Wait until all submitted checkpoints are sealed (or only look at those that are)."""
        for future in [future for future in self._pending if future.done() or not done_only]:
            self._pending.remove(future)
            try:
                future.result()
            except OSError as error:
                raise MachineError(
                    f"a checkpoint below {self.root} can't be written: {error}",
                    next_step="make room on the disk and run the same command again",
                ) from error

    def close(self) -> None:
        """Wait and end the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()


_SAMPLE_BYTES = 1 << 20


def inputs_digest(*paths: Path) -> str:
    """Return a digest over the contents of files and folders, quick also for large weights.

    Of files above 64 MiB only the size and the first and last MiB are hashed: enough to tell two trainings apart.
    """
    content: dict[str, str] = {}
    for number, path in enumerate(paths):
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        for file in files:
            content[f"{number}/{file.relative_to(path).as_posix()}"] = _sampled_sha256(file)
    return digest(content)


def _sampled_sha256(path: Path) -> str:
    size = path.stat().st_size
    if size <= 64 * _SAMPLE_BYTES:
        return file_sha256(path)
    with path.open("rb") as stream:
        head = stream.read(_SAMPLE_BYTES)
        stream.seek(-_SAMPLE_BYTES, os.SEEK_END)
        return digest([size, head.hex(), stream.read().hex()])
