"""`contamination@1`: no item on the training side rehearses a question that evaluation will ask."""

from __future__ import annotations

from collections.abc import Iterable

from data_catalog.records import Item, Kind, Split, Verdict
from data_catalog.text import Phrases, ngrams, words
from generators.filters.base import failed, passed, question_of, text_of

CHECK = "contamination@1"


class EvaluationQuestions:
    """What must not be rehearsed.

    Args:
        questions: of evaluation suites: compared as a whole and by runs of `ngram` words.
        held_out: questions of the evaluation split: compared as a whole only. They were written by the same templates
            as the training questions, so that runs of words in common say nothing.
        ngram: words in a row that may not be shared, a Chinese character being a word; 0 compares whole questions only.
    """

    def __init__(self, questions: Iterable[str], held_out: Iterable[str], *, ngram: int) -> None:
        suites = [words(question) for question in questions]
        self._ngram = ngram
        self._whole = {tuple(asked) for asked in [*suites, *(words(question) for question in held_out)] if asked}
        self._runs = {run for asked in suites for run in ngrams(asked, ngram)}
        self._phrases = Phrases(suites)

    def fault(self, question: str) -> str:
        """Return what a training question shares with an evaluation question, or an empty string."""
        asked = words(question)
        if tuple(asked) in self._whole:
            return "an evaluation question"
        shared = ngrams(asked, self._ngram) & self._runs
        return f"shares {' '.join(min(shared))!r} with an evaluation question" if shared else ""

    def fault_of_text(self, text: str) -> str:
        """Return whether a text contains a whole evaluation question."""
        return "contains an evaluation question" if self._phrases.inside(words(text)) else ""


def check(item: Item, questions: EvaluationQuestions) -> Verdict:
    """Return whether a training item rehearses no evaluation question; evaluation items pass."""
    if item.split is Split.EVALUATION:
        return passed(item, CHECK)
    if item.kind is Kind.TEXT:
        fault = questions.fault_of_text(text_of(item))
    else:
        asked = [question_of(item), *(question for question, _ in item.meta.get("exchanges", ()))]
        fault = next(filter(None, map(questions.fault, asked)), "")
    return failed(item, CHECK, fault) if fault else passed(item, CHECK)
