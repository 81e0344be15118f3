"""Suites that come with Tutelage: `path: shipped:red_team` in a configuration names one.

A shipped file is never changed: a new wording is a new file, so that scores stay comparable.
"""

from __future__ import annotations

from pathlib import Path

PREFIX = "shipped:"
SUITES = {"red_team": Path(__file__).parent / "red_team.v1.jsonl"}
"""Name to file."""


def shipped_path(path: Path) -> Path | None:
    """Return the file of a suite that comes with Tutelage; None for any other path.

    Raises:
        ValueError: there is no such suite.
    """
    text = str(path)
    if not text.startswith(PREFIX):
        return None
    name = text.removeprefix(PREFIX)
    if name not in SUITES:
        raise ValueError(
            f"no suite `{name}` comes with Tutelage; there are: {', '.join(PREFIX + known for known in SUITES)}"
        )
    return SUITES[name]
