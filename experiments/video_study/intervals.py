"""Intervals for a handful of seeds: t intervals of contrasts of means, and growth fitted to censored counts.

A bootstrap of three seeds is far too narrow to decide anything, so the study rests on these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numpy.typing import NDArray

try:
    from scipy.optimize import OptimizeResult, minimize
    from scipy.special import log_ndtr
    from scipy.stats import t
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('the verdicts need scipy: pip install "rlrep[theory]"') from error

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value, its two-sided 95 % interval, and one-sided p values against 0 (nan where there is none)."""

    value: float
    low: float = nan
    high: float = nan
    p_not_above: float = nan
    p_not_below: float = nan


def contrast(terms: Sequence[tuple[float, Array]], constant: float = 0.0) -> Estimate:
    """Of Σ cᵢ·mean(xᵢ) + constant over independent groups of seeds: Welch's t interval.

    Args:
        terms: pairs of a coefficient and a group's values, (seeds,).

    Returns:
        Without an interval if a group has a single seed. Groups that do not vary at all give one of width 0.
    """
    value = constant + sum(c * x.mean() for c, x in terms)
    if min(len(x) for _, x in terms) < 2:
        return Estimate(value)
    parts = np.array([c**2 * x.var(ddof=1) / len(x) for c, x in terms])
    error = sqrt(parts.sum())
    if error == 0:
        return Estimate(value, value, value, float(value <= 0), float(value >= 0))
    freedom = parts.sum() ** 2 / sum(part**2 / (len(x) - 1) for part, (_, x) in zip(parts, terms, strict=True))
    width = float(t.ppf(0.975, freedom)) * error
    p = float(t.sf(value / error, freedom))
    return Estimate(value, value - width, value + width, p, 1 - p)


def mean_interval(runs: Array) -> tuple[Array, Array]:
    """Ends of the mean's t interval at each point: (seeds, points) to (points,) twice, nan for fewer than 3 seeds."""
    n = len(runs)
    if n < 3:
        return np.full(runs.shape[1:], nan), np.full(runs.shape[1:], nan)
    mean, width = runs.mean(0), float(t.ppf(0.975, n - 1)) * runs.std(0, ddof=1) / sqrt(n)
    return mean - width, mean + width


@dataclass(frozen=True)
class Growth:
    """log(episodes) = intercept + slope·x with normal errors."""

    intercept: float
    slope: float
    aic: float

    def episodes(self, x: Array) -> Array:
        """Their median at each x."""
        return np.exp(self.intercept + self.slope * x)


def fit_growth(x: Array, episodes: Array, solved: NDArray[np.bool_]) -> Growth | None:
    """A Tobit regression: a run that was not solved counts as needing more than its `episodes`, no less and no more.

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
