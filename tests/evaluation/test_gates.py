"""Gates: each rule's PASS, FAIL and INCONCLUSIVE, what is refused, and what a decision says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.errors import DataError
from data_catalog.evaluation_records import SampleScore
from data_catalog.records import Message, Outcome
from evaluation.gates import Comparison, GateDecision, GateOutcome, Labels, check_slices, decide, labels_of
from evaluation.samples import Sample
from evaluation.specs import Against, Correction, GateRule

PASS, FAIL, INCONCLUSIVE = GateOutcome.PASS, GateOutcome.FAIL, GateOutcome.INCONCLUSIVE


def scores(values: Sequence[float | None]) -> list[SampleScore]:
    """Scores of samples s0, s1, ...; None is unscored."""
    return [
        SampleScore(
            sample_id=f"s{index}",
            question=f"Question {index}?",
            answers=("x",),
            completion="" if value is None else "x",
            outcome=Outcome.UNSCORED if value is None else Outcome.PASSED if value == 1 else Outcome.FAILED,
            score=value,
        )
        for index, value in enumerate(values)
    ]


def rule(require: str, **fields: Any) -> GateRule:
    return GateRule.model_validate({"suite": "gold", "require": require, "resamples": 4000, **fields})


def compare(
    a_rule: GateRule, candidate: Sequence[float | None], baseline: Sequence[float | None] | None = None
) -> Comparison:
    baselines = {} if baseline is None else {a_rule.against: {"gold": scores(baseline)}}
    return decide([a_rule], {"gold": scores(candidate)}, baselines).comparisons[0]


def flips(wins: int, losses: int, ties: int) -> tuple[list[float], list[float]]:
    """Candidate and baseline scores with this many wins, losses and ties."""
    return [1.0] * wins + [0.0] * losses + [1.0] * ties, [0.0] * wins + [1.0] * losses + [1.0] * ties


class TestBetter:
    @pytest.mark.parametrize(
        ("wins", "losses", "ties", "outcome"),
        [
            (40, 2, 58, PASS),
            (5, 0, 95, PASS),
            (4, 0, 96, INCONCLUSIVE),
            (12, 10, 78, INCONCLUSIVE),
            (0, 0, 1000, INCONCLUSIVE),
            (0, 0, 1, INCONCLUSIVE),
            (1, 0, 0, INCONCLUSIVE),
            (2, 30, 68, FAIL),
        ],
    )
    def test_outcomes(self, wins: int, losses: int, ties: int, outcome: GateOutcome) -> None:
        assert compare(rule("better"), *flips(wins, losses, ties)).outcome is outcome

    def test_one_sample_more_right_is_not_better(self) -> None:
        """What `new >= old` would have promoted."""
        comparison = compare(rule("better"), *flips(1, 0, 49))
        assert comparison.outcome is INCONCLUSIVE
        assert comparison.needed_n is not None
        assert comparison.needed_n > comparison.n

    def test_a_margin_must_be_exceeded(self) -> None:
        candidate, baseline = flips(40, 2, 58)
        assert compare(rule("better", margin=0.2), candidate, baseline).outcome is PASS
        assert compare(rule("better", margin=0.4), candidate, baseline).outcome is INCONCLUSIVE
        assert compare(rule("better", margin=0.6), candidate, baseline).outcome is FAIL

    def test_the_comparison_holds_the_figures(self) -> None:
        comparison = compare(rule("better"), *flips(10, 1, 9))
        assert (comparison.n, comparison.unscored) == (20, 0)
        assert comparison.candidate_score == pytest.approx(19 / 20)
        assert comparison.baseline_score == pytest.approx(10 / 20)
        assert comparison.difference == pytest.approx(9 / 20)
        assert comparison.interval is not None
        assert comparison.interval[0] < 9 / 20 < comparison.interval[1]
        assert comparison.p_value == pytest.approx(12 / 2048)
        assert comparison.gained == tuple(f"s{index}" for index in range(10))
        assert comparison.lost == ("s10",)
        assert "is better than base: +45.0 points on 20 samples" in comparison.reason
        assert "10 won, 1 lost" in comparison.reason


class TestNotWorse:
    @pytest.mark.parametrize(
        ("wins", "losses", "ties", "outcome"),
        [
            (0, 0, 200, PASS),
            (0, 0, 100, INCONCLUSIVE),
            (5, 5, 990, PASS),
            (0, 4, 196, INCONCLUSIVE),
            (0, 30, 170, FAIL),
        ],
    )
    def test_within_two_points(self, wins: int, losses: int, ties: int, outcome: GateOutcome) -> None:
        assert compare(rule("not_worse", margin=0.02), *flips(wins, losses, ties)).outcome is outcome

    def test_no_flip_in_a_hundred_does_not_show_two_points(self) -> None:
        """A percentile bootstrap gives [0, 0] here; a model 2.9 points worse shows no flip one time in twenty."""
        comparison = compare(rule("not_worse", margin=0.02), *flips(0, 0, 100))
        assert comparison.interval is not None
        assert comparison.interval[0] == pytest.approx(-0.0295, abs=0.002)
        assert comparison.needed_n is not None
        assert comparison.needed_n >= 149


class TestAtLeast:
    @pytest.mark.parametrize(
        ("right", "n", "outcome"),
        [(190, 200, PASS), (175, 200, INCONCLUSIVE), (165, 200, INCONCLUSIVE), (150, 200, FAIL), (1, 1, INCONCLUSIVE)],
    )
    def test_outcomes(self, right: int, n: int, outcome: GateOutcome) -> None:
        at_least = rule("at_least", against="limit", limit=0.85)
        comparison = compare(at_least, [1.0] * right + [0.0] * (n - right))
        assert comparison.outcome is outcome
        assert (comparison.baseline_score, comparison.p_value) == (None, None)
        assert comparison.difference == pytest.approx(right / n - 0.85)
        assert f"limit of 85.0%: {right / n:.1%}" in comparison.reason
        assert (comparison.needed_n is not None) == (outcome is INCONCLUSIVE)

    def test_a_score_on_the_limit_is_settled_by_no_number(self) -> None:
        comparison = compare(rule("at_least", against="limit", limit=0.85), [1.0] * 17 + [0.0] * 3)
        assert comparison.outcome is INCONCLUSIVE
        assert comparison.needed_n is None
        assert "no number of samples" in comparison.reason


class TestUnscored:
    def test_is_left_out_and_counted_on_either_side(self) -> None:
        candidate, baseline = flips(40, 0, 60)
        comparison = compare(rule("better"), [None, *candidate, 1.0], [1.0, *baseline, None])
        assert (comparison.n, comparison.unscored) == (100, 2)
        assert comparison.outcome is PASS

    @pytest.mark.parametrize("require", ["better", "not_worse"])
    @pytest.mark.parametrize("missing", [7, 107])
    def test_too_many_conclude_nothing(self, require: str, missing: int) -> None:
        candidate, baseline = flips(40, 0, 60)
        comparison = compare(rule(require), ([None] * missing + candidate)[:107], ([1.0] * missing + baseline)[:107])
        assert comparison.outcome is INCONCLUSIVE
        assert f"{missing} of 107 samples could not be scored" in comparison.reason

    @pytest.mark.parametrize("missing", [6, 50])
    def test_against_a_limit_too(self, missing: int) -> None:
        values = [None] * missing + [1.0] * (50 - missing)
        assert compare(rule("at_least", against="limit", limit=0.1), values).outcome is INCONCLUSIVE


class TestGate:
    BETTER = rule("better")
    NOT_WORSE = rule("not_worse", suite="general", against="previous", margin=0.1)

    def decide(self, gold: tuple[int, int, int], general: tuple[int, int, int]) -> GateDecision:
        (new_gold, old_gold), (new_general, old_general) = flips(*gold), flips(*general)
        return decide(
            [self.BETTER, self.NOT_WORSE],
            {"gold": scores(new_gold), "general": scores(new_general)},
            {Against.BASE: {"gold": scores(old_gold)}, Against.PREVIOUS: {"general": scores(old_general)}},
        )

    @pytest.mark.parametrize(
        ("gold", "general", "outcome"),
        [
            ((40, 0, 60), (0, 0, 200), PASS),
            ((1, 0, 60), (0, 0, 200), INCONCLUSIVE),
            ((40, 0, 60), (0, 90, 110), FAIL),
            ((1, 0, 60), (0, 90, 110), FAIL),
        ],
    )
    def test_every_rule_must_pass(
        self, gold: tuple[int, int, int], general: tuple[int, int, int], outcome: GateOutcome
    ) -> None:
        decision = self.decide(gold, general)
        assert decision.outcome is outcome
        assert len(decision.comparisons) == 2
        expected = [entry.reason for entry in decision.comparisons if outcome is PASS or entry.outcome is not PASS]
        assert list(decision.reasons) == expected

    def test_equal_input_gives_an_equal_decision_that_survives_json(self) -> None:
        first = self.decide((20, 10, 70), (3, 4, 200))
        assert self.decide((20, 10, 70), (3, 4, 200)) == first
        assert GateDecision.model_validate_json(first.model_dump_json()) == first

    def test_no_rules_pass(self) -> None:
        assert decide([], {}, {}).outcome is PASS

    def test_nothing_in_production_passes_and_says_so(self) -> None:
        comparison = compare(rule("not_worse", against="production"), [1.0, 0.0])
        assert comparison.outcome is PASS
        assert comparison.candidate_score == 0.5
        assert "nothing is in production yet" in comparison.reason

    @given(st.lists(st.sampled_from([0.0, 1.0, None]), min_size=1, max_size=60))
    @settings(max_examples=40, deadline=None)
    def test_a_model_is_never_better_or_worse_than_itself(self, values: list[float | None]) -> None:
        assert compare(rule("better"), values, values).outcome is INCONCLUSIVE
        assert compare(rule("not_worse", margin=0.01), values, values).outcome is not FAIL


class TestSeveralRules:
    """Holm's correction: what a gate says of all its suites and slices is right together."""

    def gate(self, wins: int, rules: int, correction: Correction = Correction.HOLM) -> GateDecision:
        """One suite that won `wins` pairs and lost none, beside suites that never differ."""
        suites = {f"suite{index}": flips(wins if index == 0 else 0, 0, 60) for index in range(rules)}
        return decide(
            [rule("better", suite=name) for name in suites],
            {name: scores(new) for name, (new, _) in suites.items()},
            {Against.BASE: {name: scores(old) for name, (_, old) in suites.items()}},
            correction=correction,
        )

    def test_a_win_that_luck_explains_among_ten_rules_is_not_shown(self) -> None:
        alone, among, uncorrected = self.gate(5, 1), self.gate(5, 10), self.gate(5, 10, Correction.NONE)
        assert alone.comparisons[0].outcome is PASS
        assert uncorrected.comparisons[0].outcome is PASS
        assert among.comparisons[0].outcome is INCONCLUSIVE
        assert "alone it would pass, but not beside the gate's other rules (Holm)" in among.comparisons[0].reason
        assert among.comparisons[0].adjusted_p == pytest.approx(10 / 32, rel=0.1)
        assert self.gate(9, 10).comparisons[0].outcome is PASS

    def test_the_needed_number_is_that_for_the_corrected_level(self) -> None:
        alone, among = self.gate(4, 1).comparisons[0], self.gate(4, 10).comparisons[0]
        assert alone.needed_n is not None
        assert among.needed_n is not None
        assert among.needed_n > alone.needed_n

    def test_a_loss_that_luck_explains_does_not_fail_the_gate(self) -> None:
        suites = {f"suite{index}": flips(0, 7 if index == 0 else 0, 100) for index in range(10)}
        outcomes = {
            correction: decide(
                [rule("not_worse", suite=name, margin=0.01) for name in suites],
                {name: scores(new) for name, (new, _) in suites.items()},
                {Against.BASE: {name: scores(old) for name, (_, old) in suites.items()}},
                correction=correction,
            )
            .comparisons[0]
            .outcome
            for correction in Correction
        }
        assert outcomes == {Correction.HOLM: INCONCLUSIVE, Correction.NONE: FAIL}

    def test_what_is_not_in_production_takes_no_part_in_the_correction(self) -> None:
        new, old = flips(5, 0, 60)
        rules = [rule("better"), *[rule("better", against="production")] * 9]
        assert decide(rules, {"gold": scores(new)}, {Against.BASE: {"gold": scores(old)}}).outcome is PASS


