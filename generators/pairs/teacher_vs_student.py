"""What the student should have said against what it did say: the accepted answer over its own wrong one.

For a question with a verified answer, a sample that agrees with it is right and one that a check or the judge refused
is wrong. For a question that the documents don't answer, whatever is not an abstention is wrong. The rejected answers
are those of the current student (Tülu 3, arXiv 2411.15124, section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from data_catalog.records import Item, Outcome, Verdict
from generators.filters.base import failed, passed, unscored
from generators.pairs.base import Candidate, Sampled, differ, pair

NAME = "teacher_vs_student@1"
REFUSED = "refused@1"
"""The check that the rejected answer was found wrong."""


def is_right(sample: Sampled, *, abstains: Callable[[str], bool]) -> bool:
    """Say whether an answer agrees with the verified one, or abstains where that is right."""
    if sample.question.answerable:
        return not differ(sample.text, sample.question.answer)
    return abstains(sample.text)


def wrong_looking(sampled: Iterable[Sampled], *, abstains: Callable[[str], bool]) -> list[Sampled]:
    """Return the first whole answer of each question that is not right on sight.

    An abstention on an answerable question counts as wrong; on an unanswerable one it is right.
    """
    found: dict[str, Sampled] = {}
    for sample in sampled:
        if sample.text and sample.question.text not in found and not is_right(sample, abstains=abstains):
            found[sample.question.text] = sample
    return list(found.values())


def candidates(wrong: Iterable[Sampled], said: Mapping[str, Verdict]) -> list[Candidate]:
    """Return a pair for each wrong-looking answer, with the verdict whether it was found wrong.

    Args:
        wrong: one per question.
        said: sample request key to what a check or the judge said of that answer; one that is not in it needs neither.
    """
    found = []
    for sample in wrong:
        question, key = sample.question, sample.request.key
        item = pair(NAME, question, chosen=question.answer, rejected=sample.text, keys=[key])
        found.append(Candidate(item, None, (refused(item, said.get(key)),)))
    return found


def refused(item: Item, said: Verdict | None) -> Verdict:
    """Turn the verdict on a rejected answer into one on its pair, which is good where the answer is not."""
    if said is None:
        return passed(item, REFUSED)
    keys = said.request_keys
    match said.outcome:
        case Outcome.FAILED:
            return passed(item, REFUSED, keys=keys)
        case Outcome.PASSED:
            return failed(item, REFUSED, "the judge finds the rejected answer right", keys=keys)
        case Outcome.UNSCORED:
            return unscored(item, REFUSED, said.reason, keys=keys)
