"""Columns of a Parquet file that someone else wrote, within bounds."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.errors import DataError

BATCH_ROWS = 1024


def parquet_rows(content: bytes, columns: Sequence[str], max_unpacked_bytes: int) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a Parquet file with those of `columns` that it has.

    Raises:
        DataError: it is no Parquet file, has none of the columns, or unpacks to more than `max_unpacked_bytes`.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(content), memory_map=False, pre_buffer=False)
        names = file.schema_arrow.names
        wanted = [name for name in columns if name in names]
        if not wanted:
            raise DataError(f"none of the columns {', '.join(columns)} among {', '.join(names[:8])}")
        _demand_size(file.metadata, max_unpacked_bytes)
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=wanted, use_threads=False):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"no readable Parquet file: {str(error).partition('. ')[0]}") from error


def _demand_size(metadata: pq.FileMetaData, max_unpacked_bytes: int) -> None:
    size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if size > max_unpacked_bytes:
        raise DataError(f"unpacks to {size:,} bytes, more than {max_unpacked_bytes:,} (documents.max_unpacked_bytes)")
