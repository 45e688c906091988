"""Intervals, tests and power against closed forms, published examples and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy

from vlm_pipeline.scoring.intervals import design_effect, exact, mean, proportion, rank_correlation, wilson
from vlm_pipeline.scoring.paired import (
    benjamini_hochberg,
    compare_means,
    compare_proportions,
    holm,
    mcnemar_exact,
    swap_test,
)
from vlm_pipeline.scoring.power import plan, rows_needed, smallest_difference, successes_needed, trials_needed


def two_by_two(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = [1] * (both + only_a) + [0] * (only_b + neither)
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return np.array(a), np.array(b)


def beta_binomial(rng: np.random.Generator, rate: float, icc: float, pages: int, size: int) -> np.ndarray:
    """0/1 rows, shape (pages * size,), whose rows of one page have this intra-class correlation."""
    shared = (
        rng.beta(rate * (1 - icc) / icc, (1 - rate) * (1 - icc) / icc, pages) if icc else np.full(pages, rate)
    )
    return (rng.random(pages * size) < np.repeat(shared, size)).astype(float)


class TestProportions:
    @pytest.mark.parametrize(
        ("successes", "n", "wilson_limits", "exact_limits"),
        [  # Newcombe 1998, Statistics in Medicine 17:857, table I, methods 3 and 5
            (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
            (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
            (0, 20, (0.0, 0.1611), (0.0, 0.1684)),
            (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
        ],
    )
    def test_published_limits(self, successes, n, wilson_limits, exact_limits):
        assert wilson(successes, n) == pytest.approx(wilson_limits, abs=5e-5)
        assert exact(successes, n) == pytest.approx(exact_limits, abs=5e-5)

    def test_without_clusters_the_textbook_interval_comes_out(self):
        found = proportion([1] * 26 + [0] * 4)
        assert (found.low, found.high) == wilson(26, 30)
        assert (round(found.low, 2), round(found.high, 2)) == (0.70, 0.95)
        assert found.design_effect == 1.0 and found.clusters == 30

    def test_identical_rows_of_a_page_count_as_one(self):
        """A page of ten equal rows is one observation: the interval must not shrink by the square root of ten."""
        pages = np.array([1.0] * 20 + [0.0] * 20)
        found = proportion(np.repeat(pages, 10), np.repeat(np.arange(40), 10))
        alone = proportion(pages)
        assert found.design_effect == pytest.approx(10 * 40 / 39)
        assert found.high - found.low >= alone.high - alone.low

    def test_closed_form_design_effect(self):
        rng = np.random.default_rng(5)
        rows = beta_binomial(rng, 0.5, 0.3, 4000, 8)
        assert design_effect(rows, np.repeat(np.arange(4000), 8)) == pytest.approx(1 + 0.3 * 7, rel=0.08)

    def test_all_right_is_not_certain(self):
        found = proportion(np.ones(60), np.repeat(np.arange(6), 10))
        assert found.high == 1.0 and 0.3 < found.low < wilson(60, 60)[0]

    def test_one_page_gives_no_interval(self):
        found = proportion([1, 0, 1], ["page"] * 3)
        assert found.estimate == pytest.approx(2 / 3) and found.low is None and "one cluster" in found.method

    def test_no_rows(self):
        assert proportion([]).estimate is None

    def test_wrong_number_of_clusters_is_an_error(self):
        with pytest.raises(ValueError, match="3 rows but 2 clusters"):
            proportion([1, 0, 1], ["a", "b"])


class TestMeans:
    def test_agrees_with_the_t_interval_on_plain_data(self):
        values = np.random.default_rng(3).normal(5, 2, 400)
        found = mean(values)
        t = scipy.stats.t.interval(0.95, 399, values.mean(), scipy.stats.sem(values))
        assert (found.low, found.high) == pytest.approx(t, abs=0.03)
        assert found.method == "cluster bootstrap, BCa"

    def test_rmse(self):
        errors = np.random.default_rng(4).normal(0, 1.5, 500)
        found = mean(errors**2, transform=np.sqrt)
        assert found.estimate == pytest.approx(np.sqrt((errors**2).mean()))
        # delta method: se(rmse) = sd(e^2) / (2 rmse sqrt(n)); the squares are skewed, so roughly
        half = 1.96 * (errors**2).std() / (2 * found.estimate * np.sqrt(500))
        assert found.high - found.low == pytest.approx(2 * half, rel=0.1)

    def test_resamples_whole_pages(self):
        pages = np.random.default_rng(6).normal(size=60)
        rows, clusters = np.repeat(pages, 12), np.repeat(np.arange(60), 12)
        clustered, naive = mean(rows, clusters), mean(rows)
        assert (clustered.high - clustered.low) / (naive.high - naive.low) == pytest.approx(
            np.sqrt(12), rel=0.15
        )

    def test_constant_data_gives_no_false_certainty(self):
        unbounded, bounded = mean(np.full(30, 2.0)), mean(np.ones(30), bounded=True)
        assert unbounded.low is None and "constant" in unbounded.method
        assert (bounded.low, bounded.high) == wilson(30, 30)

    def test_nearly_constant_shares_keep_a_wide_interval(self):
        """One deviating row in thirty: a bootstrap would resample it away in a third of the draws."""
        found = mean([1.0] * 29 + [0.0], bounded=True)
        assert (found.low, found.high) == wilson(29, 30)

    def test_same_seed_same_interval(self):
        values = np.random.default_rng(1).exponential(size=50)
        assert mean(values, seed=7) == mean(values, seed=7)
        assert mean(values, seed=7) != mean(values, seed=8)


class TestRankCorrelation:
    def test_equals_scipy_and_covers_it(self):
        rng = np.random.default_rng(0)
        x = rng.integers(0, 10, 200)
        y = x + rng.integers(-3, 4, 200)
        found = rank_correlation(x, y)
        assert found.estimate == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
        assert found.low < found.estimate < found.high

    def test_weighted_ranks_equal_ranks_of_the_resampled_rows(self):
        from vlm_pipeline.scoring.intervals import _weighted_pearson, _WeightedRanks

        rng = np.random.default_rng(2)
        x, y = rng.integers(0, 5, 40).astype(float), rng.integers(0, 5, 40).astype(float)
        draw = rng.integers(0, 40, 40)
        weights = np.bincount(draw, minlength=40).astype(float)[None]
        found = _weighted_pearson(_WeightedRanks(x)(weights), _WeightedRanks(y)(weights), weights)
        assert found[0] == pytest.approx(scipy.stats.spearmanr(x[draw], y[draw]).statistic)

    def test_constant_answers_have_no_rank_order(self):
        assert rank_correlation(np.full(20, 5.0), np.arange(20)).estimate is None


class TestPaired:
    def test_newcombe_published_limits(self):
        """Newcombe 1998, Statistics in Medicine 17:2635, method 10; Fagerland, Lydersen and Laake 2014, table VI."""
        first = compare_proportions(*two_by_two(36, 12, 2, 0))
        assert (first.low, first.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)
        second = compare_proportions(*two_by_two(1, 1, 7, 12))
        assert (second.low, second.high) == pytest.approx((-0.507, -0.026), abs=5e-4)

    def test_mcnemar_is_the_binomial_sign_test(self):
        assert mcnemar_exact(1, 7) == pytest.approx(0.0703, abs=5e-5)
        assert mcnemar_exact(12, 2) == pytest.approx(scipy.stats.binomtest(2, 14).pvalue)
        assert mcnemar_exact(0, 0) == 1.0

    def test_permutation_of_single_rows_is_mcnemar(self):
        a, b = two_by_two(5, 9, 2, 4)
        assert swap_test(a, b)[0] == pytest.approx(mcnemar_exact(9, 2))

    @pytest.mark.parametrize("pages", [8, 40])
    def test_swap_test_agrees_with_scipy(self, pages):
        rng = np.random.default_rng(pages)
        clusters = np.repeat(np.arange(pages), 5)
        a, b = rng.random((2, pages * 5))
        a += 0.1
        sums = [np.bincount(clusters, weights=side) for side in (a, b)]
        peer = scipy.stats.permutation_test(
            sums, lambda x, y, axis=-1: (x - y).mean(axis), permutation_type="samples", vectorized=True, rng=1
        )
        assert swap_test(a, b, clusters)[0] == pytest.approx(peer.pvalue, rel=0.05, abs=2e-3)

    def test_all_against_none_has_an_interval(self):
        """100 % against 0 %: a bootstrap of the differences has nothing to resample."""
        found = compare_proportions(np.ones(30), np.zeros(30))
        assert found.high == 1.0 and 0.7 < found.low < 1.0
        assert found.p_value < 1e-8 and (found.wins, found.ties, found.losses) == (30, 0, 0)

    def test_rows_of_a_page_are_not_independent_evidence(self):
        """Four pages of 30 rows each: as independent rows p = 1e-14, as pages nothing can be shown."""
        a, b = np.ones(120), np.zeros(120)
        b[::3] = 1
        clusters = np.repeat(np.arange(4), 30)
        assert compare_proportions(a, b).p_value < 1e-10
        assert compare_proportions(a, b, clusters).p_value == pytest.approx(2 / 2**4)

    def test_wins_follow_the_better_direction(self):
        found = compare_means([0.5, 1.0, 3.0], [1.0, 1.0, 1.0], higher_is_better=False)
        assert (found.wins, found.ties, found.losses) == (1, 1, 1)

    def test_paired_t_agreement(self):
        rng = np.random.default_rng(8)
        a = rng.normal(size=300)
        b = a + rng.normal(0.1, 0.6, 300)
        found = compare_means(a, b)
        t = scipy.stats.ttest_rel(a, b)
        assert found.p_value == pytest.approx(t.pvalue, rel=0.2)
        assert (found.low, found.high) == pytest.approx(tuple(t.confidence_interval()), abs=0.02)

    def test_rmse_difference(self):
        rng = np.random.default_rng(9)
        a, b = rng.normal(0, 1, 400) ** 2, rng.normal(0, 2, 400) ** 2
        found = compare_means(a, b, transform=np.sqrt, higher_is_better=False)
        assert found.difference == pytest.approx(np.sqrt(a.mean()) - np.sqrt(b.mean()))
        assert found.high < 0 and found.p_value < 0.001

    def test_unscored_values_are_refused(self):
        with pytest.raises(ValueError, match="unscored"):
            compare_means([1.0, math.nan], [1.0, 2.0])

    def test_corrections_known_values(self):
        p_values = [0.01, 0.04, None, 0.03, 0.005]
        assert holm(p_values) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
        assert benjamini_hochberg(p_values) == pytest.approx([0.02, 0.04, None, 0.04, 0.02])
        assert holm([None]) == [None]


class TestPower:
    def test_paired_t_sample_size_as_published(self):
        """Cohen's d = 0.5, 80 % power, two-sided 5 %: 34 pairs (G*Power, and every textbook)."""
        assert rows_needed(0.5, 1.0) == 34
        assert smallest_difference(34, 1.0) == pytest.approx(0.5, abs=0.01)

    def test_clusters_cost_rows(self):
        assert rows_needed(0.5, 1.0, design_effect=3) == pytest.approx(3 * 34, abs=3)
        assert smallest_difference(102, 1.0, design_effect=3) == pytest.approx(0.5, abs=0.01)

    def test_thirty_rows_sentence(self):
        found = compare_proportions(*two_by_two(15, 4, 2, 9))
        power = plan(found, binary=True)
        assert 0.2 < power.smallest_difference < 0.26
        assert power.sentence(percent=True).startswith(
            "With 30 rows the smallest difference you could see is 2"
        )
        assert "you need about" in power.sentence(percent=True)

    def test_no_difference_seen_is_not_no_spread(self):
        power = plan(compare_proportions(np.ones(30), np.ones(30)), binary=True)
        assert power.sd > 0.3 and power.rows_needed is None
        assert "too small for any practical number" in power.sentence(percent=True)

    def test_only_thirty_of_thirty_demonstrates_85_percent(self):
        assert successes_needed(30, 0.85) == 30
        assert successes_needed(10, 0.85) is None
        assert wilson(successes_needed(300, 0.85), 300)[0] >= 0.85

    def test_trials_needed_is_the_first_that_clears_the_bar(self):
        n = trials_needed(0.9, 0.85)
        assert wilson(0.9 * n, n)[0] >= 0.85 > wilson(0.9 * (n - 1), n - 1)[0]
        assert trials_needed(0.85, 0.85) is None

    def test_planned_power_is_reached(self):
        """Simulated: the planned number of rows shows the planned difference in about 80 % of the experiments."""
        rng = np.random.default_rng(11)
        n = rows_needed(0.10, math.sqrt(0.3 - 0.01))
        outcome = rng.choice([1, -1, 0], p=[0.20, 0.10, 0.70], size=(1500, n))
        wins, losses = (outcome == 1).sum(1), (outcome == -1).sum(1)
        found = np.mean([mcnemar_exact(w, x) < 0.05 for w, x in zip(wins, losses, strict=True)])
        assert found == pytest.approx(0.8, abs=0.06)  # the exact test is a little conservative


