"""Biases of a judge and its agreement with people, on figures that are counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_catalog.errors import DataError
from evaluation.judging import agreement, length_correlation, load_human, pairwise_bias
from evaluation.scorers.pairwise import Pairwise
from evaluation.scorers.parts import Judged
from evaluation.scorers.rubric import Rubric


def pair(in_order: str | None, swapped: str | None, opponent: str = "two words") -> Judged:
    return Judged(tuple(None if better is None else {"better": better} for better in (in_order, swapped)), opponent)


def test_biases_of_a_pairwise_judge_are_counted() -> None:
    bias = pairwise_bias(
        [
            ("a longer answer", pair("first", "second")),  # won, longer
            ("short", pair("second", "first")),  # lost, the longer won
            ("a longer answer", pair("second", "first")),  # lost, the longer did not win
            ("two long", pair("first", "second")),  # won, as long
            ("x", pair("first", "first")),  # each time what is shown first
            ("x", pair("tie", "tie")),
            ("x", pair("first", None)),
            ("two words", Judged((), "two words")),
        ]
    )
    assert bias._asdict() == {
        "won": 2,
        "lost": 2,
        "same": 1,
        "agreed_ties": 1,
        "disagreed": 1,
        "unscored": 1,
        "first": 7,
        "sides": 11,
        "longer_won": 2,
        "longer_of": 3,
    }
    assert bias.line() == (
        "judged 8 pairs: 2 won, 2 lost, 2 tied, 1 tied because the two orders disagree, 1 unscored; "
        "position: 64% of 11 replies prefer what is shown first; length: the longer answer won 2 of 3"
    )


def test_points_that_follow_the_length_show_it() -> None:
    answers = ["one", "one two", "one two three", "one two three four"]
    assert length_correlation(answers, [0.0, 0.25, 0.5, 1.0]) == pytest.approx(1)
    assert length_correlation(answers, [1.0, 0.5, 0.25, 0.0]) == pytest.approx(-1)
    # Ranks 1 2 3 4 against 1.5 1.5 3.5 3.5: covariance 4, variances 5 and 4.
    assert length_correlation(answers, [0.0, 0.0, 1.0, 1.0]) == pytest.approx(4 / (5 * 4) ** 0.5)
    assert length_correlation(answers, [1.0] * 4) is None


def test_agreement_on_preferences_is_cohens_kappa() -> None:
    # Cohen's formula by hand: 7 of 10 agree; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5; kappa 0.2 / 0.5.
    human = [1.0] * 5 + [0.0] * 5
    judge = [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    found = agreement([*human, 0.5], [*judge, None], Pairwise())
    assert (found.n, found.agreed, found.unscored) == (10, 7, 1)
    assert found.kappa == pytest.approx(0.4)
    assert found.line() == "agrees with people on 7 of 10 labelled answers (70%, Cohen's kappa 0.40), 1 unscored"
    assert agreement([1.0, 1.0], [1.0, 1.0], Pairwise()).kappa is None


def test_agreement_on_points_forgives_what_is_near() -> None:
    # Quadratic: observed (0 + 0 + 1/16) / 3; by chance the mean of all nine squares.
    said, judged = [0.0, 0.5, 1.0], [0.0, 0.5, 0.75]
    squares = [(one - other) ** 2 for one in said for other in judged]
    found = agreement(said, judged, Rubric())
    assert found.kappa == pytest.approx(1 - (0.0625 / 3) / (sum(squares) / 9))
    assert found.agreed == 2


def test_labels_of_people_are_read_on_the_scale_of_the_score(tmp_path: Path) -> None:
    path = tmp_path / "human.jsonl"
    rows = [
        {"question": "Q?", "first": "a", "second": "b", "preferred": better} for better in ("first", "second", "tie")
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    labels = load_human("tone", Pairwise(human=path))
    assert [(label.answer, label.opponent, label.said) for label in labels] == [
        ("a", "b", 1.0),
        ("a", "b", 0.0),
        ("a", "b", 0.5),
    ]
    path.write_text(json.dumps({"question": "Q?", "answer": "a", "points": 4, "reference": "b"}))
    (label,) = load_human("tone", Rubric(human=path))
    assert (label.said, label.sample.answers) == (0.75, ("b",))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"question": "Q?", "answer": "a", "points": 6}', "points go from 1 to 5, got 6"),
        ('{"question": "Q?", "answer": "a"}', "points: Field required"),
        ("no json", "Invalid JSON"),
        ("", "holds no rows"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "human.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match="labels of people") as caught:
        load_human("tone", Rubric(human=path))
    assert reason in str(caught.value)