class TestSlices:
    """A rule on part of a suite."""

    LABELS: ClassVar[Labels] = {
        "gold": {
            f"s{index}": {"kind": "number" if index < 40 else "name", "level": str(index % 2)} for index in range(100)
        }
    }

    def outcome(self, **chosen: Any) -> Comparison:
        """Only the first 40 samples, which are the numbers, got better."""
        new, old = flips(40, 0, 60)
        baselines = {Against.BASE: {"gold": scores(old)}}
        found = decide([rule("better", slice=chosen)], {"gold": scores(new)}, baselines, labels=self.LABELS)
        return found.comparisons[0]

    def test_a_slice_sees_its_samples_only(self) -> None:
        numbers, names = self.outcome(kind="number"), self.outcome(kind="name")
        assert (numbers.n, numbers.outcome, numbers.slice) == (40, PASS, {"kind": "number"})
        assert (names.n, names.outcome, names.gained) == (60, INCONCLUSIVE, ())
        assert numbers.reason.startswith("gold (kind=number): ")
        assert self.outcome(kind="number", level=1).n == 20

    @pytest.mark.parametrize(
        ("chosen", "valid"),
        [({"kind": "place"}, "`kind` is `name` (60), `number` (40)"), ({"knd": "name"}, "`kind`, `level`")],
    )
    def test_an_empty_slice_is_refused_with_the_values_there_are(self, chosen: dict[str, Any], valid: str) -> None:
        with pytest.raises(DataError, match="no sample of suite `gold` has") as caught:
            self.outcome(**chosen)
        assert valid in caught.value.valid
        with pytest.raises(DataError, match="no sample"):
            check_slices([rule("better", slice=chosen)], self.LABELS)

    def test_labels_are_the_plain_fields_of_a_row(self) -> None:
        sample = Sample(
            id="s",
            messages=(Message(role="user", content="?"),),
            document="pump.md",
            kind="number",
            meta={"level": 3, "tags": ["a"], "checked": True},
        )
        assert labels_of({"gold": [sample]}) == {
            "gold": {"s": {"level": "3", "checked": "True", "document": "pump.md", "kind": "number"}}
        }


