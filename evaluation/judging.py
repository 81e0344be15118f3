"""How far a judge can be trusted: position bias, length bias, and agreement with what people said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from data_catalog.errors import DataError
from data_catalog.identity import make_id
from data_catalog.records import Message, Record
from data_catalog.text import words
from evaluation.samples import Sample
from evaluation.scorers.judged import JudgeScorer
from evaluation.scorers.pairwise import FIRST, SECOND, TIE, Pairwise, verdict
from evaluation.scorers.parts import Judged
from evaluation.scorers.rubric import Rubric
from evaluation.statistics import mean
from evaluation.suite_rows import read_lines

ERRORS_SHOWN = 10
EQUAL = 1e-9
"""Scores that differ by less are the same."""


class PairwiseBias(NamedTuple):
    """What the replies to pairs of answers show beside who won."""

    won: int
    lost: int
    same: int
    """Equal answers, which nobody was asked about."""
    agreed_ties: int
    disagreed: int
    """Pairs on which the two orders contradict each other, or only one of them is a tie: they count as ties."""
    unscored: int
    first: int
    """Replies that prefer the answer shown first; without position bias half of `sides`."""
    sides: int
    """Replies that prefer one of the two."""
    longer_won: int
    """Decided pairs of different length in which the longer answer won."""
    longer_of: int

    def line(self) -> str:
        """Return it in a sentence."""
        pairs = self.won + self.lost + self.same + self.agreed_ties + self.disagreed + self.unscored
        text = (
            f"judged {pairs:,} pairs: {self.won:,} won, {self.lost:,} lost, {self.agreed_ties + self.same:,} tied, "
            f"{self.disagreed:,} tied because the two orders disagree, {self.unscored:,} unscored"
        )
        if self.sides:
            text += f"; position: {self.first / self.sides:.0%} of {self.sides:,} replies prefer what is shown first"
        if self.longer_of:
            text += f"; length: the longer answer won {self.longer_won:,} of {self.longer_of:,}"
        return text


def pairwise_bias(judged: Sequence[tuple[str, Judged]]) -> PairwiseBias:
    """Count what the replies to (answer, what was said of it) show.

    Source: Zheng et al., arXiv 2306.05685, section 3.3: position bias and verbosity bias. Length is in words.
    """
    count: Counter[str] = Counter()
    for answer, one in judged:
        replies = [reply for reply in one.replies if reply is not None]
        preferred = [reply["better"] for reply in replies]
        count["first"] += preferred.count(FIRST)
        count["sides"] += len(preferred) - preferred.count(TIE)
        outcome = _outcome(one, preferred)
        count[outcome] += 1
        lengths = len(words(answer)), len(words(one.opponent))
        if outcome in ("won", "lost") and lengths[0] != lengths[1]:
            count["longer_of"] += 1
            count["longer_won"] += (lengths[0] > lengths[1]) == (outcome == "won")
    return PairwiseBias(**{name: count[name] for name in PairwiseBias._fields})


def _outcome(judged: Judged, preferred: Sequence[str]) -> str:
    if len(preferred) < len(judged.replies):
        return "unscored"
    if not preferred:
        return "same"
    score = verdict([{"better": better} for better in preferred])
    if score == 0.5:
        return "agreed_ties" if list(preferred) == [TIE, TIE] else "disagreed"
    return "won" if score == 1 else "lost"


def length_correlation(answers: Sequence[str], scores: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation of the scores with the answers' lengths in words; None where it has none.

    Source: Spearman, The Proof and Measurement of Association between Two Things (1904); ties have their mean rank.
    """
    lengths, given = _ranks([len(words(answer)) for answer in answers]), _ranks(scores)
    if len(set(lengths)) < 2 or len(set(given)) < 2:
        return None
    return float(np.corrcoef(lengths, given)[0, 1])


def _ranks(values: Sequence[float]) -> list[float]:
    _, places, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return [float(ends[place] - (counts[place] - 1) / 2) for place in places]


class HumanPreference(Record):
    """A person's word on two answers."""

    question: str = Field(min_length=1)
    first: str
    second: str
    preferred: Literal["first", "second", "tie"]
    reference: str = ""
    """The expected answer, where there is one."""


class HumanPoints(Record):
    """A person's points for an answer, on the scale of the rubric."""

    question: str = Field(min_length=1)
    answer: str
    points: int
    reference: str = ""


