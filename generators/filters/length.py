"""`length@1`: neither question nor answer nor text is longer than the configuration allows."""

from __future__ import annotations

from data_catalog.records import Item, Verdict
from generators.filters.base import exchanges_of, failed, passed, text_of

CHECK = "length@1"


def check(item: Item, *, max_question_chars: int, max_answer_chars: int, max_text_chars: int) -> Verdict:
    """Return whether an item keeps the limits: every question and answer of a conversation, or the generated text."""
    parts = [("text", text_of(item), max_text_chars)]
    for exchange in exchanges_of(item):
        parts += [("question", exchange.question, max_question_chars), ("answer", exchange.said, max_answer_chars)]
    for name, text, limit in parts:
        if len(text) > limit:
            return failed(item, CHECK, f"{name} over {limit} characters", score=float(len(text)))
    return passed(item, CHECK)