class TestBrief:
    """A limit on the length of answers."""

    @pytest.mark.parametrize(("long", "n", "outcome"), [(0, 100, PASS), (6, 100, INCONCLUSIVE), (40, 100, FAIL)])
    def test_outcomes(self, long: int, n: int, outcome: GateOutcome) -> None:
        answers = ["one two three four"] * long + ["one 二三"] * (n - long)
        found = [
            entry.model_copy(update={"completion": text})
            for entry, text in zip(scores([1.0] * n), answers, strict=True)
        ]
        brief = rule("brief", against="limit", limit=0.9, max_words=3)
        comparison = decide([brief], {"gold": found}, {}).comparisons[0]
        assert comparison.outcome is outcome
        assert comparison.candidate_score == pytest.approx(1 - long / n)
        assert "of answers with at most 3 words" in comparison.reason
        longer = rule("brief", against="limit", limit=0.9, max_words=4)
        assert decide([longer], {"gold": found}, {}).outcome is PASS

    def test_a_missing_answer_is_unscored_not_short(self) -> None:
        brief = rule("brief", against="limit", limit=0.1, max_words=3)
        comparison = decide([brief], {"gold": scores([None] * 50 + [1.0] * 50)}, {}).comparisons[0]
        assert (comparison.n, comparison.unscored, comparison.outcome) == (50, 50, INCONCLUSIVE)

    @pytest.mark.parametrize(
        "fields",
        [
            {"require": "brief", "against": "limit", "limit": 0.9},
            {"require": "brief", "max_words": 3},
            {"require": "better", "max_words": 3},
        ],
    )
    def test_half_a_rule_is_refused(self, fields: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"go together|needs `against: limit`"):
            GateRule.model_validate({"suite": "gold", **fields})


class TestRefused:
    def test_different_samples(self) -> None:
        with pytest.raises(DataError, match="different samples") as caught:
            compare(rule("better"), [1.0, 1.0, 1.0], [1.0, 1.0])
        assert "s2" in str(caught.value)

    def test_repeated_samples(self) -> None:
        with pytest.raises(DataError, match="occur twice"):
            decide([rule("at_least", against="limit", limit=0.5)], {"gold": scores([1.0]) * 2}, {})

    @pytest.mark.parametrize("against", ["base", "previous"])
    def test_a_missing_baseline(self, against: str) -> None:
        with pytest.raises(DataError, match=f"`{against}`"):
            compare(rule("better", against=against), [1.0])

    def test_a_missing_suite(self) -> None:
        with pytest.raises(DataError, match="needs suite `gold`") as caught:
            decide([rule("better")], {"general": scores([1.0])}, {})
        assert "`general`" in caught.value.valid
