"""`length@1`: neither question nor answer nor text is longer than the configuration allows."""

from __future__ import annotations

from data_catalog.records import Item, Verdict
from generators.filters.base import answer_of, failed, passed, question_of, text_of

CHECK = "length@1"


def check(item: Item, *, max_question_chars: int, max_answer_chars: int) -> Verdict:
    """Return whether an item keeps the limits; a generated text counts as an answer."""
    parts = [
        ("question", question_of(item), max_question_chars),
        ("answer", answer_of(item), max_answer_chars),
        ("text", text_of(item), max_answer_chars),
    ]
    for name, text, limit in parts:
        if len(text) > limit:
            return failed(item, CHECK, f"{name} over {limit} characters", score=float(len(text)))
    return passed(item, CHECK)
