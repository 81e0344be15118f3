"""Scorers: a sample and what a model answered in, an outcome and a score out. One file each; this union lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from data_catalog.records import Completion, Likelihood, Outcome
from evaluation.samples import Sample
from evaluation.scorers.abstention import Abstention
from evaluation.scorers.bleu import Bleu
from evaluation.scorers.chrf import Chrf
from evaluation.scorers.classification import Classification
from evaluation.scorers.contains import Contains
from evaluation.scorers.exact_match import ExactMatch
from evaluation.scorers.groundedness import Groundedness
from evaluation.scorers.json_schema import JsonSchema
from evaluation.scorers.length import Length
from evaluation.scorers.lm_eval import LmEval
from evaluation.scorers.multiple_choice import MultipleChoice
from evaluation.scorers.numeric import Numeric
from evaluation.scorers.pairwise import Pairwise
from evaluation.scorers.parts import Answer, SampleScoreParts, Scorer
from evaluation.scorers.perplexity import Perplexity
from evaluation.scorers.refusal import Refusal
from evaluation.scorers.regex import Regex
from evaluation.scorers.rouge_l import RougeL
from evaluation.scorers.rubric import Rubric
from evaluation.scorers.stop import Stop
from evaluation.scorers.token_f1 import TokenF1

__all__ = ["Answer", "ExactMatch", "SampleScoreParts", "Scorer", "ScorerSpec", "answer_of", "score", "score_answer"]


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
        | Refusal
        | JsonSchema
        | Length
        | Stop
        | MultipleChoice
        | Classification
        | Perplexity
        | Rubric
        | Pairwise
        | LmEval,
        Field(discriminator="name"),
    ],
    BeforeValidator(_scorer_by_name),
]


def score(sample: Sample, completion: Completion | None, scorer: Scorer) -> SampleScoreParts:
    """Score one completion; None, the completion that never came, is UNSCORED and neither right nor wrong."""
    return score_answer(sample, None if completion is None else answer_of([completion], scorer, sample), scorer)


def answer_of(completions: Sequence[Completion], scorer: Scorer, sample: Sample) -> Answer:
    """Return what a scorer looks at: a model's one answer, or the likelihoods of the scorer's continuations."""
    if scorer.continuations(sample):
        return Answer("", likelihoods=tuple(Likelihood.of(completion) for completion in completions))
    (completion,) = completions
    return Answer(completion.text, completion.finish_reason)


def score_answer(sample: Sample, answer: Answer | None, scorer: Scorer) -> SampleScoreParts:
    """Score one answer, if there is one."""
    value = None if answer is None else scorer.score(sample, answer)
    if value is None:
        return SampleScoreParts(Outcome.UNSCORED, None)
    return SampleScoreParts(Outcome.PASSED if value >= 1 else Outcome.FAILED, value)
