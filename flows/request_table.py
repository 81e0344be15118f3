"""The request log as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from data_catalog.request_log import RequestLog

Table = tuple[Sequence[str], list[Sequence[object]]]
DIGEST_SHOWN = 8


def counts_table(log: RequestLog, now: float) -> Table:
    """Return headers and rows: one row per recipe or check, template and model. `now` in seconds since the epoch."""
    headers = (
        *("recipe", "template", "asked", "answered", "cut off", "failed", "quarantined"),
        *("prompt tokens", "answer tokens", "first asked", "last heard"),
    )
    return headers, [
        (
            entry.purpose,
            _short(entry.template),
            f"{entry.asked:,}",
            f"{entry.answered:,}",
            f"{entry.truncated:,}",
            f"{entry.failed:,}",
            f"{entry.quarantined:,}",
            f"{entry.prompt_tokens:,}",
            f"{entry.completion_tokens:,}",
            f"{ago(now - entry.first_asked_at)} ago",
            f"{ago(now - entry.last_heard_at)} ago",
        )
        for entry in log.counts
    ]


def failures_table(log: RequestLog, now: float) -> Table:
    """Return headers and rows: one row per reason, the most frequent first."""
    return ("requests", "recipe", "template", "what", "reason", "tries", "last", "such as"), [
        (
            f"{entry.count:,}",
            entry.purpose,
            _short(entry.template),
            entry.kind.value,
            entry.reason,
            f"{entry.attempts:,}",
            f"{ago(now - entry.last_failed_at)} ago",
            entry.example,
        )
        for entry in log.failures
    ]


def ago(seconds: float) -> str:
    """Return an age in its largest unit, such as `3 min` or `2 d`."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _short(template: str) -> str:
    name, mark, digest = template.partition("#")
    return f"{name}{mark}{digest[:DIGEST_SHOWN]}"
