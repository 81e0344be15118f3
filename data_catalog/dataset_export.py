"""A dataset version as other programs read it: in the shape and the file that they expect, with a card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.datasets import read_dataset, read_rows
from data_catalog.errors import ConfigError, DataError
from data_catalog.records import DatasetVersion
from data_catalog.row_files import ORIGIN, Imported, write_rows
from data_catalog.row_formats import Row, RowFormat, to_row

if TYPE_CHECKING:
    from data_catalog.catalogue import Catalogue


def export_dataset(catalogue: Catalogue, version: DatasetVersion, path: Path, shape: RowFormat | None = None) -> Path:
    """Write every row of a version to `path`, in the order of the version; see `row_files.write_rows` for the endings.

    Args:
        catalogue: where the version is kept; its file is verified first.
        version: what is written.
        path: a file or directory that does not exist yet.
        shape: of the rows; None takes the version's own.

    Raises:
        ConfigError: the version's kind has no such shape, or `path` can't be what it says.
        DataError: the version is damaged, or a row can't be said in that shape; nothing is written.
    """
    chosen = _shape(shape, version)
    file = catalogue.home / version.path
    origins = read_dataset(file, version.sha256).select(list(ORIGIN)).to_pylist()
    rows = [_converted(row["payload"], chosen, f"item {row['id']}") for row in read_rows(file, version.sha256)]
    return write_rows(path, chosen, rows, origins=origins, card=_version_card(version, chosen, origins))


def convert_rows(imported: Imported, path: Path, shape: RowFormat | None = None) -> Path:
    """Write what was read from one file into another, in another shape of the same kind.

    Raises:
        ConfigError: the kind has no such shape, or `path` can't be what it says.
        DataError: a row can't be said in that shape; nothing is written.
    """
    kind = imported.format.kind
    chosen = shape or RowFormat.of_kind(kind)[0]
    if chosen.kind is not kind:
        raise _wrong_shape(chosen, f"rows of the format `{imported.format}`", RowFormat.of_kind(kind))
    rows = [_converted(row, chosen, f"row {number}") for number, row in enumerate(imported.payloads, start=1)]
    card = _card([f"{len(rows):,} rows in the format `{chosen}`, converted from `{imported.format}`."], chosen)
    return write_rows(path, chosen, rows, card=card)


def _shape(shape: RowFormat | None, version: DatasetVersion) -> RowFormat:
    fitting = RowFormat.of_kind(version.kind)
    if shape is not None and shape not in fitting:
        raise _wrong_shape(shape, f"{version.id}, which holds {version.kind} items", fitting)
    return shape or fitting[0]


def _wrong_shape(shape: RowFormat, what: str, fitting: Sequence[RowFormat]) -> ConfigError:
    return ConfigError(f"`{shape}` can't hold {what}", valid=", ".join(fitting), next_step="name one with --format")


def _converted(payload: Row, shape: RowFormat, where: str) -> dict[str, Any]:
    try:
        return to_row(payload, shape)
    except ValueError as error:
        raise DataError(
            f"{where} can't be written as `{shape}`: {error}",
            valid="every row; none is left out in silence",
            next_step=f"use another format: {', '.join(RowFormat.of_kind(shape.kind))}",
        ) from error


def _version_card(version: DatasetVersion, shape: RowFormat, origins: Sequence[Row]) -> str:
    recipes = Counter(origin["recipe"] for origin in origins)
    documents = {origin["document_id"] for origin in origins if origin["document_id"]}
    lines = [
        f"Dataset version `{version.id}`, known as `{version.name}`: {version.rows:,} rows of kind `{version.kind}`, "
        f"made from {len(documents):,} document{'s' * (len(documents) != 1)}, here in the format `{shape}`.",
        "",
        "| recipe | rows |",
        "| --- | --- |",
        *(f"| {recipe} | {count:,} |" for recipe, count in sorted(recipes.items())),
        "",
        "`id` names the item, `document_id` its source; `tutelage trace ID` shows every prompt and answer behind it.",
        f"SHA-256 of the version's own file: `{version.sha256}`.",
        "",
        "The rows are machine-written: expect the teacher's mistakes where the filters missed them. The licence is",
        "that of the documents and the teacher; it is not known here.",
    ]
    return _card(lines, shape)


def _card(lines: Sequence[str], shape: RowFormat) -> str:
    """Return README.md with the YAML head by which `datasets` and model hubs find the data."""
    head = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: data/train-*.parquet",
        f"tags: [tutelage, synthetic-data, {shape.kind}]",
        "---",
        "# Training data",
        "",
    ]
    usage = ["", "```python", "import datasets", "", 'rows = datasets.load_dataset("PATH", split="train")', "```", ""]
    return "\n".join([*head, *lines, *usage])
