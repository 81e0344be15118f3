"""Seed tasks: a JSONL file of instructions that a person wrote, from which the teacher makes more."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from data_catalog.errors import ConfigError
from data_catalog.identity import make_id

_VALID = 'one JSON object per line: {"instruction": "...", "response": "..."}, the response may be left out'


@dataclass(frozen=True)
class Seed:
    """A task, and how it is done where that is given."""

    instruction: str
    response: str = ""

    @property
    def id(self) -> str:
        """A hash of what it says."""
        return make_id("seed", {"instruction": self.instruction, "response": self.response})


def load_seeds(path: Path) -> tuple[Seed, ...]:
    """Return the tasks of a file, equal ones once.

    Raises:
        ConfigError: it can't be read, a row is no task, or there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the seeds at {path} can't be read: {error}", valid=_VALID) from error
    found: dict[str, Seed] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            seed = _seed(line, f"{path}:{number}")
            found.setdefault(seed.id, seed)
    if not found:
        raise ConfigError(f"{path} has no seed", valid=_VALID)
    return tuple(found.values())


def _seed(line: str, place: str) -> Seed:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{place} is no JSON: {error}", valid=_VALID) from error
    texts = row if isinstance(row, dict) and {"instruction"} <= row.keys() <= {"instruction", "response"} else {}
    if not texts or not all(isinstance(text, str) for text in texts.values()) or not row["instruction"].strip():
        raise ConfigError(f"{place} is no task: {line[:80]}", valid=_VALID)
    return Seed(row["instruction"].strip(), row.get("response", "").strip())
