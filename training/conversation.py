"""Conversations as they are stored: whose turn it is, and which turns are answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Messages = Sequence[Mapping[str, str]]


def in_order(messages: Messages) -> bool:
    """Whether a system message, if there is one, comes first, and then user and assistant take turns."""
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles and roles[0] == "system" else roles
    return all(role == ("user", "assistant")[number % 2] for number, role in enumerate(turns))


def answer_turns(messages: Messages) -> list[int]:
    """Return the positions of the assistant's turns."""
    return [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
