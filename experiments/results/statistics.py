"""The statistics of every report: intervals over seeds, scores over tasks, power, and growth of censored counts.

Intervals are t intervals or missing. A percentile bootstrap of three seeds would end at their minimum and maximum, and
cover the mean in 76 of 100 cases, not in 95.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize
from scipy.special import log_ndtr, ndtri, stdtr, stdtrit

from rlrep.experiments.results.runs import Array

Scores = Sequence[Array]
"""An array for each task, (..., runs): the last axis counts the runs of the task."""

FEWEST = 3
"""The number of seeds from which a mean has an interval: for two seeds, it would be 25 times as wide as their
spread."""
RESAMPLES = 10_000
ROUNDING = 1e-12  # relative to the numbers


@dataclass(frozen=True)
class Estimate:
    """A value, its two-sided 95 % interval, and one-sided p values against 0 (nan if missing)."""

    value: float
    low: float = nan
    high: float = nan
    p_not_above: float = nan
    p_not_below: float = nan

    def text(self, digits: int = 1, kind: str = "f") -> str:
        """`value [low, high]`, or only the value."""
        interval = "" if np.isnan(self.low) else f" [{self.low:.{digits}{kind}}, {self.high:.{digits}{kind}}]"
        return f"{self.value:.{digits}{kind}}{interval}"


def contrast(terms: Sequence[tuple[float, Array]], constant: float = 0.0) -> Estimate:
    """Of Σ cᵢ·mean(xᵢ) + constant over independent groups of seeds: Welch's t interval.

    Args:
        terms: pairs of a coefficient and a group's values, (seeds,).

    Returns:
        Without an interval if a group has a single seed. Groups that do not vary at all give one of width 0.
    """
    if min(len(x) for _, x in terms) < 2:
        return Estimate(constant + sum(c * x.mean() for c, x in terms))
    total, error, freedom = map(float, welch(terms))
    value = constant + total
    smallest = ROUNDING * max(abs(constant), *(float(np.abs(c * x).max()) for c, x in terms))
    if error <= smallest:  # means of equal numbers differ in their last digits
        value = 0.0 if abs(value) <= smallest else value
        return Estimate(value, value, value, float(value <= 0), float(value >= 0))
    width = float(stdtrit(freedom, 0.975)) * error
    p = float(stdtr(freedom, -value / error))
    return Estimate(value, value - width, value + width, p, 1 - p)


def welch(terms: Sequence[tuple[float, Array]]) -> tuple[Array, Array, Array]:
    """Σ cᵢ·mean(xᵢ) over independent groups of seeds, its standard error, and Welch and Satterthwaite's degrees of
    freedom (nan where no group varies), each (...).

    Args:
        terms: pairs of a coefficient and a group's values, (..., seeds) with at least two seeds.
    """
    value = np.sum([c * x.mean(-1) for c, x in terms], axis=0)
    parts = [c**2 * x.var(-1, ddof=1) / x.shape[-1] for c, x in terms]
    squares = np.sum([part**2 / (x.shape[-1] - 1) for part, (_, x) in zip(parts, terms, strict=True)], axis=0)
    variance = np.sum(parts, axis=0)
    with np.errstate(invalid="ignore"):
        return value, np.sqrt(variance), np.divide(variance**2, squares)


def holm(p: Array) -> Array:
    """(n,) corrected p values of n tests: at a level α, with probability 1 - α no test with a true null hypothesis is
    rejected, however the tests depend on each other (Holm, 1979).
    """
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.arange(len(p), 0, -1) * np.asarray(p)[order]))
    return corrected


def rank_correlation(x: Array, y: Array) -> Estimate:
    """Spearman's, of (n,) pairs: with the interval of Fisher's z, whose variance is 1.06 / (n - 3) (Fieller, Hartley
    and Pearson, 1957), and p values from random permutations of one of both.

    Returns:
        Without an interval for fewer than five pairs or where all are in order; nan if either does not vary.
    """
    first, second = ranks(x), ranks(y)
    if not (first.std() and second.std()):
        return Estimate(nan)
    first, second = ((r - r.mean()) / r.std() / sqrt(len(r)) for r in (first, second))
    value = float(np.clip(first @ second, -1, 1))
    shuffled = np.random.default_rng(0).permuted(np.tile(second, (RESAMPLES, 1)), axis=1) @ first
    slack = 1e-9  # by which sums in another order may differ
    above, below = (
        (1 + int(found.sum())) / (1 + RESAMPLES) for found in (shuffled > value - slack, shuffled < value + slack)
    )
    if len(x) < 5 or abs(value) > 1 - slack:
        return Estimate(value, p_not_above=above, p_not_below=below)
    width = float(ndtri(0.975)) * sqrt(1.06 / (len(x) - 3))
    low, high = np.tanh(np.arctanh(value) + np.array([-width, width]))
    return Estimate(value, float(low), float(high), above, below)


def ranks(values: Array) -> Array:
    """(n,) from 1 on; equal values share the mean of theirs."""
    _, number, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[number]


def effects_needed(groups: Sequence[tuple[float, float, int]]) -> Array:
    """The true size of Σ cᵢ·mean(xᵢ) that puts its interval above 0, in each of many simulated tries; (tries,).

    A true effect is detected in each try whose value is not larger: the 0.8 quantile is detected in 80 of 100 tries.

    Args:
        groups: a coefficient, a standard deviation over seeds, and at least two seeds, for each group.
    """
    rng = np.random.default_rng(0)
    value, error, freedom = welch([(c, spread * rng.standard_normal((RESAMPLES, n))) for c, spread, n in groups])
    return stdtrit(freedom, 0.975) * error - value


@dataclass(frozen=True)
class Means:
    """A mean over seeds at each point, with its t interval; each (points,). nan where there is none."""

    seeds: NDArray[np.int64]
    mean: Array
    spread: Array
    """Standard deviation over seeds."""

    @property
    def margin(self) -> Array:
        """Half of the 95 % interval; nan for fewer than `FEWEST` seeds."""
        width = stdtrit(np.maximum(self.seeds - 1, 1), 0.975) / np.sqrt(np.maximum(self.seeds, 1)) * self.spread
        return np.where(self.seeds >= FEWEST, width, nan)

    @property
    def low(self) -> Array:
        return self.mean - self.margin

    @property
    def high(self) -> Array:
        return self.mean + self.margin


def over_seeds(runs: Array) -> Means:
    """The mean of (seeds, points) at each point; nan marks a seed without a value there."""
    known = np.isfinite(runs)
    seeds = known.sum(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        # Divided before they are added: the sum of finite values may overflow, their mean does not.
        mean = np.where(seeds > 0, np.nansum(runs / np.maximum(seeds, 1), axis=0), nan)
        squares = np.nansum((runs - mean) ** 2 / np.maximum(seeds - 1, 1), axis=0)
        return Means(seeds, mean, np.where(seeds > 1, np.sqrt(squares), nan))


def seed_mean(values: Array) -> Estimate:
    """The mean of (seeds,) values, with its t interval from `FEWEST` seeds on; nan of none."""
    found = over_seeds(np.asarray(values, float)[:, None])
    return Estimate(float(found.mean[0]), float(found.low[0]), float(found.high[0]))


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


def improvement(ours: Scores, theirs: Scores) -> Estimate:
    """`probability_of_improvement` of (runs,) for each task, with Brunner and Munzel's t interval, stratified by task.

    Returns:
        Without an interval if a task has a single run of ours or theirs, or runs of which no two overlap: its part of
        the variance would be 0.
    """
    value, terms = float(probability_of_improvement(ours, theirs)), []
    for x, y in zip(ours, theirs, strict=True):
        better = (x[:, None] > y) + 0.5 * (x[:, None] == y)
        terms += [(1 / len(ours), better.mean(1)), (1 / len(ours), better.mean(0))]
    found = contrast(terms, -value)  # the mean of either side's shares is the value
    if isnan(found.low) or not all(np.ptp(shares) > ROUNDING for _, shares in terms):
        return Estimate(value)
    return Estimate(value, max(0.0, found.low), min(1.0, found.high))


def improvement_by_chance(ours: Scores, theirs: Scores) -> tuple[float, float]:
    """The range of `probability_of_improvement` in 95 of 100 experiments of this size if both are equally good.

    It uses the exact variance of Mann and Whitney's U in each task, (m + n + 1) / (12·m·n), and a normal approximation
    of their mean over tasks.
    """
    sizes = [(x.shape[-1], y.shape[-1]) for x, y in zip(ours, theirs, strict=True)]
    width = float(ndtri(0.975)) * sqrt(sum((m + n + 1) / (12 * m * n) for m, n in sizes)) / len(sizes)
    return max(0.0, 0.5 - width), min(1.0, 0.5 + width)


@dataclass(frozen=True)
class Growth:
    """log(episodes) = intercept + slope·x with normal errors."""

    intercept: float
    slope: float
    aic: float

    def episodes(self, x: Array) -> Array:
        """The median of the episodes at each x."""
        return np.exp(self.intercept + self.slope * x)


def fit_growth(x: Array, episodes: Array, solved: NDArray[np.bool_]) -> Growth | None:
    """A Tobit regression: a run that was not solved counts as "more than `episodes`".

    Args:
        x: (runs,) the horizon (exponential growth, the slope is a rate) or its logarithm (polynomial, a degree).

    Returns:
        None where runs were solved at fewer than 3 values of x.
    """
    if len(np.unique(x[solved])) < 3:
        return None
    best = minimise(np.column_stack([np.ones_like(x), x]), np.log(episodes), solved)
    intercept, slope = best.x[1:] / best.x[0]
    return Growth(intercept, slope, 2 * 3 + 2 * best.fun)


def minimise(design: Array, y: Array, solved: NDArray[np.bool_]) -> OptimizeResult:
    """Maximum likelihood in (1/σ, β/σ), in which the Tobit model is concave (Olsen 1978)."""

    def loss(parameters: Array) -> tuple[float, Array]:
        precision, weights = parameters[0], parameters[1:]
        residual = precision * y - design @ weights
        value = 0.5 * (residual[solved] ** 2).sum() - solved.sum() * (np.log(precision) - 0.5 * np.log(2 * np.pi))
        value -= log_ndtr(-residual[~solved]).sum()
        hazard = np.exp(-0.5 * residual**2 - 0.5 * np.log(2 * np.pi) - log_ndtr(-residual))
        slope = np.where(solved, residual, hazard)
        gradient = np.concatenate([[slope @ y - solved.sum() / precision], -design.T @ slope])
        return value, gradient

    start, *_ = np.linalg.lstsq(design, y, rcond=None)
    sigma = max(0.05, float(np.std(y - design @ start)))
    bounds = [(1e-3, 100.0)] + [(None, None)] * design.shape[1]
    return minimize(loss, np.array([1, *start]) / sigma, jac=True, bounds=bounds, method="L-BFGS-B")