def coverage_of_proportions(rate: float, icc: float, pages: int, size: int, repeats: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(pages), size)
    found = (proportion(beta_binomial(rng, rate, icc, pages, size), clusters) for _ in range(repeats))
    return float(np.mean([one.low <= rate <= one.high for one in found]))


def coverage_of_differences(
    rate_a: float, rate_b: float, pages: int, size: int, repeats: int, seed: int
) -> tuple[float, float]:
    """Share of intervals that hold the true difference, and of tests with p < 0.05; pages share their difficulty."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(pages), size)
    held = rejected = 0
    for _ in range(repeats):
        shift = rng.normal(0, 0.8, pages)[clusters]

        def answers(rate: float, shift=shift) -> np.ndarray:
            return (rng.random(len(shift)) < scipy.special.expit(scipy.special.logit(rate) + shift)).astype(
                float
            )

        found = compare_proportions(answers(rate_a), answers(rate_b), clusters)
        truth = _smoothed(rate_a) - _smoothed(rate_b)
        held += found.low <= truth <= found.high
        rejected += found.p_value < 0.05
    return held / repeats, rejected / repeats


def _smoothed(rate: float) -> float:
    """Mean of expit(logit(rate) + N(0, 0.8)), by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    return float(weights @ scipy.special.expit(scipy.special.logit(rate) + 0.8 * nodes) / weights.sum())


