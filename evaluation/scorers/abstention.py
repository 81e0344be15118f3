"""Abstention: on a question that the documents don't answer, the right answer says so."""

from __future__ import annotations

from data_catalog.text import contains_words, words
from evaluation.samples import Sample
from evaluation.specs import SuiteSpec

PHRASES = (
    "I do not know",
    "I don't know",
    "I am not sure",
    "I'm not sure",
    "I cannot answer",
    "I can't answer",
    "I have no information",
    "the text does not say",
    "the text doesn't say",
    "does not say",
    "doesn't say",
    "does not mention",
    "doesn't mention",
    "does not state",
    "not stated",
    "not mentioned",
    "not specified",
    "not known",
    "no information",
    "unknown",
    "unanswerable",
    "cannot be answered",
    "我不知道",
    "不知道",
    "我不清楚",
    "不清楚",
    "无法回答",
    "无法确定",
    "未提及",
    "没有提及",
    "没有提到",
    "未提到",
    "没有说明",
    "未说明",
    "没有相关信息",
)

CONTRASTS = ("but", "however", "though", "although", "但", "不过", "然而")
"""After one of these comes the guess that the abstention should have spared."""


def score(sample: Sample, text: str, spec: SuiteSpec) -> float:
    """Return 1 when the text abstains, 0 when it answers, is empty, or abstains and then answers all the same."""
    return float(abstains(text, spec.abstention_phrases))


def abstains(text: str, phrases: tuple[str, ...] = ()) -> bool:
    """Tell whether a text holds an abstaining phrase (built-in or given) with no `but ...` behind it."""
    given = words(text)
    for phrase in (*phrases, *PHRASES):
        behind = _behind(given, words(phrase))
        if behind is not None:
            return not any(contains_words(behind, words(contrast)) for contrast in CONTRASTS)
    return False


def _behind(whole: list[str], part: list[str]) -> list[str] | None:
    """Return the words after the first place where `part` stands in `whole`, or None where it doesn't."""
    if not contains_words(whole, part):
        return None
    width = len(part)
    start = next(start for start in range(len(whole)) if whole[start : start + width] == part)
    return whole[start + width :]
