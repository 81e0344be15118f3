"""Pairwise: a judge says which of two answers is better, asked in both orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from evaluation.samples import Sample
from evaluation.scorers.judged import REASON, JudgeQuestion, JudgeScorer
from evaluation.scorers.parts import Answer

FIRST, SECOND, TIE = "first", "second", "tie"
SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {"reason": REASON, "better": {"type": "string", "enum": [FIRST, SECOND, TIE]}},
    "required": ["reason", "better"],
    "additionalProperties": False,
}


class Pairwise(JudgeScorer):
    """A judge says which answer is better: the model's, or its opponent's. The score is 1, 0, or 0.5 for a tie.

    Each pair is judged twice, in both orders, and only what both say counts: disagreement is a tie. Equal answers are a
    tie that nobody is asked about. The mean is the win rate, a tie counting half; a model against itself has 0.5.

    Source: Zheng et al., arXiv 2306.05685, section 3.4 (position bias, swapped positions).
    """

    name: Literal["pairwise"] = "pairwise"
    against: Literal["base", "reference"] = "base"
    """The opponent: the base model's answer to the same prompt, or the first of the row's `answers`."""

    def refusal(self, sample: Sample) -> str:
        """Refuse a sample without the opponent."""
        if self.against == "reference" and not (sample.answers and sample.answers[0].strip()):
            return f"scorer `{self.name}` with `against: reference` needs `answers`"
        return super().refusal(sample)

    def questions(self, sample: Sample, answer: str, opponent: str) -> tuple[JudgeQuestion, ...]:
        """Return the question in both orders: the answer first, then the opponent first."""
        if answer.strip() == opponent.strip():
            return ()
        reference = sample.answers[0] if sample.answers and self.against == "base" else ""
        return tuple(
            JudgeQuestion(
                "pairwise",
                {
                    "question": sample.question,
                    "first": first,
                    "second": second,
                    "reference": reference,
                    "criteria": self.criteria_of(sample),
                },
                SCHEMA,
            )
            for first, second in ((answer, opponent), (opponent, answer))
        )

    def weigh(self, answer: Answer, replies: Sequence[Mapping[str, str]]) -> float:
        """Return 1 where both orders prefer the answer, 0 where both prefer the opponent, else 0.5."""
        return verdict(replies)


def verdict(replies: Sequence[Mapping[str, str]]) -> float:
    """Return what the replies in both orders come to for the answer that is shown first in the first of them."""
    if not replies:
        return 0.5
    in_order, swapped = (reply["better"] for reply in replies)
    if (in_order, swapped) == (FIRST, SECOND):
        return 1.0
    return 0.0 if (in_order, swapped) == (SECOND, FIRST) else 0.5
