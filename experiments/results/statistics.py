"""Statistics of scores over several tasks, with intervals, as rliable defines them (arXiv 2108.13264).

Scores are a sequence with an array for each task, (..., runs): the last axis counts the runs of the task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Scores = Sequence[Array]

RESAMPLES = 10_000


def mean(scores: Scores) -> Array:
    """The mean over tasks of the mean over their runs, (...)."""
    return np.mean([task.mean(-1) for task in scores], axis=0)


def interquartile_mean(scores: Scores) -> Array:
    """The mean of the middle half of all runs of all tasks, (...); a quarter, rounded down, is left out at each end."""
    ordered = np.sort(np.concatenate(scores, axis=-1), axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(-1)


def probability_of_improvement(ours: Scores, theirs: Scores) -> Array:
    """The probability that a run of ours is better than one of theirs on the same task, the mean over tasks, (...).

    Of each task it is Mann and Whitney's U over the number of pairs; a draw counts half.
    """
    pairs = [(x[..., :, None], y[..., None, :]) for x, y in zip(ours, theirs, strict=True)]
    return np.mean([((x > y) + 0.5 * (x == y)).mean((-2, -1)) for x, y in pairs], axis=0)


def stratified_interval(
    statistic: Callable[..., Array], *groups: Scores, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic; the runs of each task are resampled apart, with replacement.

    Args:
        statistic: of as many groups of scores as are given.
        groups: scores with (runs,) for each task.

    Returns:
        Low and high end; nan if a task has one run only, which tells nothing of the spread.
    """
    if any(len(task) < 2 for scores in groups for task in scores):
        return np.nan, np.nan
    rng: Any = np.random.default_rng(0)
    resampled = [[task[rng.integers(len(task), size=(RESAMPLES, len(task)))] for task in scores] for scores in groups]
    low, high = np.quantile(statistic(*resampled), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
