"""Rubric: a judge gives points for how far an answer meets written criteria."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from evaluation.samples import Sample
from evaluation.scorers.judged import REASON, JudgeQuestion, JudgeScorer
from evaluation.scorers.parts import Answer


class Rubric(JudgeScorer):
    """A judge, shown question, answer, criteria and the expected answer if there is one, gives 1 to `scale` points.

    The score is (points - 1) / (scale - 1). The judge gives its reason before its points.

    Source: Zheng et al., Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena (arXiv 2306.05685), section 3.1: single
    answer grading, reference-guided where there is a reference.
    """

    name: Literal["rubric"] = "rubric"
    scale: int = Field(default=5, ge=2, le=10)
    """The most points."""

    def questions(self, sample: Sample, answer: str, opponent: str = "") -> tuple[JudgeQuestion, ...]:
        """Return the one question."""
        return (
            JudgeQuestion(
                "rubric",
                {
                    "question": sample.question,
                    "answer": answer,
                    "reference": sample.answers[0] if sample.answers else "",
                    "criteria": self.criteria_of(sample),
                    "scale": str(self.scale),
                },
                {
                    "type": "object",
                    "properties": {
                        "reason": REASON,
                        "points": {"type": "string", "enum": [str(points) for points in range(1, self.scale + 1)]},
                    },
                    "required": ["reason", "points"],
                    "additionalProperties": False,
                },
            ),
        )

    def weigh(self, answer: Answer, replies: Sequence[Mapping[str, str]]) -> float:
        """Return the points as a share of what could be won."""
        return (int(replies[0]["points"]) - 1) / (self.scale - 1)
