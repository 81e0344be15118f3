"""Which model is it? A digest of a model directory's bytes, remembered by size and time so that it is taken once."""

from __future__ import annotations

import json
import os
from pathlib import Path

from data_catalog.errors import ConfigError
from data_catalog.identity import digest, file_sha256, make_id

IGNORED = frozenset({"README.md", ".gitattributes"})
"""Files that say nothing about what a model answers."""


def model_fingerprint(directory: Path, *, home: Path) -> str:
    """Return `weights-<32 hex digits>`: a hash over every file's name and SHA-256, except cards.

    Digests are remembered in `<home>/fingerprints.json` under path, size and modification time in nanoseconds.
    """
    if not (directory / "config.json").is_file():
        raise ConfigError(f"{directory} is no model directory: it has no config.json")
    memory_path = home / "fingerprints.json"
    memory: dict[str, str] = json.loads(memory_path.read_text()) if memory_path.is_file() else {}
    before = dict(memory)
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name not in IGNORED)
    entries = [[path.relative_to(directory).as_posix(), _remembered(path, memory)] for path in files]
    if memory != before:
        home.mkdir(parents=True, exist_ok=True)
        partial = memory_path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(memory, indent=0, sort_keys=True))
        partial.replace(memory_path)
    return make_id("weights", entries)


def _remembered(path: Path, memory: dict[str, str]) -> str:
    stat = path.stat()
    key = f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
    if key not in memory:
        memory[key] = file_sha256(path)
    return memory[key]


def teacher_fingerprint(model: str, *, endpoint: bool, home: Path) -> str:
    """Return the fingerprint of the teacher: its bytes where it is a directory, its name at an endpoint or hub."""
    if not endpoint and Path(model).is_dir():
        return model_fingerprint(Path(model), home=home)
    return f"named-{digest({'model': model})[:32]}"
