"""Files of training rows that other programs read and write: JSONL, JSON, Parquet, and a directory for `datasets`.

The ending of the name says which: `.jsonl`, `.json`, `.parquet`, and none for a directory with a card (README.md) and
`data/train-00000-of-00001.parquet`, which `datasets.load_dataset` reads as it is. `.csv`, with the names of the columns
in its first line, is read and not written. Nothing that exists is written over.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.errors import ConfigError, DataError, MachineError
from data_catalog.files import sync, write_durably
from data_catalog.row_formats import KEYS, LOOKS, READ, Row, RowFormat, detect_format, to_payload, unwrapped

ENDINGS = (".jsonl", ".json", ".parquet")
READABLE = (*ENDINGS, ".csv")
ORIGIN = ("id", "recipe", "document_id")
"""Columns beside the row itself, in Parquet and directories: where a row comes from."""

_TEXT = pa.string()
_MESSAGES = pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)]))
_SCHEMAS: Mapping[RowFormat, pa.Schema] = {
    RowFormat.TEXT: pa.schema([("text", _TEXT)]),
    RowFormat.MESSAGES: pa.schema([("messages", _MESSAGES)]),
    RowFormat.SHAREGPT: pa.schema([("conversations", pa.list_(pa.struct([("from", _TEXT), ("value", _TEXT)])))]),
    RowFormat.ALPACA: pa.schema(
        [
            *((name, _TEXT) for name in ("instruction", "input", "output", "system")),
            ("history", pa.list_(pa.list_(_TEXT))),
        ]
    ),
    RowFormat.PROMPT_COMPLETION: pa.schema([("prompt", _MESSAGES), ("completion", _MESSAGES)]),
    RowFormat.PREFERENCE: pa.schema([("prompt", _MESSAGES), ("chosen", _MESSAGES), ("rejected", _MESSAGES)]),
    RowFormat.LABEL: pa.schema([("text", _TEXT), ("label", _TEXT)]),
}
_SPLITS = ("train", "test", "validation")


class Imported(NamedTuple):
    """What was read from a file."""

    format: RowFormat
    payloads: tuple[dict[str, Any], ...]
    left_out: Mapping[str, int]
    """Keys that the format doesn't know, and in how many rows they stood."""


def read_payloads(path: Path, shape: RowFormat | None = None) -> Imported:
    """Read a file or directory of rows; without `shape`, the first row tells it, and every other must have the same.

    Raises:
        ConfigError: there is no such file, or its ending says nothing.
        DataError: it can't be read, has no rows, or a row is not what the first one is.
    """
    rows = [unwrapped(row) for row in read_plain_rows(path)]
    if not rows:
        raise DataError(f"{path} has no rows", valid="at least one row")
    found = shape or _detected(path, rows[0])
    payloads = []
    left_out: Counter[str] = Counter()
    for number, row in enumerate(rows, start=1):
        try:
            payloads.append(to_payload(row, found))
        except ValueError as error:
            raise DataError(
                f"{path}, row {number}: {error}",
                valid=f"every row like the first: {LOOKS[found]}",
                next_step="correct the row, or name another format with --from",
            ) from error
        left_out.update(set(row) - READ[found])
    return Imported(found, tuple(payloads), dict(sorted(left_out.items())))


