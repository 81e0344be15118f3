"""Dataset versions: immutable Parquet files that are named after what they hold.

A version's id hashes its kind and its item ids, and an item's id hashes its payload; so the same items are the same
version, and its file can always be written again. Parquet alone reads flipped bits back as if nothing had happened:
the file has page checksums, and its SHA-256 stands in the catalogue and in a file beside it (`sha256sum -c` reads it).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog import queries, rows
from data_catalog.errors import DataError, MachineError
from data_catalog.files import write_durably
from data_catalog.identity import file_sha256
from data_catalog.records import DatasetVersion, Item, Kind, Split

if TYPE_CHECKING:
    from data_catalog.catalogue import Catalogue

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("payload", pa.string(), nullable=False),
        pa.field("recipe", pa.string(), nullable=False),
        pa.field("document_id", pa.string()),
        pa.field("chunk_id", pa.string()),
    ]
)
_ROW_GROUP = 65_536


def write_dataset(
    catalogue: Catalogue, name: str, kind: Kind, items: Sequence[Item], *, split: Split = Split.TRAIN
) -> DatasetVersion:
    """Write `items` as a dataset version called `name`; the same items give the same version and the same bytes.

    Args:
        catalogue: where the version and its membership are recorded.
        name: what people call it, such as `sft`.
        kind: the kind that every item must have.
        items: in any order; they are stored by id.
        split: the side of the split that every item must be on.

    Raises:
        DataError: no items, an item of another kind, or one from the other side of the split.
        MachineError: the disk is full; nothing was recorded.
    """
    distinct = {item.id: item for item in items}
    ordered = [distinct[key] for key in sorted(distinct)]
    _check_items(name, kind, split, ordered)
    dataset_id = DatasetVersion.identity(kind, tuple(distinct))
    path = catalogue.datasets_dir / f"{dataset_id}.parquet"
    sha256 = _write_file(path, ordered)
    version = DatasetVersion(
        id=dataset_id,
        name=name,
        kind=kind,
        rows=len(ordered),
        path=path.relative_to(catalogue.home).as_posix(),
        sha256=sha256,
    )
    _record(catalogue, version, [item.id for item in ordered])
    return version


def get_dataset(catalogue: Catalogue, dataset_id: str) -> DatasetVersion | None:
    """Return the version with this id, under the name it was given last."""
    found = _versions(catalogue, dataset_id)
    return found[0] if found else None


def list_datasets(catalogue: Catalogue) -> list[DatasetVersion]:
    """Return every version under each of its names, the newest first."""
    return _versions(catalogue, None)


def dataset_item_ids(catalogue: Catalogue, dataset_id: str) -> list[str]:
    """Return the ids of a version's items, sorted."""
    with catalogue.store.reading() as con:
        return [row[0] for row in con.execute(queries.DATASET_ITEMS, {"id": dataset_id}).fetchall()]


def read_dataset(path: Path, sha256: str | None = None) -> pa.Table:
    """Return a dataset file's columns id, payload (JSON text), recipe, document_id, chunk_id.

    Args:
        path: the Parquet file.
        sha256: what the file's digest must be; None takes it from the `.sha256` file beside it, where there is one.

    Raises:
        DataError: the file is missing, or a byte of it is not what was written.
    """
    if not path.is_file():
        raise DataError(f"no dataset at {path}", next_step="run the same command again: it is written anew")
    expected = sha256 or _recorded_sha256(path)
    actual = file_sha256(path)
    if expected is not None and actual != expected:
        raise _damaged(path, f"SHA-256 {actual[:12]}, not {expected[:12]}")
    try:
        table = pq.read_table(path, page_checksum_verification=True, partitioning=None)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, (str(error).splitlines() or [type(error).__name__])[0]) from error
    if not {"id", "payload"} <= set(table.column_names):
        raise _damaged(path, f"its columns are {', '.join(table.column_names)}")
    return table


