"""Two models are compared on what both were asked, with the gates' statistics, and nothing is concluded from luck."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from data_catalog.evaluation_records import SampleScore
from data_catalog.records import Outcome
from evaluation.comparing import Finding, compare_models
from evaluation.statistics import paired_bootstrap, sign_test, wilson


def scores(values: Sequence[float | None], *, question: str = "q", start: int = 0) -> tuple[SampleScore, ...]:
    return tuple(
        SampleScore(
            sample_id=f"s{number}",
            question=f"{question} {number}?",
            answers=("a",),
            completion="x",
            outcome=Outcome.UNSCORED if value is None else Outcome.PASSED if value >= 1 else Outcome.FAILED,
            score=value,
        )
        for number, value in enumerate(values, start=start)
    )


WORSE, BETTER = [1.0] * 10 + [0.0] * 90, [1.0] * 60 + [0.0] * 40


def test_the_figures_are_those_of_the_gates() -> None:
    (found,) = compare_models({"gold": scores(WORSE)}, {"gold": scores(BETTER)})
    differences = [after - before for before, after in zip(WORSE, BETTER, strict=True)]
    assert found.finding is Finding.BETTER
    assert found.paired.difference == pytest.approx(0.5)
    assert found.paired.interval == paired_bootstrap(differences)
    assert found.paired.p_value == sign_test(differences).p_value
    assert (found.first.score, found.first.interval) == (0.1, wilson(0.1, 100))
    assert (len(found.paired.gained), len(found.paired.lost), found.unpaired) == (50, 0, 0)


def test_turned_round_the_finding_is_turned_round() -> None:
    (found,) = compare_models({"gold": scores(BETTER)}, {"gold": scores(WORSE)})
    assert found.finding is Finding.WORSE
    assert found.paired.difference == pytest.approx(-0.5)
    assert len(found.paired.lost) == 50


def test_a_model_does_not_differ_from_itself() -> None:
    (found,) = compare_models({"gold": scores(BETTER)}, {"gold": scores(BETTER)})
    assert (found.finding, found.paired.difference) == (Finding.UNDECIDED, 0.0)


def test_many_suites_are_judged_together() -> None:
    """Five won of five: alone p = 1/32 would do; beside nineteen suites without a difference it does not."""
    lucky = ([0.0] * 5 + [1.0] * 15, [1.0] * 20)
    (alone,) = compare_models({"lucky": scores(lucky[0])}, {"lucky": scores(lucky[1])})
    assert alone.finding is Finding.BETTER
    even = {f"even{number}": scores(BETTER) for number in range(19)}
    together = compare_models({"lucky": scores(lucky[0]), **even}, {"lucky": scores(lucky[1]), **even})
    assert {found.finding for found in together} == {Finding.UNDECIDED}


def test_only_what_both_were_asked_in_the_same_words_counts() -> None:
    first = scores([1.0, 0.0, 0.0]) + scores([0.0], question="old wording", start=3)
    second = scores([1.0, 1.0]) + scores([1.0, 1.0], question="new wording", start=3)
    (found,) = compare_models({"gold": first, "theirs": first}, {"gold": second, "ours": second})
    assert [score.sample_id for score in found.before] == [score.sample_id for score in found.after] == ["s0", "s1"]
    assert found.unpaired == 3


def test_what_is_unscored_is_not_a_zero() -> None:
    (found,) = compare_models({"gold": scores([None, 1.0, 1.0])}, {"gold": scores([1.0, 1.0, 1.0])})
    assert (found.paired.n, found.paired.unscored, found.first.score) == (2, 1, 1.0)
    assert found.finding is Finding.UNDECIDED


def test_without_a_common_suite_there_is_nothing() -> None:
    assert compare_models({"a": scores([1.0])}, {"b": scores([1.0])}) == ()
