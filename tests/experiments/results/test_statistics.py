"""Statistics, compared with SciPy and with numbers worked out by hand; and the coverage of intervals for few seeds."""

import numpy as np
import pytest
from scipy.stats import (
    brunnermunzel,
    linregress,
    mannwhitneyu,
    norm,
    spearmanr,
    t,
    trim_mean,
    ttest_1samp,
    ttest_ind,
)

from rlrep.experiments.results.statistics import (
    contrast,
    effects_needed,
    fit_growth,
    holm,
    improvement,
    improvement_by_chance,
    interquartile_mean,
    over_seeds,
    probability_of_improvement,
    rank_correlation,
    seed_mean,
)

RNG = np.random.default_rng(0)
TASKS = [RNG.normal(size=5), RNG.normal(size=5) + 3, RNG.normal(size=5) * 4]


def test_the_interquartile_mean_is_scipys_trimmed_mean_of_all_runs() -> None:
    for runs in (1, 3, 5):
        scores = [task[:runs] for task in TASKS]
        assert interquartile_mean(scores) == pytest.approx(trim_mean(np.concatenate(scores), 0.25))


def test_improvement_is_mann_and_whitneys_u_over_the_pairs() -> None:
    ours, theirs = [np.array([1.0, 2, 3]), TASKS[1]], [np.array([2.0, 2, 0, 5]), TASKS[0]]
    expected = [mannwhitneyu(x, y).statistic / (len(x) * len(y)) for x, y in zip(ours, theirs, strict=True)]
    assert probability_of_improvement(ours, theirs) == pytest.approx(np.mean(expected))
    assert probability_of_improvement(ours, ours) == 0.5


def test_holm_multiplies_by_how_many_are_left_and_keeps_the_order() -> None:
    """Worked out by hand: 4·0.01, 3·0.015, 2·0.02 and 1·0.03; an adjusted p is never below that of a smaller p."""
    assert holm(np.array([0.03, 0.01, 0.02, 0.015])) == pytest.approx([0.045, 0.04, 0.045, 0.045])
    assert holm(np.array([0.9, 0.6])).tolist() == [1.0, 1.0]


def test_holm_rejects_none_of_many_true_hypotheses_in_most_tries() -> None:
    tries = np.random.default_rng(0).random((2_000, 6))
    assert np.mean([holm(p).min() < 0.05 for p in tries]) == pytest.approx(0.05, abs=0.015)


def test_statistics_of_several_experiments_are_those_of_each() -> None:
    stacked = [np.stack([task, task + 1]) for task in TASKS]
    expected = [interquartile_mean(TASKS), interquartile_mean([task + 1 for task in TASKS])]
    np.testing.assert_allclose(interquartile_mean(stacked), expected)
    both = probability_of_improvement(stacked, stacked[::-1])
    assert both[0] == pytest.approx(probability_of_improvement(TASKS, TASKS[::-1]))


def test_by_chance_improvement_ends_where_it_is_said_to() -> None:
    rng = np.random.default_rng(0)
    low, high = improvement_by_chance([np.zeros(3)] * 5, [np.zeros(4)] * 5)
    draws = [rng.normal(size=(2000, n)) for n in (3, 4) for _ in range(5)]
    found = probability_of_improvement(draws[:5], draws[5:])
    assert np.mean((low <= found) & (found <= high)) == pytest.approx(0.95, abs=0.02)


def test_seeds_may_be_missing_at_some_points() -> None:
    runs = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, np.nan], [3.0, np.nan, np.nan], [4.0, np.nan, np.nan]])
    found = over_seeds(runs)
    assert found.seeds.tolist() == [4, 2, 1]
    assert found.mean.tolist() == [2.5, 3, 3]
    assert np.isfinite(found.low).tolist() == [True, False, False]
    assert np.isnan(over_seeds(np.full((2, 1), np.nan)).mean).all()


HORIZONS = np.repeat([4.0, 6.0, 8.0, 10.0, 12.0], 6)
SOLVED = np.ones(len(HORIZONS), dtype=bool)


def episodes(rate: float, spread: float = 0.3, seed: int = 0) -> np.ndarray:
    return 2 * np.exp(rate * HORIZONS + np.random.default_rng(seed).normal(0, spread, len(HORIZONS)))


