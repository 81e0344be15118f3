"""The shapes that training rows have elsewhere, and the way from an item's payload to each of them and back.

A shape says what a row looks like; which file holds the rows is the business of `data_catalog.row_files`. Within one
kind every shape says the same, so a row that is written and read again is the payload that it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from data_catalog.records import Kind

Row = Mapping[str, Any]
Messages = list[dict[str, str]]


class RowFormat(StrEnum):
    """What a row looks like; LOOKS shows each.

    MESSAGES is OpenAI's and TRL's conversation, PROMPT_COMPLETION and PREFERENCE are TRL's, SHAREGPT and ALPACA what
    other trainers read, LABEL what text classifiers are trained on.
    """

    TEXT = "text"
    MESSAGES = "messages"
    SHAREGPT = "sharegpt"
    ALPACA = "alpaca"
    PROMPT_COMPLETION = "prompt_completion"
    PREFERENCE = "preference"
    LABEL = "label"

    @property
    def kind(self) -> Kind:
        """The kind of item that the shape can hold."""
        own = {RowFormat.TEXT: Kind.TEXT, RowFormat.PREFERENCE: Kind.PREFERENCE, RowFormat.LABEL: Kind.LABEL}
        return own.get(self, Kind.MESSAGES)

    @staticmethod
    def of_kind(kind: Kind) -> tuple[RowFormat, ...]:
        """Return the shapes that items of a kind can take; the first is the payload itself."""
        return tuple(shape for shape in RowFormat if shape.kind is kind)


LOOKS: Mapping[RowFormat, str] = {
    RowFormat.TEXT: '{"text"}',
    RowFormat.MESSAGES: '{"messages": [{"role", "content"}]}',
    RowFormat.SHAREGPT: '{"conversations": [{"from", "value"}]}, and "system" if need be',
    RowFormat.ALPACA: '{"instruction", "input", "output"}, and "system" and "history" if need be',
    RowFormat.PROMPT_COMPLETION: '{"prompt", "completion"}, each a text or a list of messages',
    RowFormat.PREFERENCE: '{"prompt", "chosen", "rejected"}, each a text or a list of messages',
    RowFormat.LABEL: '{"text", "label"}',
}
KEYS: Mapping[RowFormat, tuple[str, ...]] = {
    RowFormat.PREFERENCE: ("chosen", "rejected"),
    RowFormat.MESSAGES: ("messages",),
    RowFormat.SHAREGPT: ("conversations",),
    RowFormat.PROMPT_COMPLETION: ("prompt", "completion"),
    RowFormat.ALPACA: ("instruction", "output"),
    RowFormat.LABEL: ("text", "label"),
    RowFormat.TEXT: ("text",),
}
"""The keys that tell a shape, the most telling first: rows of published data sets often carry others beside them."""
READ: Mapping[RowFormat, frozenset[str]] = {
    RowFormat.TEXT: frozenset({"text"}),
    RowFormat.MESSAGES: frozenset({"messages"}),
    RowFormat.SHAREGPT: frozenset({"conversations", "system"}),
    RowFormat.ALPACA: frozenset({"instruction", "input", "output", "system", "history"}),
    RowFormat.PROMPT_COMPLETION: frozenset({"prompt", "completion"}),
    RowFormat.PREFERENCE: frozenset({"prompt", "chosen", "rejected"}),
    RowFormat.LABEL: frozenset({"text", "label"}),
}
"""The keys that are read of a row; what stands under others is left out."""

_ROLES = ("system", "user", "assistant")
_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
_SHAREGPT_NAMES = {"system": "system", "user": "human", "assistant": "gpt"}


def detect_format(row: Row) -> RowFormat:
    """Return the shape that a row has.

    Raises:
        ValueError: it has none of them.
    """
    for shape, keys in KEYS.items():
        if all(key in row for key in keys):
            return shape
    raise ValueError(f"its keys are {', '.join(sorted(map(str, row))) or 'none'}")


def unwrapped(row: Row) -> Row:
    """Return the payload of a row of a dataset version's own file, any other row as it is."""
    payload = row.get("payload")
    if "id" in row and isinstance(payload, str):
        found = json.loads(payload)
        if isinstance(found, dict):
            return found
    return row


def to_row(payload: Row, shape: RowFormat) -> dict[str, Any]:
    """Return an item's payload in a shape of its kind.

    Raises:
        ValueError: the shape can't say what the payload holds.
    """
    if shape in (RowFormat.TEXT, RowFormat.MESSAGES, RowFormat.PREFERENCE, RowFormat.LABEL):
        return dict(payload)
    messages = _messages(payload.get("messages"), "messages")
    if shape is RowFormat.SHAREGPT:
        turns = [{"from": _SHAREGPT_NAMES[turn["role"]], "value": turn["content"]} for turn in messages]
        return {"conversations": turns}
    if messages[-1]["role"] != "assistant":
        raise ValueError(f"its last turn is the {messages[-1]['role']}'s, and {shape} ends with an answer")
    if shape is RowFormat.PROMPT_COMPLETION:
        return {"prompt": messages[:-1], "completion": messages[-1:]}
    return _to_alpaca(messages)


