"""Writing files so that a kill or a power cut leaves the old bytes or the new ones, never a mixture."""

from __future__ import annotations

import os
from pathlib import Path

from data_catalog.errors import MachineError


def write_durably(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: the new bytes are on the disk before the name points to them."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


def check_writable(directory: Path) -> None:
    """Make a directory and a file in it, and remove the file: what can't be written is told before hours of work.

    Raises:
        MachineError: it can't be written to, or something else stands in its place.
    """
    probe = directory / f".writable.{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_durably(probe, b"")
        probe.unlink()
    except OSError as error:
        raise MachineError(
            f"{directory} can't be written to: {error}",
            valid="a directory that may be written to, with room on its disk",
            next_step="change its owner or mode, make room, or name another `home`",
        ) from error


def sync(path: Path) -> None:
    """Make the bytes of a file, or the names in a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
