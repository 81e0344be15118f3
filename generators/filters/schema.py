"""`schema@1`: an item has the shape of its kind, with no turn or text left blank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_catalog.records import Item, Kind, Verdict
from generators.filters.base import failed, passed

CHECK = "schema@1"
_TURNS = {"system", "user", "assistant"}


def check(item: Item) -> Verdict:
    """Return whether the payload is what its kind promises (see `data_catalog.records.Kind`)."""
    reason = _fault(item.kind, item.payload) or _exchange_fault(item)
    return failed(item, CHECK, reason) if reason else passed(item, CHECK)


def _fault(kind: Kind, payload: Mapping[str, Any]) -> str:
    if kind is Kind.TEXT:
        return "" if set(payload) == {"text"} and _is_text(payload["text"]) else "no text"
    if kind is Kind.MESSAGES:
        return _conversation_fault(payload.get("messages"), last="assistant") or (
            "" if set(payload) == {"messages"} else "more than messages"
        )
    return (
        _conversation_fault(payload.get("prompt"), last="user")
        or _conversation_fault(payload.get("chosen"), last="assistant", first="assistant")
        or _conversation_fault(payload.get("rejected"), last="assistant", first="assistant")
    )


def _exchange_fault(item: Item) -> str:
    """What is checked turn by turn must be as many questions as there are answers."""
    exchanges = item.meta.get("exchanges")
    if exchanges is None:
        return ""
    answers = sum(turn["role"] == "assistant" for turn in item.payload.get("messages", ()))
    return "" if len(exchanges) == answers else f"{len(exchanges)} exchanges for {answers} answers"


def _conversation_fault(messages: object, *, last: str, first: str = "user") -> str:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        return "no messages"
    roles = []
    for message in messages:
        if not isinstance(message, Mapping) or set(message) != {"role", "content"} or message["role"] not in _TURNS:
            return "a message without role and content"
        if not _is_text(message["content"]):
            return f"a blank {message['role']} turn"
        roles.append(message["role"])
    turns = roles[1:] if roles[0] == "system" else roles
    expected = [first if index % 2 == 0 else _other(first) for index in range(len(turns))]
    return "" if turns and turns == expected and turns[-1] == last else f"turns {' '.join(roles)}"


def _other(role: str) -> str:
    return "assistant" if role == "user" else "user"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
