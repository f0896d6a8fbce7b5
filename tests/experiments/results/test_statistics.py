"""The statistics of scores over tasks, against SciPy, by hand, and in what they promise."""

import numpy as np
import pytest

from experiments.results.statistics import interquartile_mean, mean, probability_of_improvement, stratified_interval

RNG = np.random.default_rng(0)
TASKS = [RNG.normal(size=5), RNG.normal(size=5) + 3, RNG.normal(size=5) * 4]


def test_the_interquartile_mean_is_scipys_trimmed_mean_of_all_runs() -> None:
    stats = pytest.importorskip("scipy.stats")
    for runs in (1, 3, 5):
        scores = [task[:runs] for task in TASKS]
        assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(np.concatenate(scores), 0.25))


def test_improvement_is_mann_and_whitneys_u_over_the_pairs() -> None:
    stats = pytest.importorskip("scipy.stats")
    ours, theirs = [np.array([1.0, 2, 3]), TASKS[1]], [np.array([2.0, 2, 0, 5]), TASKS[0]]
    expected = [stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)) for x, y in zip(ours, theirs, strict=True)]
    assert probability_of_improvement(ours, theirs) == pytest.approx(np.mean(expected))
    assert probability_of_improvement(ours, ours) == 0.5


def test_a_task_counts_as_much_as_another_whatever_its_runs() -> None:
    assert mean([np.array([0.0]), np.array([1.0, 1, 1])]) == 0.5


def test_statistics_of_resamples_are_those_of_each() -> None:
    stacked = [np.stack([task, task + 1]) for task in TASKS]
    for statistic in (mean, interquartile_mean):
        np.testing.assert_allclose(statistic(stacked), [statistic(TASKS), statistic([task + 1 for task in TASKS])])
    both = probability_of_improvement(stacked, stacked[::-1])
    assert both[0] == pytest.approx(probability_of_improvement(TASKS, TASKS[::-1]))


def test_runs_are_resampled_within_their_task() -> None:
    far_apart = [np.array([0.0, 1]), np.array([1000.0, 1001])]
    low, high = stratified_interval(mean, far_apart)
    assert (low, high) == (500, 501)  # mixed tasks would reach from 0 to 1001


def test_an_interval_of_the_mean_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = [
        (low < 0) & (high > 0)
        for low, high in (stratified_interval(mean, [rng.normal(size=12), rng.normal(size=12)]) for _ in range(100))
    ]
    assert 0.85 < np.mean(covered) < 0.99


def test_one_run_of_a_task_has_no_interval() -> None:
    assert np.isnan(stratified_interval(mean, [np.array([1.0]), np.array([1.0, 2])])).all()