def test_difference_of_two_groups_has_welch_interval_and_p() -> None:
    a, b = np.array([0.9, 0.95, 0.92]), np.array([0.5, 0.7, 0.65, 0.55])
    estimate, welch = contrast([(1.0, a), (-1.0, b)]), ttest_ind(a, b, equal_var=False, alternative="greater")
    low, high = ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (estimate.low, estimate.high) == pytest.approx((low, high))
    assert estimate.p_not_above == pytest.approx(welch.pvalue)


def test_interval_of_three_seeds_covers_the_mean_in_95_of_100_studies() -> None:
    draws = np.random.default_rng(0).normal(1.0, 0.2, (800, 3))
    estimates = [contrast([(1.0, seeds)]) for seeds in draws]
    assert np.mean([e.low < 1.0 < e.high for e in estimates]) == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("n", range(2, 20))
@pytest.mark.parametrize("value", [0.05, 0.1, 1 / 3, 0.7, 1e-3])
def test_means_of_equal_numbers_do_not_differ_for_their_last_digits(n: int, value: float) -> None:
    for found in (
        contrast([(1, np.full(n, value)), (-1, np.full(3, value))]),
        contrast([(1, np.full(n, value))], -value),
    ):
        assert (found.value, found.low, found.high) == (0, 0, 0) and (found.p_not_above, found.p_not_below) == (1, 1)
    above = contrast([(1, np.full(n, value))])
    assert above.value == pytest.approx(value) and (above.p_not_above, above.p_not_below) == (0, 1)


def test_one_seed_has_no_interval() -> None:
    estimate = contrast([(1.0, np.array([1.0])), (-1.0, np.array([0.2, 0.3]))])
    assert estimate.value == pytest.approx(0.75)
    assert np.isnan([estimate.low, estimate.high]).all()


def test_interval_at_each_point_is_the_t_interval_of_its_seeds() -> None:
    runs = np.random.default_rng(0).normal(size=(4, 3))
    found, expected = over_seeds(runs), ttest_1samp(runs, 0.0).confidence_interval()
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high])
    assert np.isnan(over_seeds(runs[:2]).low).all()
    assert (seed_mean(runs[:, 0]).low, seed_mean(runs[:, 0]).high) == (found.low[0], found.high[0])


def test_growth_without_unsolved_runs_is_least_squares() -> None:
    growth = fit_growth(HORIZONS, y := episodes(0.5), SOLVED)
    assert growth is not None
    assert growth.slope == pytest.approx(linregress(HORIZONS, np.log(y)).slope, abs=1e-3)


def test_unsolved_runs_do_not_flatten_the_growth() -> None:
    slopes = []
    for seed in range(20):
        full, most = episodes(0.6, seed=seed), 300.0
        cut, solved = np.minimum(full, most), full <= most
        honest, naive = fit_growth(HORIZONS, cut, solved), fit_growth(HORIZONS, cut, SOLVED)
        assert 0.3 < (~solved).mean() < 0.7
        assert honest is not None and naive is not None
        slopes.append((honest.slope, naive.slope))
    honest_mean, naive_mean = np.mean(slopes, axis=0)
    assert honest_mean == pytest.approx(0.6, abs=0.02)
    assert naive_mean < 0.55


def test_too_little_to_fit_is_no_fit() -> None:
    assert fit_growth(HORIZONS, episodes(0.5), HORIZONS < 0) is None
    assert fit_growth(HORIZONS, episodes(0.5), HORIZONS < 8) is None
    assert fit_growth(np.full(6, 4.0), np.full(6, 9.0), np.ones(6, dtype=bool)) is None


@pytest.mark.parametrize("rate", [0.3, 0.6])
def test_aic_tells_exponential_from_polynomial(rate: float) -> None:
    power = 2 * HORIZONS**3 * np.exp(np.random.default_rng(1).normal(0, 0.1, len(HORIZONS)))
    for y, exponential_is_better in ((episodes(rate, 0.1), True), (power, False)):
        fits = [fit_growth(x, y, SOLVED) for x in (HORIZONS, np.log(HORIZONS))]
        assert fits[0] is not None and fits[1] is not None
        assert (fits[0].aic < fits[1].aic) == exponential_is_better


