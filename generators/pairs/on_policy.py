"""Both answers are the student's own: one that agrees with the accepted answer over one that was found wrong.

Only a question on which the student is of two minds gives a pair; what it never gets right is nothing to prefer
(Self-Rewarding, arXiv 2401.10020, section 2; Tülu 3, arXiv 2411.15124, section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from data_catalog.records import Verdict
from generators.pairs.base import Candidate, Sampled, pair
from generators.pairs.teacher_vs_student import is_right, refused

NAME = "on_policy@2"
"""Pairs of version 1 preferred the accepted answer itself; they are called `teacher_vs_student` now."""


def candidates(
    sampled: Iterable[Sampled],
    wrong: Iterable[Sampled],
    said: Mapping[str, Verdict],
    *,
    abstains: Callable[[str], bool],
) -> list[Candidate]:
    """Return a pair for each question with a right and a wrong-looking answer, and whether that was found wrong.

    Args:
        sampled: all answers; the first right one of a question is chosen.
        wrong: wrong-looking ones, one per question.
        said: sample request key to what a check or the judge said of that answer; one that is not in it needs neither.
        abstains: whether a text declines to answer.
    """
    right: dict[str, Sampled] = {}
    for sample in sampled:
        if sample.text and sample.question.text not in right and is_right(sample, abstains=abstains):
            right[sample.question.text] = sample
    found = []
    for rejected in wrong:
        chosen = right.get(rejected.question.text)
        if chosen is None:
            continue
        keys = [chosen.request.key, rejected.request.key]
        item = pair(NAME, rejected.question, chosen=chosen.text, rejected=rejected.text, keys=keys)
        found.append(Candidate(item, None, (refused(item, said.get(rejected.request.key)),)))
    return found
