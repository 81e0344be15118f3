"""From a completion to an answer: its thought taken off and kept apart, the rest whole, or the reason why it is not.

A reasoning model thinks aloud before it answers. What stands between its marks is no part of the answer, and a thought
that never ends has none: that is a failed request, whatever text there is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_catalog.records import Completion
from data_catalog.text import normalise_answer, words
from generators.prompts import neutralise

MIN_TEXT_WORDS = 12
"""A shorter text teaches less than the sentence that it came from."""

_FENCED = re.compile(r"```[a-zA-Z]*\s*\n(.*?)\n?\s*```", re.DOTALL)
_QUOTES = {'"': '"', "\u201c": "\u201d", "\u300c": "\u300d"}

_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_OPENING_THOUGHT = re.compile(
    r"\s*(?:<(?P<tag>thinking|thought|reasoning)>(?P<tagged>.*?)</(?P=tag)>|\[THINK\](?P<bracketed>.*?)\[/THINK\])",
    re.DOTALL,
)
"""Other families' marks, of a thought that opens the answer: elsewhere they may be what the answer is about."""
_UNCLOSED = re.compile(r"<think>|\A\s*(?:<(?:thinking|thought|reasoning)>|\[THINK\])")


@dataclass(frozen=True)
class ParseFailure:
    """Why an answer made no item. The completion is kept; a later parser may do better."""

    reason: str
    declined: bool = False
    """The teacher says that there is nothing to ask about; asking again would be a waste."""


class Answer(str):
    """A whole answer: text without thoughts and outer white space, never empty."""

    __slots__ = ("thought",)
    thought: str
    """What the model thought before it answered; empty where it did not think aloud."""

    def __new__(cls, text: str, thought: str = "") -> Answer:
        """Return the answer `text` with its thought."""
        answer = super().__new__(cls, text)
        answer.thought = thought
        return answer


def whole_answer(completion: Completion) -> Answer | ParseFailure:
    """Return a completion's answer, or why it can't be used."""
    unfinished = _UNCLOSED.search(_without_thoughts(completion.text)[0])
    if completion.finish_reason == "length":
        still = " while it was still thinking: raise max_tokens" if unfinished else ""
        return ParseFailure(f"cut off at max_tokens{still}")
    if completion.finish_reason != "stop":
        return ParseFailure(f"ended by {completion.finish_reason}")
    if unfinished:
        return ParseFailure(f"a {unfinished[0].strip()} that is never closed")
    text, thoughts = _without_thoughts(completion.text)
    # Chat templates that open the thought inside the prompt leave only its end in the answer.
    before, _, text = text.rpartition("</think>")
    thoughts += [before.removesuffix("</think>")] if before else []
    thought = "\n\n".join(stripped for one in thoughts if (stripped := one.strip()))
    if not text.strip():
        return ParseFailure("a thought without an answer" if thought else "empty answer")
    return Answer(text.strip(), thought)


def _without_thoughts(text: str) -> tuple[str, list[str]]:
    """Return a text without its closed thoughts, and them."""
    thoughts = []
    if opening := _OPENING_THOUGHT.match(text):
        thoughts.append(opening["tagged"] or opening["bracketed"] or "")
        text = text[opening.end() :]
    # Behind the last end no thought is closed: looking for one from each beginning there would take quadratic time.
    closed, end, rest = text.rpartition("</think>")
    thoughts += _THOUGHT.findall(closed + end)
    return _THOUGHT.sub("", closed + end) + rest, thoughts


def json_object(answer: str, schema: Mapping[str, Any]) -> dict[str, str] | ParseFailure:
    """Return the answer's JSON object of strings, which may stand in a Markdown fence but beside nothing else.

    Args:
        answer: the whole answer.
        schema: a JSON schema of an object whose properties are all required strings; `maxLength` is not checked here
            (the length filter is), `enum` is.
    """
    value = _parsed_object(answer, schema)
    if isinstance(value, ParseFailure):
        return value
    properties: Mapping[str, Mapping[str, Any]] = schema["properties"]
    for name, rule in properties.items():
        if not isinstance(value[name], str) or not value[name].strip():
            return ParseFailure(f"{name} is no text")
        if "enum" in rule and value[name] not in rule["enum"]:
            return ParseFailure(f"{name} is none of {', '.join(rule['enum'])}")
    return {name: value[name].strip() for name in properties}


def object_of_texts(**limits: int) -> Mapping[str, Any]:
    """Return the schema of an object of texts that are all required, each with its most characters, in this order.

    The order matters: what stands first is written first, and the rest with it in view.
    """
    return {
        "type": "object",
        "properties": {name: {"type": "string", "minLength": 1, "maxLength": most} for name, most in limits.items()},
        "required": list(limits),
        "additionalProperties": False,
    }


def all_alike(texts: Mapping[str, str]) -> bool:
    """Say whether a teacher wrote the same into every field, which is how it says that there is nothing to ask."""
    return len({normalise_answer(text) for text in texts.values()}) == 1


def neutral(texts: Mapping[str, str]) -> dict[str, str]:
    """Return an answer's texts with their control tokens neutralised."""
    return {name: neutralise(text).text for name, text in texts.items()}


def json_texts(answer: str, schema: Mapping[str, Any]) -> list[str] | ParseFailure:
    """Return the texts of an answer that is a JSON object with one list of texts, as it came, equal ones once.

    Args:
        answer: the whole answer.
        schema: a JSON schema of an object whose one property is an array of strings; `maxItems` is obeyed.
    """
    value = _parsed_object(answer, schema)
    if isinstance(value, ParseFailure):
        return value
    ((name, rule),) = schema["properties"].items()
    texts = value[name]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return ParseFailure(f"{name} is no list of texts")
    return list(dict.fromkeys(" ".join(text.split()) for text in texts if text.strip()))[: rule.get("maxItems")]


def _parsed_object(answer: str, schema: Mapping[str, Any]) -> dict[str, Any] | ParseFailure:
    fenced = _FENCED.fullmatch(answer)
    try:
        value = json.loads(fenced[1] if fenced else answer, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return ParseFailure("not one JSON object")
    properties: Mapping[str, Any] = schema["properties"]
    if not isinstance(value, dict):
        return ParseFailure("JSON, but no object")
    if value.keys() != properties.keys():
        return ParseFailure(f"keys {', '.join(sorted(value)) or 'none'} instead of {', '.join(properties)}")
    return value


def one_line(answer: str) -> str | ParseFailure:
    """Return an answer that must be one sentence or question: one line, without a pair of outer quotes."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if len(lines) != 1:
        return ParseFailure("more than one line")
    line = lines[0]
    if len(line) > 2 and _QUOTES.get(line[0]) == line[-1] and line.count(line[0]) <= 2:
        line = line[1:-1].strip()
    return line or ParseFailure("empty answer")


def long_text(answer: str) -> str | ParseFailure:
    """Return an answer that must be a text of its own, out of its Markdown fence, control tokens neutralised.

    A teacher that has nothing to write says `NONE` (in Chinese `无`).
    """
    fenced = _FENCED.fullmatch(answer)
    text = neutralise(fenced[1] if fenced else answer).text.strip()
    said = words(text)
    if said in (["none"], ["无"]):
        return ParseFailure("the teacher finds nothing to write", declined=True)
    if len(said) < MIN_TEXT_WORDS:
        return ParseFailure(f"fewer than {MIN_TEXT_WORDS} words")
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value
