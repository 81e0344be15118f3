"""One evaluation sample: what is asked and what is expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from data_catalog.records import Message, Record


class Sample(Record):
    """One question to a model. `messages` is what the model sees, without the suite's system message."""

    id: str
    messages: tuple[Message, ...]
    answers: tuple[str, ...] = ()
    """Any one of these is right."""
    document: str | None = None
    """Which document the question is about; shown in reports, never part of the prompt."""
    kind: str | None = None
    """A label for break-downs, such as `number` or `place`."""
    meta: Mapping[str, Any] = Field(default_factory=dict)
    """The row's other fields, kept as they are."""

    @property
    def question(self) -> str:
        """What is asked: the text of the last user turn."""
        return next(message.content for message in reversed(self.messages) if message.role == "user")
