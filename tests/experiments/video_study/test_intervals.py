"""Intervals: as wide as a handful of seeds deserves, and honest about runs that were given up."""

import numpy as np
import pytest
from scipy.stats import linregress, ttest_1samp, ttest_ind

from experiments.video_study.intervals import contrast, fit_growth, mean_interval

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


def test_one_seed_has_no_interval() -> None:
    estimate = contrast([(1.0, np.array([1.0])), (-1.0, np.array([0.2, 0.3]))])
    assert estimate.value == pytest.approx(0.75)
    assert np.isnan([estimate.low, estimate.high]).all()


def test_interval_at_each_point_is_the_t_interval_of_its_seeds() -> None:
    runs = np.random.default_rng(0).normal(size=(4, 3))
    low, high = mean_interval(runs)
    expected = ttest_1samp(runs, 0.0).confidence_interval()
    np.testing.assert_allclose([low, high], [expected.low, expected.high])
    assert np.isnan(mean_interval(runs[:2])).all()


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
