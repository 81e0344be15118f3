"""The scorers that let another model judge: what it is asked, and what its replies come to."""

from __future__ import annotations

import pytest

from evaluation.scorers import Answer
from evaluation.scorers.judged import JudgeScorer
from evaluation.scorers.pairwise import Pairwise
from evaluation.scorers.parts import Judged
from evaluation.scorers.rubric import Rubric
from tests.evaluation.scored import sample


def judged(scorer: JudgeScorer, *replies: dict[str, str] | None) -> float | None:
    return scorer.score(sample("x"), Answer("mine", judged=Judged(replies, "theirs")))


@pytest.mark.parametrize(("points", "scale", "value"), [("1", 5, 0.0), ("4", 5, 0.75), ("5", 5, 1.0), ("2", 3, 0.5)])
def test_points_are_a_share_of_what_could_be_won(points: str, scale: int, value: float) -> None:
    scorer = Rubric(scale=scale)
    assert judged(scorer, {"reason": "so", "points": points}) == value
    (question,) = scorer.questions(sample("right"), "mine")
    assert question.schema["properties"]["points"]["enum"][-1] == str(scale) == question.variables["scale"]
    assert question.variables["reference"] == "right"


@pytest.mark.parametrize(
    ("in_order", "swapped", "value"),
    [
        ("first", "second", 1.0),
        ("second", "first", 0.0),
        ("first", "first", 0.5),
        ("second", "second", 0.5),
        ("tie", "tie", 0.5),
        ("first", "tie", 0.5),
        ("tie", "first", 0.5),
    ],
)
def test_only_what_both_orders_say_counts(in_order: str, swapped: str, value: float) -> None:
    assert judged(Pairwise(), {"better": in_order}, {"better": swapped}) == value


def test_a_reply_that_is_missing_leaves_the_answer_unscored() -> None:
    assert judged(Pairwise(), {"better": "first"}, None) is None
    assert judged(Rubric(), None) is None
    assert Rubric().score(sample("x"), Answer("mine")) is None


def test_a_pair_is_shown_in_both_orders_and_equal_answers_to_nobody() -> None:
    there, back = Pairwise().questions(sample("right"), "mine", "theirs")
    assert (there.variables["first"], there.variables["second"]) == ("mine", "theirs")
    assert (back.variables["first"], back.variables["second"]) == ("theirs", "mine")
    assert there.variables["reference"] == "right"
    assert Pairwise().questions(sample(), "same", " same\n") == ()
    assert judged(Pairwise()) == 0.5


def test_a_reference_that_is_the_opponent_is_not_shown_beside_itself() -> None:
    scorer = Pairwise(against="reference")
    assert {question.variables["reference"] for question in scorer.questions(sample("right"), "mine", "right")} == {""}
    assert "needs `answers`" in scorer.refusal(sample())
    assert Pairwise().refusal(sample()) == ""


@pytest.mark.parametrize("scorer", [Rubric(criteria="Be kind."), Pairwise(criteria="Be kind.")])
def test_a_rows_own_criteria_go_before(scorer: JudgeScorer) -> None:
    own = sample("x", criteria="Be brief.")
    assert {question.variables["criteria"] for question in scorer.questions(own, "a", "b")} == {"Be brief."}
    assert {question.variables["criteria"] for question in scorer.questions(sample("x"), "a", "b")} == {"Be kind."}
    assert scorer.basis(own) == "Be brief."
    assert "must be a text" in scorer.refusal(sample("x", criteria=3))
