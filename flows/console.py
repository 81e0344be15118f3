"""Tables for people and for programs: framed on a terminal, plain columns in a pipe, JSON on request."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, TextIO


def print_json(value: Any, stream: TextIO | None = None) -> None:
    """Print `value` as indented JSON; dates and paths as text."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str), file=stream or sys.stdout)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]], stream: TextIO | None = None) -> None:
    """Print a table: framed by rich where `stream` is a terminal, columns two spaces apart elsewhere."""
    out = stream or sys.stdout
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if out.isatty():
        _print_framed(headers, texts, out)
        return
    widths = [max(len(row[column]) for row in [list(headers), *texts]) for column in range(len(headers))]
    for row in [list(headers), *texts]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), file=out)


def _print_framed(headers: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        # Text, not str: what a user wrote as a reason is no markup.
        table.add_row(*(Text(cell) for cell in row))
    Console(file=out).print(table)