def to_payload(row: Row, shape: RowFormat) -> dict[str, Any]:
    """Return the payload that a row of a shape holds.

    Raises:
        ValueError: the row isn't what its shape says; the message names the key.
    """
    if shape is RowFormat.TEXT:
        return {"text": _text(row.get("text"), "text")}
    if shape is RowFormat.LABEL:
        return {"text": _text(row.get("text"), "text"), "label": _label(row.get("label"))}
    if shape is RowFormat.PREFERENCE:
        return _preference(row)
    if shape is RowFormat.MESSAGES:
        return {"messages": _messages(row.get("messages"), "messages")}
    if shape is RowFormat.SHAREGPT:
        return {"messages": _from_sharegpt(row)}
    if shape is RowFormat.PROMPT_COMPLETION:
        prompt = _side(row.get("prompt"), "prompt", "user")
        return {"messages": [*prompt, *_side(row.get("completion"), "completion", "assistant")]}
    return {"messages": _from_alpaca(row)}


def _to_alpaca(messages: Messages) -> dict[str, Any]:
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    pairs = list(zip(turns[::2], turns[1::2], strict=False))
    if len(turns) % 2 or any((asked["role"], said["role"]) != ("user", "assistant") for asked, said in pairs):
        raise ValueError("its turns don't alternate between user and assistant, as alpaca wants")
    row: dict[str, Any] = {"instruction": pairs[-1][0]["content"], "input": "", "output": pairs[-1][1]["content"]}
    if system:
        row["system"] = system
    if len(pairs) > 1:
        row["history"] = [[asked["content"], said["content"]] for asked, said in pairs[:-1]]
    return row


def _from_alpaca(row: Row) -> Messages:
    system = _text(row.get("system") or "", "system")
    messages = [_message("system", system)] if system else []
    history = row.get("history") or []
    if not isinstance(history, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in history):
        raise ValueError("`history` is no list of [question, answer]")
    for asked, said in history:
        messages += [_message("user", _text(asked, "history")), _message("assistant", _text(said, "history"))]
    instruction, given = _text(row.get("instruction"), "instruction"), _text(row.get("input") or "", "input")
    messages.append(_message("user", f"{instruction}\n{given}" if given else instruction))
    messages.append(_message("assistant", _text(row.get("output"), "output")))
    return messages


def _from_sharegpt(row: Row) -> Messages:
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise ValueError("`conversations` is no list of turns")
    system = _text(row.get("system") or "", "system")
    messages = [_message("system", system)] if system else []
    for number, turn in enumerate(turns, start=1):
        who = turn.get("from") if isinstance(turn, dict) else None
        if who not in _SHAREGPT_ROLES:
            raise ValueError(
                f"turn {number} of `conversations` is from {who!r}, not one of {', '.join(_SHAREGPT_ROLES)}"
            )
        _refuse_more(turn, ("from", "value"), f"turn {number} of `conversations`")
        messages.append(_message(_SHAREGPT_ROLES[who], _text(turn.get("value"), f"conversations[{number}].value")))
    return messages


def _preference(row: Row) -> dict[str, Any]:
    """Read a pair with its prompt apart, or with the prompt as what both conversations begin with."""
    chosen = _side(row.get("chosen"), "chosen", "assistant")
    rejected = _side(row.get("rejected"), "rejected", "assistant")
    shared = _common_start(chosen, rejected)
    given = row.get("prompt")
    before = [] if given is None else _side(given, "prompt", "user")
    # Some data sets repeat the prompt in front of both answers, and some have nothing else.
    prompt = shared if shared[: len(before)] == before else before + shared
    if not prompt:
        raise ValueError("there is no `prompt`, and `chosen` and `rejected` don't begin with the same turns")
    return {"prompt": prompt, "chosen": chosen[len(shared) :], "rejected": rejected[len(shared) :]}


def _common_start(left: Messages, right: Messages) -> Messages:
    """Return the turns that both begin with, at least one of each left over."""
    shared: Messages = []
    for mine, other in zip(left[:-1], right[:-1], strict=False):
        if mine != other:
            break
        shared.append(mine)
    return shared


def _side(value: Any, key: str, role: str) -> Messages:
    """Read messages, or a text as the one message of `role`."""
    return [_message(role, value)] if isinstance(value, str) else _messages(value, key)


def _messages(value: Any, key: str) -> Messages:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"`{key}` is no list of messages")
    for number, message in enumerate(value, start=1):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in _ROLES:
            raise ValueError(f"message {number} of `{key}` has the role {role!r}, not one of {', '.join(_ROLES)}")
        _refuse_more(message, ("role", "content"), f"message {number} of `{key}`")
    return [
        _message(message["role"], _text(message.get("content"), f"{key}[{number}].content"))
        for number, message in enumerate(value, start=1)
    ]


def _refuse_more(turn: Row, known: tuple[str, ...], where: str) -> None:
    """Refuse what would be lost without a word, such as tool calls; keys without a value say nothing."""
    more = [key for key, value in turn.items() if key not in known and value not in (None, "", [], {})]
    if more:
        raise ValueError(f"{where} has `{more[0]}` beside {' and '.join(known)}, which can't be kept")


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _label(value: Any) -> str:
    """Read a label's name; `datasets` often has the number of a class there."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value, "label")


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"`{key}` is {'missing' if value is None else type(value).__name__}, not a text")
    return value