class TestSimulation:
    """A nominal 95 % interval holds the truth in 95 % of the experiments, a 5 % test cries wolf in 5 %."""

    @pytest.mark.parametrize(
        ("rate", "icc", "pages", "size"), [(0.97, 0, 30, 1), (0.8, 0.2, 20, 10), (0.02, 0.1, 45, 8)]
    )
    def test_coverage_of_proportions_short(self, rate, icc, pages, size):
        assert coverage_of_proportions(rate, icc, pages, size, repeats=400, seed=1) >= 0.91

    def test_naive_interval_would_fail_on_pages(self):
        """The same rows without their clusters: if this held too, the test above would show nothing."""
        rng = np.random.default_rng(2)
        found = [proportion(beta_binomial(rng, 0.8, 0.2, 20, 10)) for _ in range(400)]
        assert np.mean([one.low <= 0.8 <= one.high for one in found]) < 0.85

    def test_paired_short(self):
        held, rejected = coverage_of_differences(0.6, 0.6, 20, 6, repeats=400, seed=3)
        assert held >= 0.92 and 0 < rejected <= 0.07

    def test_a_real_difference_is_found(self):
        """A test that never rejected would pass the one above with its interval alone."""
        _, rejected = coverage_of_differences(0.75, 0.45, 20, 6, repeats=60, seed=7)
        assert rejected >= 0.8

    @pytest.mark.slow
    @pytest.mark.parametrize("rate", [0.02, 0.1, 0.5, 0.97])
    @pytest.mark.parametrize(
        ("icc", "pages", "size"), [(0, 30, 1), (0, 200, 1), (0.05, 45, 10), (0.3, 45, 10), (0.2, 8, 12)]
    )
    def test_coverage_of_proportions(self, rate, icc, pages, size):
        assert coverage_of_proportions(rate, icc, pages, size, repeats=1000, seed=4) >= 0.92

    @pytest.mark.slow
    @pytest.mark.parametrize(("rate_a", "rate_b"), [(0.5, 0.5), (0.9, 0.9), (0.8, 0.6), (0.98, 0.9)])
    @pytest.mark.parametrize(("pages", "size"), [(40, 1), (20, 10), (60, 8)])
    def test_paired(self, rate_a, rate_b, pages, size):
        held, rejected = coverage_of_differences(rate_a, rate_b, pages, size, repeats=400, seed=5)
        assert held >= 0.92
        if rate_a == rate_b:
            assert rejected <= 0.075

    @pytest.mark.slow
    @pytest.mark.parametrize(("pages", "size"), [(40, 1), (150, 1), (40, 10), (120, 4)])
    def test_paired_means_and_mae(self, pages, size):
        rng = np.random.default_rng(6)
        clusters = np.repeat(np.arange(pages), size)
        held = single = rejected = 0
        for repeat in range(300):
            shared = rng.normal(0, 0.7, pages)[clusters]
            a, b = (np.abs(shared + rng.normal(0, 1.0, len(shared))) for _ in range(2))
            found = compare_means(a, b, clusters, higher_is_better=False, seed=repeat)
            held += found.low <= 0 <= found.high
            rejected += found.p_value < 0.05
            one = mean(a, clusters, seed=repeat)
            single += one.low <= math.sqrt(2 / math.pi * (0.49 + 1)) <= one.high
        assert held / 300 >= 0.91 and single / 300 >= 0.91 and rejected / 300 <= 0.08
