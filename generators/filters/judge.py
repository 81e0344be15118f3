"""`judge@1`: the teacher, shown the chunk itself (not a summary of it), says whether the answer is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_catalog.records import Chunk, Completion, Item, Request, Verdict
from generators.filters.base import (
    CheckPrompt,
    answer_of,
    answer_text,
    failed,
    passed,
    question_of,
    unscored,
    with_chunks,
)
from generators.recipes.base import ParseFailure, json_object

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


def judge_requests(items: Sequence[Item], chunks: Mapping[str, Chunk], prompt: CheckPrompt) -> dict[str, Request]:
    """Return one request for each item whose chunk is there, by item id."""
    return {
        item.id: prompt.request(item, chunk, question=question_of(item), answer=answer_of(item))
        for item, chunk in with_chunks(items, chunks)
    }


def judge_verdicts(
    items: Sequence[Item], requests: Mapping[str, Request], completions: Mapping[str, Completion]
) -> list[Verdict]:
    """Return a verdict for each item; an answer that can't be read is UNSCORED."""
    return [_verdict(item, requests.get(item.id), completions) for item in items]


def _verdict(item: Item, request: Request | None, completions: Mapping[str, Completion]) -> Verdict:
    if request is None:
        return unscored(item, CHECK, "its chunk is not there any more")
    key = request.key
    answer = answer_text(completions, key)
    parsed = answer if isinstance(answer, ParseFailure) else json_object(answer, SCHEMA)
    if isinstance(parsed, ParseFailure):
        return unscored(item, CHECK, f"the judge: {parsed.reason}", keys=[key])
    if parsed["verdict"] == "yes":
        return passed(item, CHECK, keys=[key])
    return failed(item, CHECK, f"the judge: {parsed['reason']}", keys=[key])
