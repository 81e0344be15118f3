"""The one way to ask any model: messages and sampling in, completions out.

`generators.teacher` implements it over an OpenAI-compatible endpoint, `training.inference` over local weights. Nobody
else generates text; evaluation scores what a completer answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from data_catalog.records import Completion, Request


class Completer(Protocol):
    """Something that answers requests."""

    @property
    def fingerprint(self) -> str:
        """Which model answers, as it enters the request key: a manifest digest or a served model's name."""
        ...

    def complete(self, requests: Sequence[Request]) -> Iterator[Sequence[Completion]]:
        """Yield completions in batches as they arrive, each request at most once, in no promised order.

        A batch is what the caller makes durable at once. Requests that failed for good are missing from the batches.
        """
        ...
