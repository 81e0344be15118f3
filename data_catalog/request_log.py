"""What was asked of the teacher and what came of it: counts, tokens, failures by reason, ages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from data_catalog import queries
from data_catalog.records import FailureKind, Record

if TYPE_CHECKING:
    import duckdb

_NUMBER = re.compile(r"(?<!HTTP )\b\d[\d.,]*")
"""Numbers that differ between two failures of one kind: tokens, ports, seconds; an HTTP status is none of them."""


class RequestCounts(Record):
    """The requests of one recipe or check, one template and one model. Times are seconds since the epoch.

    `asked == answered + failed + quarantined`, but for requests that an older Tutelage left without a reason.
    """

    purpose: str
    """What asked: `grounded_qa@1`, `judge@1` ..."""
    template: str
    model: str
    """The fingerprint of the model that was asked."""
    asked: int
    answered: int
    truncated: int
    """Answers that met the token limit."""
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    """Of all answers together, each from sending to the last byte."""
    failed: int
    """Requests without an answer that the next run asks again."""
    quarantined: int
    first_asked_at: float
    last_heard_at: float
    """The newest answer or failure."""


class FailureCount(Record):
    """How many requests of one template failed for one reason; numbers in the reason that differ are left out."""

    purpose: str
    template: str
    kind: FailureKind
    reason: str
    count: int
    attempts: int
    """Tries of all of them together, in the run that gave them up."""
    last_failed_at: float
    example: str
    """The key of one of them."""


class RequestLog(Record):
    """Everything that was ever asked, and what has no answer."""

    counts: tuple[RequestCounts, ...]
    failures: tuple[FailureCount, ...]
    """The most frequent first."""


def read_request_log(con: duckdb.DuckDBPyConnection) -> RequestLog:
    """Read the log in two queries."""
    found = con.execute(queries.REQUEST_COUNTS, {"quarantined": FailureKind.QUARANTINED.value}).fetchall()
    counts = tuple(RequestCounts(**dict(zip(RequestCounts.model_fields, row, strict=True))) for row in found)
    failures: dict[tuple[str, str, str, str], FailureCount] = {}
    for purpose, template, kind, reason, attempts, failed_at, key in con.execute(queries.FAILURE_REASONS).fetchall():
        masked = _NUMBER.sub("…", reason)
        before = failures.get((purpose, template, kind, masked))
        failures[purpose, template, kind, masked] = FailureCount(
            purpose=purpose,
            template=template,
            kind=FailureKind(kind),
            reason=masked,
            count=1 + (before.count if before else 0),
            attempts=attempts + (before.attempts if before else 0),
            last_failed_at=max(failed_at, before.last_failed_at if before else failed_at),
            example=before.example if before else key,
        )
    return RequestLog(counts=counts, failures=tuple(sorted(failures.values(), key=lambda entry: -entry.count)))