def test_the_interval_of_an_improvement_ends_at_a_half_where_brunner_and_munzel_say_5_percent() -> None:
    ours, theirs = RNG.normal(size=9), RNG.normal(size=7)
    found = [improvement([ours + shift], [theirs]) for shift in np.linspace(0, 1.4, 101)]
    expected = [brunnermunzel(ours + shift, theirs).pvalue for shift in np.linspace(0, 1.4, 101)]
    excluded = [each.low > 0.5 or each.high < 0.5 for each in found]
    assert excluded == [p < 0.05 for p in expected]
    assert 0 < sum(excluded) < 101


def test_an_improvement_over_tasks_averages_them_and_has_a_narrower_interval() -> None:
    one, two = improvement(TASKS[:1], TASKS[2:]), improvement(TASKS[:1] * 4, TASKS[2:] * 4)
    assert two.value == pytest.approx(one.value)
    assert two.high - two.low < 0.7 * (one.high - one.low)


def test_an_improvement_of_runs_that_never_overlap_or_of_a_single_run_has_no_interval() -> None:
    for ours in (np.array([5.0, 6, 7]), np.array([5.0])):
        found = improvement([ours], [np.array([1.0, 2, 3])])
        assert found.value == 1 and np.isnan(found.low)


def test_the_effect_needed_is_welchs_of_two_groups_and_the_normal_one_of_many_seeds() -> None:
    needed = np.quantile(effects_needed([(1, 2.0, 8), (-1, 2.0, 4)]), 0.8)
    ours, theirs = RNG.normal(needed, 2, (8, 8000)), RNG.normal(0, 2, (4, 8000))
    assert np.mean(ttest_ind(ours, theirs, equal_var=False).pvalue < 0.05) == pytest.approx(0.8, abs=0.02)
    groups = [(sign / 4, 1.0, 400) for sign in (1, -1) for _ in range(4)]
    exact = (norm.ppf(0.975) + norm.ppf(0.8)) * np.sqrt(8 / 16 / 400)
    assert np.quantile(effects_needed(groups), 0.8) == pytest.approx(exact, rel=0.03)


def test_a_contrast_over_tasks_has_welch_and_satterthwaites_freedom() -> None:
    groups = [(0.5, np.array([1.0, 2, 4])), (0.5, np.array([0.0, 5, 1])), (-0.5, np.array([1.0, 1, 2, 3]))]
    parts = [0.25 * x.var(ddof=1) / len(x) for _, x in groups]
    freedom = sum(parts) ** 2 / sum(part**2 / (len(x) - 1) for part, (_, x) in zip(parts, groups, strict=True))
    found = contrast(groups)
    assert found.value == pytest.approx(0.5 * 7 / 3 + 0.5 * 2 - 0.5 * 7 / 4)
    assert found.high - found.value == pytest.approx(t.ppf(0.975, freedom) * np.sqrt(sum(parts)))


def test_rank_correlation_is_scipys_whatever_is_equal() -> None:
    x, y = RNG.normal(size=20), RNG.normal(size=20)
    x[:6], y[3:8] = 0.0, 1.0
    found, exact = rank_correlation(x, y), spearmanr(x, y)
    assert found.value == pytest.approx(exact.statistic)
    assert found.p_not_above + found.p_not_below == pytest.approx(1, abs=0.05)
    assert 2 * min(found.p_not_above, found.p_not_below) == pytest.approx(exact.pvalue, abs=0.03)
    assert rank_correlation(x**3, y).value == pytest.approx(found.value)


def test_interval_of_a_rank_correlation_covers_as_often_as_it_says() -> None:
    """For normal pairs, whose rank correlation is 6 / π · asin(r / 2)."""
    truth, inside = 6 / np.pi * np.arcsin(0.8 / 2), 0
    for seed in range(80):
        x, noise = np.random.default_rng(seed).normal(size=(2, 20))
        found = rank_correlation(x, 0.8 * x + 0.6 * noise)
        inside += found.low <= truth <= found.high
    assert 0.88 <= inside / 80 <= 0.99


def test_pairs_in_order_leave_no_interval_and_constants_no_correlation() -> None:
    x = np.arange(8.0)
    found = rank_correlation(x, -np.exp(x))
    assert (
        found.value == pytest.approx(-1) and np.isnan(found.low) and found.p_not_below == pytest.approx(1e-4, rel=1.1)
    )
    assert np.isnan(rank_correlation(x, np.ones(8)).value)
