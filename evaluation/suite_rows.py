"""The rows of a suite: read from JSONL, Parquet or a directory of `datasets`, checked, and every bad one named.

A row is `{"id"?, "question" | "messages", "answers"?: [...], "document"?, "kind"?, ...}`; for the perplexity of a plain
text `{"text"}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data_catalog.errors import DataError
from data_catalog.identity import digest, make_id
from data_catalog.records import Message
from evaluation.samples import Sample
from evaluation.scorers import Scorer
from evaluation.scorers.parts import LikelihoodScorer

FIELDS = frozenset({"id", "question", "messages", "text", "answers", "document", "kind"})
TABLES = (".parquet", ".json", ".arrow")
"""Endings of files that are no lines of JSON."""
ERRORS_SHOWN = 10
ROW_FORM = '{"question": "...", "answers": ["..."]}, one JSON object a line; `messages` may stand for `question`'


class _BadRow(Exception):
    """Why one row can't be used; gathered into one DataError."""


def read_samples(
    name: str, path: Path, scorer: Scorer, *, field: str = "path", limit: int | None = None
) -> tuple[Sample, ...]:
    """Read the samples that a scorer can score, or say everything that is wrong with the file."""
    samples: list[Sample] = []
    errors: list[str] = []
    lines_of: dict[str, int] = {}
    for number, row in _numbered(name, path, field):
        if limit is not None and len(samples) >= limit:
            break
        try:
            sample = _sample(_row(row) if isinstance(row, str) else row, scorer)
            _refuse_duplicates(sample, number, lines_of)
        except _BadRow as error:
            errors.append(f"{path}:{number}: {error}")
        else:
            samples.append(sample)
    if errors:
        shown = "\n  ".join(errors[:ERRORS_SHOWN])
        rest = f"\n  and {len(errors) - ERRORS_SHOWN} more" if len(errors) > ERRORS_SHOWN else ""
        raise DataError(
            f"suite `{name}` has {len(errors)} bad row{'s' if len(errors) > 1 else ''}:\n  {shown}{rest}",
            valid=ROW_FORM,
            next_step="correct these lines and run the same command again",
        )
    if not samples:
        raise DataError(
            f"suite `{name}` has no samples: {path} holds no rows",
            valid=ROW_FORM,
            next_step=f"add questions to the file, or take `{name}` out of `suites`",
        )
    return tuple(samples)


def _numbered(name: str, path: Path, field: str) -> Iterator[tuple[int, str | Mapping[str, Any]]]:
    """Yield line numbers and lines of a text file; numbers and rows of anything else.

    A column that a row has no value for is a field that it does not have.
    """
    if not path.is_dir() and path.suffix not in TABLES:
        yield from read_lines(name, path, field)
        return
    from data_catalog.row_files import read_plain_rows  # brings pyarrow, which JSONL does without

    for number, row in enumerate(read_plain_rows(path), start=1):
        yield number, {key: value for key, value in row.items() if value is not None}


def read_lines(name: str, path: Path, field: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the non-empty lines."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"suite `{name}`: {path} is not UTF-8 (byte {error.start})",
            valid="a UTF-8 text file",
            next_step="save the file as UTF-8",
        ) from error
    except OSError as error:
        raise DataError(
            f"suite `{name}`: {path} can't be read: {error.strerror or error}",
            valid="a readable JSONL file",
            next_step=f"correct `suites.{name}.{field}` in the configuration",
        ) from error
    # Not splitlines(): it also cuts at U+2028 and the like, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _row(text: str) -> Mapping[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise _BadRow(f"not JSON: {error.msg} (column {error.colno})") from error
    except RecursionError as error:
        raise _BadRow("not a row: nested too deeply") from error
    if not isinstance(row, dict):
        raise _BadRow(f"a row is a JSON object, got {type(row).__name__}")
    return row


def _sample(row: Mapping[str, Any], scorer: Scorer) -> Sample:
    messages = _plain_text(row, scorer) if "text" in row else _messages(row)
    answers = _answers(row)
    meta = {key: value for key, value in row.items() if key not in FIELDS}
    try:
        given_id = _optional_text(row, "id")
        identity = {"messages": messages, "answers": answers}
        sample = Sample(
            id=given_id if given_id is not None else make_id("sample", identity),
            messages=messages,
            answers=answers,
            document=_optional_text(row, "document"),
            kind=_optional_text(row, "kind"),
            meta=meta,
        )
    except ValidationError as error:
        raise _BadRow(str(error)) from error
    if refusal := scorer.refusal(sample):
        raise _BadRow(f"{refusal}; the row has {_names(row)}")
    return sample


def _plain_text(row: Mapping[str, Any], scorer: Scorer) -> tuple[Message, ...]:
    text = row["text"]
    if not (isinstance(scorer, LikelihoodScorer) and scorer.plain_text):
        raise _BadRow("`text` is for `scorer: perplexity`; give `question` or `messages`")
    if "question" in row or "messages" in row:
        raise _BadRow(f"give one of `question`, `messages` and `text`, got the fields {_names(row)}")
    if not isinstance(text, str) or not text.strip():
        raise _BadRow(f"`text` must be a text that is not empty, got {text!r:.80}")
    return (Message(role="assistant", content=text),)


def _messages(row: Mapping[str, Any]) -> tuple[Message, ...]:
    if ("question" in row) == ("messages" in row):
        raise _BadRow(f"give either `question` or `messages`, got the fields {_names(row)}")
    if "question" in row:
        question = row["question"]
        if not isinstance(question, str) or not question.strip():
            raise _BadRow(f"`question` must be a text that is not empty, got {question!r:.80}")
        return (Message(role="user", content=question),)
    turns = row["messages"]
    if not isinstance(turns, list) or not turns:
        raise _BadRow(f"`messages` must be a list of turns, got {turns!r:.80}")
    try:
        messages = tuple(Message.model_validate(turn) for turn in turns)
    except ValidationError as error:
        first = error.errors()[0]
        raise _BadRow(f"a turn is {{role, content}}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if messages[-1].role != "user" or not messages[-1].content.strip():
        raise _BadRow("the last of `messages` must be a user turn that asks something")
    return messages


def _answers(row: Mapping[str, Any]) -> tuple[str, ...]:
    answers = row.get("answers", [])
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise _BadRow(f"`answers` must be a list of texts, got {answers!r:.80}")
    return tuple(answers)


def _optional_text(row: Mapping[str, Any], field: str) -> str | None:
    value = row.get(field)
    if value is None:
        return None
    if field == "id" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise _BadRow(f"`{field}` must be a text that is not empty, got {value!r:.80}")
    return value


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}`" for key in row) or "none"


def _refuse_duplicates(sample: Sample, number: int, lines_of: dict[str, int]) -> None:
    """Note the sample's id and prompt, or say on which line they stood before."""
    prompt = digest(sample.messages)
    for what, key in (("the same question", prompt), (f"id `{sample.id}`", f"id:{sample.id}")):
        if key in lines_of:
            raise _BadRow(f"{what} stands on line {lines_of[key]} already")
    lines_of[f"id:{sample.id}"] = lines_of[prompt] = number
