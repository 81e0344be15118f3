"""Identity is content: the one way from a value to an id.

A digest is the SHA-256 of the value's canonical JSON. What has no deterministic form (a set, NaN, an arbitrary object)
is refused rather than hashed by accident. An id is a readable prefix and the digest's first 32 hex digits (128 bits).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel

ID_DIGITS = 32


def canonical(value: Any) -> Any:
    """Return `value` as plain JSON types, or raise TypeError/ValueError where it has no deterministic form."""
    # Exact types first: an unchanged run works out tens of thousands of ids, nearly all of plain values.
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is dict and all(type(key) is str for key in value):
        return {key: canonical(entry) for key, entry in value.items()}
    if kind is list or kind is tuple:
        return [canonical(entry) for entry in value]
    if isinstance(value, str | int) and not isinstance(value, Enum):
        return value
    if isinstance(value, Enum):
        return canonical(value.value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no canonical form; use None or a string")
        return value
    if isinstance(value, BaseModel):
        return canonical(value.model_dump(mode="json"))
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) for key in value):
            raise TypeError("only string keys have a canonical form")
        return {key: canonical(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [canonical(entry) for entry in value]
    raise TypeError(f"{type(value).__name__} has no canonical form; give a string, number, list or mapping")


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, UTF-8 kept."""
    return json.dumps(canonical(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Return the SHA-256 (64 hex digits) of the canonical JSON of `value`."""
    # Lone surrogates can't reach here from parsed documents, but a teacher may send one in JSON escapes.
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def make_id(prefix: str, value: Any) -> str:
    """Return `prefix-` followed by the first 32 hex digits of the digest of `value`."""
    return f"{prefix}-{digest(value)[:ID_DIGITS]}"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (64 hex digits) of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