def write_rows(
    path: Path, shape: RowFormat, rows: Sequence[Row], *, origins: Sequence[Row] = (), card: str = ""
) -> Path:
    """Write rows of one shape in the way that the path's ending says, whole or not at all; return the path.

    Args:
        path: ends in `.jsonl`, `.json` or `.parquet`; without an ending it becomes a directory.
        shape: of every row.
        rows: in the order in which they shall stand.
        origins: for each row its ORIGIN columns, which Parquet and directories keep.
        card: README.md of a directory.

    Raises:
        ConfigError: something is there already, or the ending is unknown.
        DataError: a row holds what Parquet can't.
        MachineError: the disk is full, or the place can't be written to.
    """
    if path.suffix not in (*ENDINGS, ""):
        raise _unknown_ending(path)
    if path.exists():
        raise ConfigError(f"{path} is there already", next_step="name another file, or remove it first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == "":
            _write_directory(path, _parquet(shape, rows, origins), card)
        else:
            write_durably(path, _bytes(path.suffix, shape, rows, origins))
    except OSError as error:
        raise MachineError(
            f"{path} can't be written: {error.strerror or error}",
            next_step=f"check disk space and permissions (df -h {path.parent}), then run the same command",
        ) from error
    return path


def _bytes(ending: str, shape: RowFormat, rows: Sequence[Row], origins: Sequence[Row]) -> bytes:
    if ending == ".parquet":
        return _parquet(shape, rows, origins)
    if ending == ".json":
        return ("[\n" + ",\n".join(map(_json, rows)) + "\n]\n").encode()
    return "".join(f"{_json(row)}\n" for row in rows).encode()


def _json(row: Row) -> str:
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can say
        return json.dumps(row, ensure_ascii=True)
    return text


def _parquet(shape: RowFormat, rows: Sequence[Row], origins: Sequence[Row]) -> bytes:
    schema = _SCHEMAS[shape]
    if origins:
        schema = pa.schema([*((name, _TEXT) for name in ORIGIN), *schema])
    whole = [{**origin, **row} for origin, row in zip(origins, rows, strict=True)] if origins else list(rows)
    try:
        table = pa.Table.from_pylist(whole, schema=schema)
    except UnicodeEncodeError as error:
        raise DataError(
            "a row holds half a surrogate pair, which Parquet can't",
            valid="text that is UTF-8",
            next_step="write .jsonl instead: there it is kept as an escape",
        ) from error
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _write_directory(path: Path, data: bytes, card: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        (draft / "data").mkdir(parents=True)
        write_durably(draft / "data" / "train-00000-of-00001.parquet", data)
        write_durably(draft / "README.md", card.encode())
        draft.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _detected(path: Path, row: Row) -> RowFormat:
    try:
        return detect_format(row)
    except ValueError as error:
        known = "; ".join(f"{shape}: {', '.join(keys)}" for shape, keys in KEYS.items())
        raise DataError(
            f"{path} is in none of the known formats: {error}", valid=f"rows with these keys: {known}"
        ) from error


def read_plain_rows(path: Path) -> list[Row]:
    """Read the rows of a file, or of a directory of `datasets` with one split, whatever they hold.

    Raises:
        ConfigError: there is no such file, or its ending says nothing.
        DataError: it can't be read, or a directory holds several splits.
    """
    if path.is_dir():
        return [row for part in _parts(path) for row in _read_file(part)]
    if not path.is_file():
        raise ConfigError(f"no file at {path}", valid=f"a directory, or a file that ends in {', '.join(READABLE)}")
    return _read_file(path)


def _parts(directory: Path) -> list[Path]:
    """Return the data files of a directory for `datasets`, all of one split."""
    files = sorted(path for path in directory.rglob("*") if path.suffix in (*READABLE, ".arrow"))
    files = [path for path in files if path.name not in ("dataset_info.json", "state.json", "dataset_dict.json")]
    if not files:
        raise DataError(f"{directory} holds no rows", valid=f"files that end in {', '.join(READABLE)} or .arrow")
    names = {part for path in files for part in path.relative_to(directory).as_posix().split("/")}
    splits = [split for split in _SPLITS if any(name.startswith(split) for name in names)]
    if len(splits) > 1:
        raise DataError(
            f"{directory} holds several splits: {', '.join(splits)}",
            valid="one of them: what is tested on must not be mixed with what is learned from",
            next_step=f"name the file of one split, such as {files[0]}",
        )
    return files


def _read_file(path: Path) -> list[Row]:
    try:
        if path.suffix == ".parquet":
            return list(pq.read_table(path, page_checksum_verification=True, partitioning=None).to_pylist())
        if path.suffix == ".arrow":
            with pa.memory_map(str(path)) as source:
                return list(pa.ipc.open_stream(source).read_all().to_pylist())
        if path.suffix == ".csv":
            return _read_csv(path)
        if path.suffix not in ENDINGS:
            raise _unknown_ending(path)
        return _read_json(path)
    except (OSError, pa.ArrowException, UnicodeDecodeError, RecursionError) as error:
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} can't be read: {what}", next_step="check that the file is whole") from error


def _read_csv(path: Path) -> list[Row]:
    """Read RFC 4180 with a header; a row has as many fields as the header, none of them unread."""
    # newline="": a line break inside quotes is part of the field.
    lines = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
    try:
        header = next(lines, [])
        rows: list[Row] = []
        for fields in lines:
            if not fields:
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"{path}, line {lines.line_num}: {len(fields)} fields, where the header has {len(header)}",
                    valid=f"the columns {', '.join(header)}; a field with a comma or a line break stands in quotes",
                    next_step="correct the line",
                )
            rows.append(dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {lines.line_num}: not CSV ({error})",
            valid="commas between fields, and quotes round a field that has a comma, a quote or a line break",
            next_step="correct the line",
        ) from error
    return rows


def _read_json(path: Path) -> list[Row]:
    text = path.read_bytes().decode("utf-8-sig")
    if path.suffix == ".json":
        try:
            found = json.loads(text)
        except ValueError as error:
            raise DataError(
                f"{path} is not JSON: {error}", valid="a list of objects; one a line ends in .jsonl"
            ) from error
        entries = list(enumerate(found if isinstance(found, list) else [found], start=1))
        place = "entry"
    else:
        entries, place = [], "line"
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    entries.append((number, json.loads(line)))
                except ValueError as error:
                    raise DataError(f"{path}, line {number}: not JSON ({error})", valid="one object a line") from error
    for number, entry in entries:
        if not isinstance(entry, dict):
            raise DataError(f"{path}, {place} {number} is no object but {type(entry).__name__}", valid="objects")
    return [entry for _, entry in entries]


def _unknown_ending(path: Path) -> ConfigError:
    return ConfigError(
        f"`{path.name}` ends in `{path.suffix}`",
        valid=f"{', '.join(ENDINGS)}, or no ending: a directory with a card, for `datasets`",
    )
