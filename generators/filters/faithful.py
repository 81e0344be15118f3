"""`faithful@1`: a paraphrase keeps the numbers and names of its sentence, brings no number of its own, and differs."""

from __future__ import annotations

from data_catalog.records import Item, Verdict
from data_catalog.text import normalise_answer, words
from generators.filters.base import failed, passed, text_of
from generators.names import names, numbers
from generators.prompts import neutralise

CHECK = "faithful@1"


def check(item: Item) -> Verdict:
    """Return whether a paraphrase says what its source (`meta`: sentence, heading) says, as far as can be counted.

    Numbers may also come from the heading, and so may the name that replaces an "it".
    """
    heading, sentence = (neutralise(str(item.meta.get(name, ""))).text for name in ("heading", "sentence"))
    text = text_of(item)
    if normalise_answer(text) == normalise_answer(sentence):
        return failed(item, CHECK, "the same words as its source")
    said = set(words(text))
    lost = numbers(sentence) - said
    if lost:
        return failed(item, CHECK, f"lost the number {min(lost)}")
    brought = numbers(text) - numbers(sentence) - numbers(heading)
    if brought:
        return failed(item, CHECK, f"brought the number {min(brought)}")
    gone = sorted(name for name in names(sentence, heading) if not set(words(name)) <= said)
    return failed(item, CHECK, f"lost the name {gone[0]}") if gone else passed(item, CHECK)