class HumanLabel(NamedTuple):
    """A row in the form in which a model's answers are judged; `said` is the person's score in [0, 1]."""

    sample: Sample
    answer: str
    opponent: str
    said: float


def load_human(name: str, scorer: JudgeScorer) -> list[HumanLabel]:
    """Read what people said of answers, to hold the judge of suite `name` against.

    Raises:
        DataError: the file can't be read, is empty, or holds bad rows (named, with file and line).
    """
    assert scorer.human is not None, "only called where there is a file"
    labels, errors = [], []
    for number, text in read_lines(name, scorer.human, "scorer.human"):
        try:
            labels.append(_points(text, scorer) if isinstance(scorer, Rubric) else _preference(text))
        except (ValidationError, ValueError) as error:
            reason = "; ".join(_sentences(error)) if isinstance(error, ValidationError) else str(error)
            errors.append(f"{scorer.human}:{number}: {reason}")
    if errors or not labels:
        rows = HumanPoints if isinstance(scorer, Rubric) else HumanPreference
        shown = "\n  ".join(errors[:ERRORS_SHOWN]) or f"{scorer.human} holds no rows"
        raise DataError(
            f"the labels of people for suite `{name}` can't be used ({len(errors):,} bad rows):\n  {shown}",
            valid=f"one JSON object a line with {', '.join(rows.model_fields)}",
            next_step="correct these lines and run the same command again",
        )
    return labels


def _sentences(error: ValidationError) -> Iterator[str]:
    for detail in error.errors():
        yield f"{'.'.join(map(str, detail['loc'])) or 'row'}: {detail['msg']}"


def _preference(text: str) -> HumanLabel:
    row = HumanPreference.model_validate_json(text)
    said = {FIRST: 1.0, SECOND: 0.0, TIE: 0.5}[row.preferred]
    return HumanLabel(_sample(row.question, row.reference), row.first, row.second, said)


def _points(text: str, scorer: Rubric) -> HumanLabel:
    row = HumanPoints.model_validate_json(text)
    if not 1 <= row.points <= scorer.scale:
        raise ValueError(f"points go from 1 to {scorer.scale}, got {row.points}")
    return HumanLabel(_sample(row.question, row.reference), row.answer, "", (row.points - 1) / (scorer.scale - 1))


def _sample(question: str, reference: str) -> Sample:
    answers = (reference,) if reference else ()
    messages = (Message(role="user", content=question),)
    return Sample(id=make_id("sample", [question, reference]), messages=messages, answers=answers)


class Agreement(NamedTuple):
    """How far a judge and people say the same."""

    n: int
    agreed: int
    unscored: int
    kappa: float | None
    """Cohen's kappa; of points with quadratic weights. None where chance alone would agree everywhere."""

    def line(self) -> str:
        """Return it in a sentence."""
        kappa = "" if self.kappa is None else f", Cohen's kappa {self.kappa:.2f}"
        share = f" ({self.agreed / self.n:.0%}{kappa})" if self.n else ""
        return (
            f"agrees with people on {self.agreed:,} of {self.n:,} labelled answers{share}, {self.unscored:,} unscored"
        )


def agreement(said: Sequence[float], judged: Sequence[float | None], scorer: JudgeScorer) -> Agreement:
    """Compare scores that people gave with a judge's; None is one that could not be had.

    Formula: kappa = 1 - sum d(a_i, b_i) / ((1/n) sum over all i, j of d(a_i, b_j)), with d(x, y) = [x != y] for
    preferences and (x - y)² for points.

    Source: Cohen, A Coefficient of Agreement for Nominal Scales (1960); Weighted Kappa (1968).
    """
    pairs = [(one, other) for one, other in zip(said, judged, strict=True) if other is not None]
    agreed = sum(bool(np.isclose(one, other)) for one, other in pairs)
    return Agreement(len(pairs), agreed, len(said) - len(pairs), _kappa(pairs, nominal=isinstance(scorer, Pairwise)))


def _kappa(pairs: Sequence[tuple[float, float]], *, nominal: bool) -> float | None:
    if not pairs:
        return None
    said, judged = (np.asarray(scores, dtype=np.float64) for scores in zip(*pairs, strict=True))

    def distances(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        gaps = np.abs(one - other)
        return np.where(gaps > EQUAL, 1.0, 0.0) if nominal else gaps**2

    by_chance = mean(distances(said[:, None], judged[None, :]).ravel())
    return None if by_chance == 0 else 1 - mean(distances(said, judged)) / by_chance
