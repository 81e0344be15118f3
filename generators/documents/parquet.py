"""Parquet files: each row is a document. In a module of its own, because only these files need Arrow."""

from __future__ import annotations

from data_catalog.columns import parquet_rows
from data_catalog.errors import DataError
from generators.documents.results import Options, Parsed, Refused
from generators.documents.tables import documents_of


def parse(content: bytes, name: str, options: Options) -> list[Parsed]:
    """Return the documents of a Parquet file.

    Raises:
        Refused, PartlyRefused: as `tables.parse`.
    """
    columns = (options.text_column, options.title_column)
    try:
        return documents_of(enumerate(parquet_rows(content, columns, options.max_unpacked_bytes), start=1), options)
    except DataError as error:
        raise Refused(error.message) from error
