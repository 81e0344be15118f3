"""The gates' statistics: exact values, properties for any input, and false-promotion rates enumerated or simulated."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import statistics
from evaluation.statistics import (
    binomial_tail,
    holm,
    mean,
    paired_bootstrap,
    paired_test,
    pairs_needed,
    samples_needed,
    sign_test,
    wilson,
    wilson_p_values,
)

DIFFERENCES = st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=200)
CONFIDENCE = 0.95


def pairs(wins: int, losses: int, ties: int) -> list[float]:
    return [1.0] * wins + [-1.0] * losses + [0.0] * ties


class TestPairedBootstrap:
    @pytest.mark.parametrize("n", [20, 100, 149, 1000])
    def test_losses_alone_give_clopper_and_pearsons_bound(self, n: int) -> None:
        """With no pair that differs, the upper bound of the loss rate is 1 - 0.05^(1/n), the rule of three."""
        interval = paired_bootstrap(pairs(0, 0, n), CONFIDENCE, resamples=100_000)
        exact = 1 - 0.05 ** (1 / n)
        assert interval.lower == pytest.approx(-exact, rel=0.03)
        assert interval.upper == pytest.approx(exact, rel=0.03)

    @pytest.mark.parametrize(("wins", "losses"), [(5, 0), (4, 0), (8, 1), (7, 1), (20, 9), (20, 10), (60, 40)])
    def test_at_zero_it_is_the_exact_sign_test(self, wins: int, losses: int) -> None:
        """The share of resamples at or below zero is the p-value, so the two can only disagree by resampling noise."""
        p_value = sign_test(pairs(wins, losses, 30)).p_value
        below = paired_bootstrap(pairs(wins, losses, 30), 1 - p_value * 0.9, resamples=100_000).lower
        above = paired_bootstrap(pairs(wins, losses, 30), 1 - p_value * 1.1, resamples=100_000).lower
        assert below < 0 < above

    def test_large_samples_agree_with_the_normal_bound(self) -> None:
        differences = pairs(700, 500, 3800)
        interval = paired_bootstrap(differences, CONFIDENCE)
        error = 1.6449 * np.std(differences) / math.sqrt(len(differences))
        assert interval.lower == pytest.approx(0.04 - error, abs=0.001)
        assert interval.upper == pytest.approx(0.04 + error, abs=0.001)

    @given(DIFFERENCES)
    @settings(max_examples=60, deadline=None)
    def test_bounds_enclose_the_mean_mirror_and_ignore_order(self, differences: list[float]) -> None:
        interval = paired_bootstrap(differences, resamples=4000)
        assert -1 <= interval.lower < mean(differences) + 1e-9
        assert mean(differences) - 1e-9 < interval.upper <= 1
        assert interval.lower < interval.upper
        assert paired_bootstrap(sorted(differences), resamples=4000) == interval
        mirrored = paired_bootstrap([-value for value in differences], resamples=4000)
        assert mirrored.lower == pytest.approx(-interval.upper, abs=0.05)

    def test_graded_scores_are_welcome(self) -> None:
        rng = np.random.default_rng(1)
        differences = rng.uniform(-0.5, 0.7, size=400).tolist()
        interval = paired_bootstrap(differences)
        assert interval.lower < mean(differences) < interval.upper
        assert interval.upper - interval.lower == pytest.approx(2 * 1.645 * np.std(differences) / 20, rel=0.15)

    @pytest.mark.parametrize("distinct", [False, True])
    def test_five_thousand_pairs_are_quick(self, distinct: bool) -> None:
        rng = np.random.default_rng(2)
        values = rng.uniform(-1, 1, 5000) if distinct else rng.integers(-1, 2, 5000)
        started = time.process_time()
        paired_bootstrap(values.astype(float).tolist(), resamples=10_000)
        assert time.process_time() - started < (5.0 if distinct else 0.5)

    @pytest.mark.parametrize("differences", [[], [1.5], [float("nan")]])
    def test_refuses_what_is_no_difference_of_scores(self, differences: list[float]) -> None:
        with pytest.raises(ValueError, match="differences"):
            paired_bootstrap(differences)


class TestPValues:
    @given(DIFFERENCES, st.floats(-0.5, 0.5))
    @settings(max_examples=40, deadline=None)
    def test_bound_and_p_value_never_disagree(self, differences: list[float], threshold: float) -> None:
        found = paired_test(differences, threshold, CONFIDENCE, resamples=1000)
        assert (found.interval.lower > threshold) == (found.p_above <= 1 - CONFIDENCE)
        assert (found.interval.upper < threshold) == (found.p_below <= 1 - CONFIDENCE)

    @given(st.integers(1, 500), st.floats(0, 1), st.floats(0.01, 0.99))
    def test_wilson_too(self, n: int, share: float, limit: float) -> None:
        interval, (p_pass, p_fail) = wilson(share, n), wilson_p_values(share, n, limit)
        assert p_pass + p_fail == pytest.approx(1)
        if abs(interval.lower - limit) > 1e-9:
            assert (interval.lower > limit) == (p_pass < 0.05)
        if abs(interval.upper - limit) > 1e-9:
            assert (interval.upper < limit) == (p_fail < 0.05)

    def test_too_few_resamples_for_the_confidence_bound_nothing(self) -> None:
        assert paired_bootstrap([1.0] * 500, 0.9999, resamples=1000) == (-1, 1)

    def test_the_grid_for_many_graded_differences_leaves_the_bounds_where_they_are(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = np.random.default_rng(5).uniform(-0.5, 0.7, 399)
        exact = paired_test(values, 0.05, resamples=20_000)
        monkeypatch.setattr(statistics, "GRID", 20)
        coarse = paired_test(values, 0.05, resamples=20_000)
        assert coarse != exact
        assert coarse.interval == pytest.approx(exact.interval, abs=0.003)
        assert coarse.p_above == pytest.approx(exact.p_above, abs=0.02)

    def test_the_grid_holds_both_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(statistics, "GRID", 2)
        interval = paired_bootstrap(np.linspace(-1, 1, 9), resamples=20_000)
        assert interval.lower == pytest.approx(-interval.upper, abs=0.02)
        assert -1 < interval.lower < 0


class TestHolm:
    def test_values(self) -> None:
        """Holm's own order: 4 * .005, 3 * .01, then never less than before, 1 * .04 raised to 2 * .03."""
        found = holm([0.01, 0.04, 0.03, 0.005])
        assert [entry.p_value for entry in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert [entry.factor for entry in found] == [3, 1, 2, 4]
        assert holm([0.2])[0].p_value == 0.2
        assert holm([]) == []

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
    def test_between_the_single_and_bonferronis(self, p_values: list[float]) -> None:
        for single, adjusted in zip(p_values, holm(p_values), strict=True):
            assert single <= adjusted.p_value <= max(min(1.0, len(p_values) * single), max(p_values))
        assert min(entry.p_value for entry in holm(p_values)) == min(1.0, len(p_values) * min(p_values))


class TestFalsePromotion:
    """A candidate that truly breaks the rule must not pass more often than 1 - confidence."""

    @pytest.mark.parametrize(("n", "margin"), [(30, 0.1), (100, 0.05), (149, 0.02), (200, 0.02)])
    @pytest.mark.parametrize("also_wins", [0.0, 0.02, 0.08])
    def test_exact_rate_of_passing_a_candidate_that_is_worse_by_the_margin(
        self, n: int, margin: float, also_wins: float
    ) -> None:
        """Enumerated over every (wins, losses) of the trinomial, not simulated."""
        rate = sum(
            probability
            for wins, losses, probability in outcomes(n, also_wins, also_wins + margin)
            if paired_bootstrap(pairs(wins, losses, n - wins - losses), CONFIDENCE, 4000).lower > -margin
        )
        # 4,000 resamples place the 5 % quantile within 0.35 points (one standard error).
        assert rate <= 1 - CONFIDENCE + 0.005

    def test_simulated_rate_of_promoting_an_equal_candidate_as_better(self) -> None:
        rng = np.random.default_rng(3)
        trials, n, promoted = 1500, 120, 0
        for _ in range(trials):
            differences = (rng.random(n) < 0.6).astype(float) - (rng.random(n) < 0.6).astype(float)
            test = sign_test(differences.tolist())
            promoted += test.p_value < 0.05 and paired_bootstrap(differences.tolist(), CONFIDENCE, 1000).lower > 0
        assert promoted / trials <= 0.05
        assert promoted > 0, "a rule that never passes would meet the rate too"


def outcomes(n: int, win_rate: float, loss_rate: float) -> list[tuple[int, int, float]]:
    """List (wins, losses, probability) of n trinomial pairs, leaving out what is rarer than 1e-5."""

    def log_power(base: float, exponent: int) -> float:
        if exponent == 0:
            return 0.0
        return exponent * math.log(base) if base > 0 else -math.inf

    def probability(wins: int, losses: int) -> float:
        ties = n - wins - losses
        ways = math.lgamma(n + 1) - math.lgamma(wins + 1) - math.lgamma(losses + 1) - math.lgamma(ties + 1)
        tie_rate = 1 - win_rate - loss_rate
        return math.exp(ways + log_power(win_rate, wins) + log_power(loss_rate, losses) + log_power(tie_rate, ties))

    table = [(wins, losses, probability(wins, losses)) for wins in range(n + 1) for losses in range(n + 1 - wins)]
    kept = [row for row in table if row[2] > 1e-5]
    assert sum(row[2] for row in kept) > 0.99
    return kept


class TestSignTest:
    @pytest.mark.parametrize(
        ("wins", "losses", "p_value"),
        [
            (5, 0, 1 / 32),
            (0, 5, 1.0),
            (8, 2, 56 / 1024),
            (1, 1, 3 / 4),
            (0, 0, 1.0),
            # scipy.stats.binomtest(wins, wins + losses, alternative="greater").pvalue
            (60, 40, 0.028443966820490392),
            (2600, 2400, 0.002441824868758747),
        ],
    )
    def test_values(self, wins: int, losses: int, p_value: float) -> None:
        result = sign_test(pairs(wins, losses, 7))
        assert (result.wins, result.losses) == (wins, losses)
        assert result.p_value == pytest.approx(p_value, rel=1e-9)

    @pytest.mark.parametrize(("wins", "losses"), [(480, 420), (520, 440), (400, 500), (900, 0), (0, 900), (450, 450)])
    def test_whole_numbers_and_logarithms_agree(self, wins: int, losses: int, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = binomial_tail(losses, wins + losses)
        monkeypatch.setattr(statistics, "WHOLE_NUMBERS", 0)
        assert binomial_tail(losses, wins + losses) == pytest.approx(whole, rel=1e-10)

    @given(DIFFERENCES)
    def test_the_two_sides_overlap_in_the_observed_outcome_only(self, differences: list[float]) -> None:
        better, worse = sign_test(differences), sign_test([-value for value in differences])
        discordant = better.wins + better.losses
        observed = math.comb(discordant, better.wins) / 2**discordant
        assert better.p_value + worse.p_value == pytest.approx(1 + observed)


class TestWilson:
    @pytest.mark.parametrize(
        ("share", "n", "lower", "upper"),
        [
            (0.9, 50, 0.8084624858484292, 0.9504709655225548),
            (1.0, 50, 0.9486668142137299, 1.0),
            (0.0, 20, 0.0, 0.11915783736096448),
            (0.85, 200, 0.803812401060494, 0.8868445864811628),
            (1 / 3, 3, 0.07826572633372841, 0.7464661317187758),
        ],
    )
    def test_values(self, share: float, n: int, lower: float, upper: float) -> None:
        """Two-sided 90 % limits of scipy.stats.binomtest(...).proportion_ci(0.9, method="wilson")."""
        assert wilson(share, n) == pytest.approx((lower, upper), abs=1e-9)

    @given(st.integers(1, 5000), st.floats(0, 1))
    def test_bounds_enclose_the_score(self, n: int, share: float) -> None:
        interval = wilson(share, n)
        assert 0 <= interval.lower <= share + 1e-12
        assert share - 1e-12 <= interval.upper <= 1

    @pytest.mark.parametrize(("share", "n"), [(0.5, 0), (1.2, 5)])
    def test_refuses_what_is_no_proportion(self, share: float, n: int) -> None:
        with pytest.raises(ValueError, match="Wilson"):
            wilson(share, n)


class TestSizes:
    def test_pairs_needed_gives_the_power_it_promises(self) -> None:
        """At the n it names, a candidate as good as was seen passes about 80 times in 100."""
        needed = pairs_needed(pairs(14, 8, 78), 0.0, CONFIDENCE)
        assert needed is not None
        rng = np.random.default_rng(4)
        draws = rng.multinomial(needed, [0.14, 0.08, 0.78], size=400)
        passed = [sign_test(pairs(int(win), int(loss), 0)).p_value < 0.05 for win, loss, _ in draws]
        assert 0.7 < sum(passed) / len(passed) < 0.92

    def test_ties_alone_need_at_least_the_rule_of_three(self) -> None:
        needed = pairs_needed([0.0] * 100, -0.02, CONFIDENCE)
        assert needed is not None
        assert needed >= math.ceil(math.log(0.05) / math.log(0.98)) == 149

    def test_smaller_gaps_need_more(self) -> None:
        sizes = [pairs_needed(pairs(10, 8, 82), -margin) for margin in (0.3, 0.1, 0.05, 0.01)]
        assert all(small < large for small, large in pairwise(size for size in sizes if size is not None))
        assert None not in sizes

    def test_a_difference_on_the_threshold_is_never_settled(self) -> None:
        assert pairs_needed(pairs(3, 3, 10), 0.0) is None
        assert pairs_needed(pairs(0, 2, 98), -0.02) is None
        assert samples_needed(0.85, 0.85) is None

    def test_samples_needed(self) -> None:
        """By hand: ((1.64485 * sqrt(.85 * .15) + 0.84162 * sqrt(.9 * .1)) / .05)² = 282.1."""
        assert samples_needed(0.9, 0.85) == 283

    def test_total_difference(self) -> None:
        assert pairs_needed([1.0] * 10, 0.0) is not None
        assert samples_needed(1.0, 0.0) == 1

    def test_the_mean_of_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no values"):
            mean([])
