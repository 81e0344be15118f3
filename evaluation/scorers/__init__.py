"""Scorers: a sample and what a model answered in, an outcome and a score out. One file each; this union lists them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from data_catalog.records import Completion, Outcome
from evaluation.samples import Sample
from evaluation.scorers.abstention import Abstention
from evaluation.scorers.bleu import Bleu
from evaluation.scorers.chrf import Chrf
from evaluation.scorers.contains import Contains
from evaluation.scorers.exact_match import ExactMatch
from evaluation.scorers.groundedness import Groundedness
from evaluation.scorers.json_schema import JsonSchema
from evaluation.scorers.length import Length
from evaluation.scorers.numeric import Numeric
from evaluation.scorers.parts import Answer, SampleScoreParts, Scorer
from evaluation.scorers.regex import Regex
from evaluation.scorers.rouge_l import RougeL
from evaluation.scorers.stop import Stop
from evaluation.scorers.token_f1 import TokenF1

__all__ = ["Answer", "ExactMatch", "SampleScoreParts", "Scorer", "ScorerSpec", "score"]


def _scorer_by_name(value: Any) -> Any:
    """Let `scorer: contains` stand for `scorer: {name: contains}`."""
    return {"name": value} if isinstance(value, str) else value


ScorerSpec = Annotated[
    Annotated[
        ExactMatch
        | Contains
        | TokenF1
        | Regex
        | Numeric
        | RougeL
        | Bleu
        | Chrf
        | Groundedness
        | Abstention
        | JsonSchema
        | Length
        | Stop,
        Field(discriminator="name"),
    ],
    BeforeValidator(_scorer_by_name),
]


def score(sample: Sample, completion: Completion | None, scorer: Scorer) -> SampleScoreParts:
    """Score one completion; None, the completion that never came, is UNSCORED and neither right nor wrong."""
    if completion is None:
        return SampleScoreParts(Outcome.UNSCORED, None)
    value = scorer.score(sample, Answer(completion.text, completion.finish_reason))
    if value is None:
        return SampleScoreParts(Outcome.UNSCORED, None)
    return SampleScoreParts(Outcome.PASSED if value >= 1 else Outcome.FAILED, value)
