"""`anchored@1`: a grounded question and its answer name no number and no name that the chunk does not have.

A teacher that misreads mostly writes a name or a number that stands nowhere. No judge is needed to see that.
"""

from __future__ import annotations

import re

from data_catalog.records import Chunk, Item, Kind, Verdict
from data_catalog.text import words
from generators.filters.base import answer_of, failed, passed, question_of, source_text, text_of, unscored
from generators.names import bare_name, names, numbers
from generators.sentences import sentences as split_sentences

CHECK = "anchored@1"
_LIST_NUMBER = re.compile(r"^[ \t]*(?:[-*#]+[ \t]*)?(?:Step |Q|第)?\d{1,2}(?:[.)]\s|[:、：]|步)", re.MULTILINE)
_NO_PROSE = re.compile(r"\s*(?:#|\||\*\*[^*]*\*\*:?\s*\Z)")
_LABEL = re.compile(r"\A\s*(?:[-*>]+\s+)?(?:\*\*)?[^\W\d_]{1,12}(?:\*\*)?[:：](?:\*\*)?\s*")


def check(item: Item, chunk: Chunk | None) -> Verdict:
    """Return whether every number and name of question and answer, or of the text, stands in the chunk or headings.

    An instruction (`meta["instruction"]`: a task, with labels and limits of its own) claims nothing, and the answer may
    use its words.
    """
    if chunk is None:
        return unscored(item, CHECK, "its chunk is not there any more")
    headings = "\n".join((*chunk.heading_path, chunk.heading))
    stated = set(words(f"{headings}\n{source_text(chunk)}\n{item.meta.get('instruction', '')}"))
    used_numbers, used_names = _used(item, headings)
    for number in sorted(used_numbers):
        if number not in stated:
            return failed(item, CHECK, f"the number {number} is not in the chunk")
    for name in sorted(used_names):
        if not set(words(name)) <= stated:
            return failed(item, CHECK, f"the name {name} is not in the chunk")
    return passed(item, CHECK)


def _used(item: Item, headings: str) -> tuple[set[str], set[str]]:
    """Return the numbers and the names of what an item says."""
    if item.kind is Kind.TEXT:
        return _used_in_text(text_of(item), headings)
    used_numbers: set[str] = set()
    used_names: set[str] = set()
    for question, answer in item.meta.get("exchanges") or [[question_of(item), answer_of(item)]]:
        claims = [answer] if "instruction" in item.meta else [question, answer]
        used_numbers |= set().union(*map(numbers, claims))
        used_names |= set().union(*(names(claim, headings) for claim in claims)) | bare_name(answer)
    return used_numbers, used_names


def _used_in_text(text: str, headings: str) -> tuple[set[str], set[str]]:
    """Return the numbers of a whole text without its list numbers, and the names in its sentences.

    Headings, table rows and labels (`Question:`) capitalise words that are no names.
    """
    bare = _LIST_NUMBER.sub("", text)
    prose = [line for line in bare.splitlines() if not _NO_PROSE.match(line)]
    sentences = [_LABEL.sub("", span.of(line)) for line in prose for span in split_sentences(line)]
    return numbers(bare), {name for sentence in sentences for name in names(sentence, headings)}
