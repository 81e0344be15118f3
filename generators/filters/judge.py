"""`judge@1`: the teacher, shown the chunk itself (not a summary of it), says whether the answer is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_catalog.records import Chunk, Completion, Item, Request, Verdict
from generators.filters.base import (
    CheckPrompt,
    answer_text,
    exchanges_of,
    failed,
    passed,
    unscored,
    with_chunks,
)
from generators.recipes.answers import ParseFailure, json_object

CHECK = "judge@1"
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    # The reason first: the verdict is then written with it in view.
    "properties": {
        "reason": {"type": "string", "maxLength": 300},
        "verdict": {"type": "string", "enum": ["yes", "no"]},
    },
    "required": ["reason", "verdict"],
    "additionalProperties": False,
}


def judge_requests(
    items: Sequence[Item], chunks: Mapping[str, Chunk], prompt: CheckPrompt
) -> dict[str, tuple[Request, ...]]:
    """Return the requests of each item whose chunk is there, by item id: one per question that it answers."""
    return {
        item.id: tuple(
            prompt.request(item, chunk, question=exchange.question, answer=exchange.said)
            for exchange in exchanges_of(item)
        )
        for item, chunk in with_chunks(items, chunks)
    }


def judge_verdicts(
    items: Sequence[Item], requests: Mapping[str, Sequence[Request]], completions: Mapping[str, Completion]
) -> list[Verdict]:
    """Return a verdict for each item: PASSED only if every answer is right; one that can't be read is UNSCORED."""
    return [_verdict(item, requests.get(item.id, ()), completions) for item in items]


def _verdict(item: Item, requests: Sequence[Request], completions: Mapping[str, Completion]) -> Verdict:
    if not requests:
        return unscored(item, CHECK, "its chunk is not there any more")
    keys = [request.key for request in requests]
    missing = ""
    for key in keys:
        answer = answer_text(completions, key)
        parsed = answer if isinstance(answer, ParseFailure) else json_object(answer, SCHEMA)
        if isinstance(parsed, ParseFailure):
            missing = parsed.reason
        elif parsed["verdict"] == "no":
            return failed(item, CHECK, f"the judge: {parsed['reason']}", keys=keys)
    return unscored(item, CHECK, f"the judge: {missing}", keys=keys) if missing else passed(item, CHECK, keys=keys)
