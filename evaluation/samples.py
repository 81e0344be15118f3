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
        """What is asked: the text of the last user turn; of plain text, all of it."""
        return next(
            (turn.content for turn in reversed(self.messages) if turn.role == "user"), self.messages[-1].content
        )

    @property
    def plain(self) -> bool:
        """Whether it is a text outside any chat, of which only the likelihood can be asked."""
        return all(turn.role != "user" for turn in self.messages)

    @property
    def labels(self) -> dict[str, str]:
        """What the sample can be sliced by: its document, its kind, and the other plain values of its row."""
        plain = {key: value for key, value in self.meta.items() if isinstance(value, str | int | float)}
        given = {**plain, "document": self.document, "kind": self.kind}
        return {key: str(value) for key, value in given.items() if value is not None}
