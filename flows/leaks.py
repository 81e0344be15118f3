"""Evaluation questions must not stand in the replay file: what is rehearsed there, no suite can measure.

What the teacher writes is checked at curation (`contamination@1`); the replay file comes from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_catalog.errors import DataError
from data_catalog.text import Phrases, words
from evaluation.suites import Suite

MIN_WORDS = 6
"""A shorter question counts only where it is a whole turn: it stands in many a text by chance."""
SHOWN = 5


def check_replay(path: Path, suites: Sequence[Suite]) -> None:
    """Raise DataError where a row of the replay file holds a question of a suite."""
    if not suites:
        return
    found = list(leaks(_rows(path), suites))
    if found:
        examples = "\n".join(
            f"  line {number}: {question!r} of suite {suite}" for number, suite, question in found[:SHOWN]
        )
        raise DataError(
            f"{len(found):,} rows of {path} hold questions that evaluation will ask\n{examples}",
            valid="a replay file without the questions of any suite",
            next_step="take those lines out; scores on rehearsed questions say nothing",
        )


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the rows that can be read; what is wrong with the others, the loader says when they are trained on."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield number, row


def leaks(rows: Iterable[tuple[int, Mapping[str, Any]]], suites: Sequence[Suite]) -> Iterator[tuple[int, str, str]]:
    """Yield (number of the row, suite, question) for rows that hold a question: as a user's turn, or inside a text."""
    origin: dict[tuple[str, ...], tuple[str, str]] = {}
    for suite in suites:
        for sample in suite.kept_apart:
            origin.setdefault(tuple(words(sample.question)), (suite.name, sample.question))
    origin.pop((), None)
    long_ones = Phrases(asked for asked in origin if len(asked) >= MIN_WORDS)
    for number, row in rows:
        for text in _texts(row):
            said = tuple(words(text))
            asked = said if said in origin else long_ones.inside(said)
            if asked is not None:
                yield number, *origin[asked]
                break


def _texts(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a row makes the student read: the user's turns, or the text."""
    messages = row.get("messages")
    if isinstance(messages, list):
        yield from (
            turn["content"]
            for turn in messages
            if isinstance(turn, dict) and turn.get("role") == "user" and isinstance(turn.get("content"), str)
        )
    if isinstance(row.get("text"), str):
        yield row["text"]
