"""Tables of texts: JSONL, CSV and TSV (parquet.py has Parquet). Each row is a document, its text in one column."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from generators.documents import plain
from generators.documents.hidden import without_comments
from generators.documents.results import Options, Parsed, PartlyRefused, Refused
from generators.markdown import MARKDOWN

MAX_ROWS = 1_000_000
"""Rows of one table."""
MAX_REASONS = 3
"""Different reasons that are told of one table."""
_SNIFFED = 1 << 16
_DELIMITERS = ",;\t|"

Row = Mapping[str, Any]


def parse(content: bytes, name: str, options: Options) -> list[Parsed]:
    """Return the documents of a table.

    Raises:
        Refused: it can't be read, lacks the column, or not one row has a text.
        PartlyRefused: some rows have no usable text; the others are in it.
    """
    suffix = PurePath(name).suffix.lower()
    text = plain.decode(content, options.encoding).text
    rows = _jsonl(text) if suffix in (".jsonl", ".ndjson") else enumerate(_csv(text, suffix), start=1)
    return documents_of(rows, options)


def documents_of(rows: Iterable[tuple[int, Row | str]], options: Options) -> list[Parsed]:
    """Return the documents of rows, each with its number; a row that is a string says what is wrong with it.

    Raises:
        Refused, PartlyRefused: as `parse`.
    """
    documents: list[Parsed] = []
    bad: Counter[str] = Counter()
    first_bad = count = 0
    for count, (number, row) in enumerate(rows, start=1):
        if count > MAX_ROWS:
            raise Refused(f"more than {MAX_ROWS:,} rows; divide it")
        try:
            documents.append(_document(number, row, options))
        except Refused as refused:
            bad[str(refused)] += 1
            first_bad = first_bad or number
    if not count:
        raise Refused("empty: it has no rows")
    why = "; ".join(f"{found:,} of {count:,} rows: {reason}" for reason, found in bad.most_common(MAX_REASONS))
    if more := sum(count for _, count in bad.most_common()[MAX_REASONS:]):
        why += f"; and {more:,} more"
    if not documents:
        raise Refused(f"no usable row: {why}")
    if bad:
        raise PartlyRefused(f"{why} (the first is #{first_bad})", documents)
    return documents


def _document(number: int, row: Row | str, options: Options) -> Parsed:
    if isinstance(row, str):
        raise Refused(row)
    if options.text_column not in row:
        columns = ", ".join(sorted(map(str, row))[:8]) or "none"
        raise Refused(f"no column {options.text_column!r} among {columns} (documents.text_column)")
    value, title = row[options.text_column], row.get(options.title_column)
    if not isinstance(value, str):
        raise Refused(f"its {options.text_column} is no text but {type(value).__name__}")
    removed: Counter[str] = Counter()
    text = without_comments(plain.tidy(value, removed), removed)
    plain.demand_text(text)
    named = " ".join(title.split()) if isinstance(title, str) else ""
    return Parsed(text, MARKDOWN, named, part=f"#{number}", removed=removed)


def _jsonl(text: str) -> Iterator[tuple[int, Row | str]]:
    # Not splitlines(): a text in JSON may hold U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            yield number, "nested too deeply" if isinstance(error, RecursionError) else "no JSON"
            continue
        yield number, value if isinstance(value, dict) else "no JSON object"


def _csv(text: str, suffix: str) -> Iterable[Row | str]:
    if suffix == ".tsv":
        delimiter = "\t"
    else:
        header = text[:_SNIFFED].partition("\n")[0]
        delimiter = max(_DELIMITERS, key=header.count)
    csv.field_size_limit(max(len(text), 1))
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="", strict=True)
    try:
        yield from reader
    except csv.Error as error:
        raise Refused(f"no readable CSV: line {reader.line_num:,}: {error}") from error
