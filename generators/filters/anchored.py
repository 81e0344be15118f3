"""`anchored@1`: a grounded question and its answer name no number and no name that the chunk does not have.

A teacher that misreads mostly writes a name or a number that stands nowhere. No judge is needed to see that.
"""

from __future__ import annotations

from data_catalog.records import Chunk, Item, Verdict
from data_catalog.text import words
from generators.filters.base import answer_of, failed, passed, question_of, source_text, unscored
from generators.filters.faithful import names, numbers

CHECK = "anchored@1"
BARE_WORDS = 3
"""An answer of so few words has no sentence to begin: its first capital is a name's."""
_NO_NAMES = {"yes", "no"}


def check(item: Item, chunk: Chunk | None) -> Verdict:
    """Return whether every number and name of question and answer stands in the chunk or its headings."""
    if chunk is None:
        return unscored(item, CHECK, "its chunk is not there any more")
    headings = "\n".join((*chunk.heading_path, chunk.heading))
    stated = set(words(f"{headings}\n{source_text(chunk)}"))
    question, answer = question_of(item), answer_of(item)
    for number in sorted(numbers(question) | numbers(answer)):
        if number not in stated:
            return failed(item, CHECK, f"the number {number} is not in the chunk")
    for name in sorted(names(question, headings) | names(answer, headings) | _bare_name(answer)):
        if not set(words(name)) <= stated:
            return failed(item, CHECK, f"the name {name} is not in the chunk")
    return passed(item, CHECK)


def _bare_name(answer: str) -> set[str]:
    said = answer.split()
    if not 0 < len(said) <= BARE_WORDS or not said[0][0].isupper() or words(said[0]) == []:
        return set()
    return set() if set(words(said[0])) <= _NO_NAMES else {said[0]}
