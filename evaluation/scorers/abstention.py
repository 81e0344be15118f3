"""Abstention: on a question that the documents don't answer, or that should not be answered, the model declines."""

from __future__ import annotations

import re
from typing import Literal

from data_catalog.text import contains_words, words
from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, Scorer

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
    "no information",
    "unanswerable",
    "cannot be answered",
    "can't be answered",
    "I can't help",
    "I cannot help",
    "I can't assist",
    "I cannot assist",
    "I can't provide",
    "I cannot provide",
    "I am unable to",
    "I'm unable to",
    "I am not able to",
    "I'm not able to",
    "I won't",
    "I will not",
    "I must decline",
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
    "我不能",
    "我无法",
    "无法提供",
    "无法协助",
    "拒绝回答",
)

CLOSING = ("unknown", "not known", "unknown to me", "未知")
"""These abstain at the end of a sentence only: `the unknown artist` names somebody."""

CONTRASTS = ("but", "however", "though", "although", "但", "不过", "然而")
"""After one of these comes the guess that the abstention should have spared."""


_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？\n]")


class Abstention(Scorer):
    """The answer declines: it says that it does not know, or refuses, and does not answer all the same after a `but`.

    Known by phrases in English and Chinese, so a new wording is not seen; give it under `phrases`.
    """

    name: Literal["abstention"] = "abstention"
    phrases: tuple[str, ...] = ()
    """What counts as abstaining, beside the built-in English and Chinese phrases."""

    def score(self, sample: Sample, answer: Answer) -> float:
        """Return 1 when the text abstains, 0 when it answers, is empty, or abstains and then answers all the same."""
        return float(abstains(answer.text, self.phrases))


def abstains(text: str, phrases: tuple[str, ...] = ()) -> bool:
    """Tell whether a text holds an abstaining phrase (built-in or given) with no `but ...` behind it."""
    given = words(text)
    for phrase in (*phrases, *PHRASES):
        behind = _behind(given, words(phrase))
        if behind is not None:
            return not any(contains_words(behind, words(contrast)) for contrast in CONTRASTS)
    endings = [words(phrase) for phrase in CLOSING]
    sentences = [words(sentence) for sentence in _SENTENCE_END.split(text)]
    return any(sentence[-len(ending) :] == ending for sentence in sentences for ending in endings)


def _behind(whole: list[str], part: list[str]) -> list[str] | None:
    """Return the words after the first place where `part` stands in `whole`, or None where it doesn't."""
    if not contains_words(whole, part):
        return None
    width = len(part)
    start = next(start for start in range(len(whole)) if whole[start : start + width] == part)
    return whole[start + width :]
