"""Enough of Go's text/template to render what we write for Ollama: made from its documentation, not from our writer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_ACTION = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)


def render(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """Render with Ollama's variables: .System (what system messages say) and .Messages (all of them)."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    data = {
        "System": system,
        "Messages": [{"Role": message["role"], "Content": message["content"]} for message in messages],
    }
    tokens = iter(_tokens(template))
    text, ended_by = _block(list(_parse(tokens)), data), next(tokens, None)
    assert ended_by is None
    return text


def _tokens(template: str) -> Iterator[tuple[str, str]]:
    position = 0
    for action in _ACTION.finditer(template):
        if action.start() > position:
            yield "text", template[position : action.start()]
        yield "action", action[1]
        position = action.end()
    if position < len(template):
        yield "text", template[position:]


def _parse(tokens: Iterator[tuple[str, str]], *, inside: bool = False) -> Iterator[Any]:
    for kind, value in tokens:
        if kind == "text":
            yield kind, value
        elif value == "end" or value == "else" or value.startswith("else if "):
            assert inside, f"{value} without its beginning"
            yield "stop", value
            return
        elif value.startswith("if "):
            yield "if", _branches(value.removeprefix("if "), tokens)
        elif value.startswith("range "):
            body = list(_parse(tokens, inside=True))
            assert body.pop() == ("stop", "end")
            yield "range", (value.removeprefix("range "), body)
        else:
            yield "value", value
    assert not inside, "an end is missing"


def _branches(condition: str, tokens: Iterator[tuple[str, str]]) -> list[tuple[str, list[Any]]]:
    found = []
    while True:
        body = list(_parse(tokens, inside=True))
        _, stop = body.pop()
        found.append((condition, body))
        if stop == "end":
            return found
        condition = stop.removeprefix("else if ") if stop != "else" else "true"


def _block(nodes: Sequence[Any], data: Mapping[str, Any]) -> str:
    text = ""
    for kind, value in nodes:
        if kind == "text":
            text += value
        elif kind == "value":
            text += str(_value(value, data))
        elif kind == "range":
            text += "".join(_block(value[1], entry) for entry in _value(value[0], data))
        else:
            chosen: Sequence[Any] = next((body for condition, body in value if _holds(condition, data)), [])
            text += _block(chosen, data)
    return text


def _holds(condition: str, data: Mapping[str, Any]) -> bool:
    if condition == "true":
        return True
    if condition.startswith("eq "):
        left, right = condition.removeprefix("eq ").split(" ", 1)
        return bool(_value(left, data) == _value(right, data))
    return bool(_value(condition, data))


def _value(expression: str, data: Mapping[str, Any]) -> Any:
    return json.loads(expression) if expression.startswith('"') else data[expression.removeprefix(".")]
