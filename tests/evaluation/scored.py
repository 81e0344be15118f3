"""A sample and its score, in a line."""

from __future__ import annotations

from data_catalog.records import Completion, Message
from evaluation.samples import Sample
from evaluation.scorers import Scorer, score
from evaluation.scorers.parts import SampleScoreParts


def sample(*answers: str, **meta: object) -> Sample:
    """A sample with these expected answers and further fields."""
    return Sample(id="s", messages=(Message(role="user", content="?"),), answers=answers, meta=meta)


def parts(scorer: Scorer, text: str, *answers: str, finish: str = "stop", **meta: object) -> SampleScoreParts:
    """Score one answer as a suite would, after the checks that a suite makes."""
    asked = sample(*answers, **meta)
    scorer.prepare()
    assert not scorer.refusal(asked)
    return score(asked, Completion(request_key="r", text=text, finish_reason=finish), scorer)


def scored(scorer: Scorer, text: str, *answers: str, finish: str = "stop", **meta: object) -> float | None:
    """Return the score of one answer."""
    return parts(scorer, text, *answers, finish=finish, **meta).score