def read_rows(path: Path, sha256: str | None = None) -> list[dict[str, Any]]:
    """Return a dataset file's rows as {"id": str, "payload": dict}, by id; arguments and errors as in read_dataset."""
    columns = read_dataset(path, sha256).select(["id", "payload"])
    try:
        return [{"id": row["id"], "payload": json.loads(row["payload"])} for row in columns.to_pylist()]
    except ValueError as error:
        raise _damaged(path, f"a payload is not JSON: {error}") from error


def remove_dataset_files(path: Path) -> None:
    """Delete a dataset's Parquet file and the digest beside it; what is gone already is no error."""
    _digest_file(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _check_items(name: str, kind: Kind, split: Split, items: Sequence[Item]) -> None:
    if not items:
        raise DataError(
            f"dataset `{name}` would have no rows",
            valid="at least one item",
            next_step="look at the funnel: it says at which check the items were lost",
        )
    for item in items:
        if item.kind is not kind:
            raise DataError(f"{item.id} is of kind `{item.kind}`", valid=f"`{kind}` items in dataset `{name}`")
        if item.split is not split:
            raise DataError(
                f"{item.id} is on the `{item.split}` side of the split",
                valid=f"`{split}` items in dataset `{name}`: what is evaluated is never trained on",
            )


def _write_file(path: Path, items: Sequence[Item]) -> str:
    """Write the file and its digest, each whole or not at all; return the SHA-256 of the bytes."""
    data = _parquet_bytes(items)
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        if not path.is_file() or file_sha256(path) != sha256:
            write_durably(path, data)
        if _recorded_sha256(path) != sha256:
            write_durably(_digest_file(path), f"{sha256}  {path.name}\n".encode())
    except OSError as error:
        raise MachineError(
            f"{path} can't be written: {error.strerror or error}",
            valid="nothing was recorded, and what was there before is kept",
            next_step=f"check disk space and permissions (df -h {path.parent}), then run the same command",
        ) from error
    return sha256


def _parquet_bytes(items: Sequence[Item]) -> bytes:
    table = rows.table(
        _SCHEMA,
        (
            {
                "id": item.id,
                "payload": rows.json_text(item.payload),
                "recipe": item.recipe,
                "document_id": item.document_id,
                "chunk_id": item.chunk_id,
            }
            for item in items
        ),
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=_ROW_GROUP, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _record(catalogue: Catalogue, version: DatasetVersion, item_ids: Sequence[str]) -> None:
    now = catalogue.clock()
    with catalogue.store.writing() as con:
        known = con.execute(queries.DATASET_EXISTS, {"id": version.id}).fetchall()
        if not known:
            con.execute(
                queries.INSERT_DATASET,
                {
                    "id": version.id,
                    "kind": version.kind.value,
                    "rows": version.rows,
                    "path": version.path,
                    "sha256": version.sha256,
                    "now": now,
                },
            )
            con.register("wanted", rows.ids(item_ids))
            con.execute(queries.INSERT_DATASET_ITEMS, {"dataset_id": version.id})
        elif known[0] != (version.sha256, None):
            # The same items as another pyarrow encodes them, or a file that had been removed.
            con.execute(queries.UPDATE_DATASET, {"id": version.id, "sha256": version.sha256})
        con.execute(queries.NAME_DATASET, {"name": version.name, "id": version.id, "now": now})


def _versions(catalogue: Catalogue, dataset_id: str | None) -> list[DatasetVersion]:
    with catalogue.store.reading() as con:
        return [rows.dataset_of(row) for row in con.execute(queries.DATASETS, {"id": dataset_id}).fetchall()]


def _digest_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _recorded_sha256(path: Path) -> str | None:
    try:
        return _digest_file(path).read_text(encoding="ascii").split()[0]
    except (FileNotFoundError, IndexError):
        return None
    except UnicodeDecodeError as error:
        raise _damaged(_digest_file(path), "it is not text") from error


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"the dataset {path} is damaged: {what}",
        valid="the bytes that were written; Parquet would give wrong rows without an error",
        next_step=f"rm {path} and run the same command: the version is written again from the catalogue",
    )
