"""The error budget: how many requests may fail for good before going on makes no sense."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection


class ErrorBudget:
    """Counts failures over the whole job and over the requests that ended last.

    Args:
        share: of requests that may fail; 1 allows all.
        window: how many of the last requests are looked at.
        total: requests of the whole job, those answered earlier included.
        failed_before: keys of requests that failed in an earlier run; they say nothing of how it goes now.
    """

    def __init__(self, share: float, window: int, total: int, failed_before: Collection[str] = ()) -> None:
        self._share = share
        self._window = window
        # One failure alone stops nothing: in a job of three it would be a third of it.
        self._allowed = max(share * total, 1)
        self._failed_before = failed_before
        self._failures = 0
        self._last: deque[bool] = deque(maxlen=window)
        self._total = total

    def ended(self, key: str, *, failed: bool) -> str:
        """Take note of how a request ended; return what exceeds the budget, in words, or an empty string."""
        self._failures += failed
        if key not in self._failed_before:
            self._last.append(failed)
        if self._share >= 1 or not failed:
            return ""
        if self._failures > self._allowed:
            return f"{self._failures:,} of {self._total:,} requests"
        recent = sum(self._last)
        if recent > max(self._share * self._window, 1):
            return f"{recent:,} of the last {len(self._last):,} requests"
        return ""
