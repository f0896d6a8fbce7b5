"""Predictions P1 to P4 of learning from video, each judged by criteria fixed here and computed from the cells.

A criterion holds if its whole 95 % interval over seeds lies on the predicted side of its threshold, fails if the whole
interval lies on the other side, and is undecided otherwise. A prediction is refuted if one of its criteria fails,
confirmed if all hold, and undecided otherwise, also where cells are missing.

Returns are counted from the random policy's: "90 % of A's return" is random + 0.9·(A − random).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan

import numpy as np

from experiments.theory.intervals import Array, Estimate, contrast, fit_growth
from experiments.theory.results import (
    METHODS,
    NOISES,
    Cell,
    LockCell,
    Results,
    by,
    core,
    oracle,
    select,
    state_unit,
    sweep,
    values,
)

CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"

KEEPS = 0.9
"""The share of a return that "as good as" must reach, and that "falls clearly" must stay under."""
FAR_ABOVE = 0.10
"""The state probe's score above the random encoder's; half of what that lacks, where it lacks less than twice this."""
AIC_DECIDES = 2.0
"""A smaller difference of AIC decides nothing."""
POLYNOMIAL = 3.0
"""Highest degree that counts as polynomial: a generous bound on tabular learning with optimism in a lock."""

STATEMENTS = {
    "P1": "Under iid noise, temporal contrast and forward modelling recover the state and serve RL like the oracle",
    "P2": "Under exogenous noise temporal contrast fails, forward modelling falls with coverage, ACRO stays",
    "P3": "Autoencoders fall with any noise that dominates the pixels",
    "P4": "Encoders from video need exponentially many episodes in the horizon, from action labels polynomially many",
}
FEW_RUNS = "needs 3 horizons and 3 solved runs"
VIDEO = ("temporal_contrastive", "forward_model", "autoencoder", "vq_autoencoder")


@dataclass(frozen=True)
class Part:
    """One criterion: the prediction is that `estimate` lies above (or below) `threshold`."""

    criterion: str
    unit: str
    threshold: float
    above: bool
    outcome: str
    estimate: float = nan
    low: float = nan
    high: float = nan
    p: float = nan
    seeds: int = 0
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    prediction: str
    domain: str
    parts: list[Part]

    @property
    def statement(self) -> str:
        return STATEMENTS[self.prediction]

    @property
    def outcome(self) -> str:
        outcomes = {part.outcome for part in self.parts}
        return REFUTED if REFUTED in outcomes else CONFIRMED if outcomes == {CONFIRMED} else UNDECIDED

    @property
    def reason(self) -> str:
        """The criteria that decide it."""
        if self.outcome == CONFIRMED:
            return f"all {len(self.parts)} criteria hold"
        held = sum(part.outcome == CONFIRMED for part in self.parts)
        what = "fails" if self.outcome == REFUTED else "open"
        deciding = [part.criterion for part in self.parts if part.outcome == self.outcome]
        return f"{held} of {len(self.parts)} criteria hold; {what}: {'; '.join(deciding)}"


def verdicts(results: Results) -> list[Verdict]:
    """P1 to P3 for each domain that has cells, P4 for the lock; missing cells leave a criterion undecided."""
    found = [
        Verdict(prediction, domain, parts(results, domain))
        for domain in results.domains
        for prediction, parts in PREDICTIONS.items()
    ]
    return found + ([Verdict("P4", "lock", lock_parts(results.lock))] if results.lock else [])


def decide(low: float, high: float, threshold: float, above: bool) -> str:
    """nan decides nothing."""
    if low > threshold or high < threshold:
        return CONFIRMED if (low > threshold) == above else REFUTED
    return UNDECIDED


def undecided(criterion: str, unit: str, threshold: float, above: bool, note: str) -> Part:
    return Part(criterion, unit, threshold, above, UNDECIDED, note=note)


def judged(criterion: str, unit: str, threshold: float, above: bool, excess: Estimate, scale: float, n: int) -> Part:
    """A part whose estimate is threshold + excess/scale: the test of `excess` against 0, in units a person reads."""
    estimate, low, high = (threshold + value / scale for value in (excess.value, excess.low, excess.high))
    p = excess.p_not_above if above else excess.p_not_below
    note = "one seed has no interval" if n < 2 else ""
    return Part(criterion, unit, threshold, above, decide(low, high, threshold, above), estimate, low, high, p, n, note)


def share_kept(criterion: str, unit: str, above: bool, cells: Sequence[Cell], whole: Sequence[Cell]) -> Part:
    """How much of the return of `whole` do `cells` reach, both counted from the random policy: against KEEPS.

    Tested as mean(cells) − 0.9·mean(whole) − 0.1·random, so that no ratio of noisy numbers is taken.
    """
    if not (cells and whole):
        return undecided(criterion, unit, KEEPS, above, "cells are missing")
    random = float(values((*cells, *whole), "random_return").mean())
    ours, theirs = values(cells, "final_return") - random, values(whole, "final_return") - random
    reference, n = contrast([(1.0, theirs)]), min(len(ours), len(theirs))
    if reference.value <= 0 or reference.low <= 0:
        note = f"the return to be kept ({reference.value + random:.2f}) is not clearly above the random policy's"
        return undecided(criterion, unit, KEEPS, above, note)
    return judged(criterion, unit, KEEPS, above, contrast([(1.0, ours), (-KEEPS, theirs)]), theirs.mean(), n)


def reads_state(criterion: str, score: str, cells: Sequence[Cell], random: Sequence[Cell]) -> Part:
    """Score of the linear probe above the random encoder's, against FAR_ABOVE."""
    unit, ours, theirs = f"{score} above random encoder", values(cells, "state_linear"), values(random, "state_linear")
    if not (len(ours) and len(theirs)):
        return undecided(criterion, unit, FAR_ABOVE, True, "cells are missing")
    n = min(len(ours), len(theirs))
    if theirs.mean() <= 1 - 2 * FAR_ABOVE:
        return judged(criterion, unit, FAR_ABOVE, True, contrast([(1.0, ours), (-1.0, theirs)], -FAR_ABOVE), 1.0, n)
    half = float(1 - theirs.mean()) / 2
    return judged(criterion, unit, half, True, contrast([(1.0, ours), (-0.5, theirs)], -0.5), 1.0, n)


def iid_parts(results: Results, domain: str) -> list[Part]:
    iid, ends = core(results, domain, noise="iid"), oracle(results, domain, "iid")
    random = select(iid, method="random")
    # Where a random encoder does as well, the return says little of what was learned.
    beside = share_kept("", "", True, random, ends).estimate
    note = f"random encoder: {beside:.2f}" if isfinite(beside) else ""
    parts = []
    for method in ("temporal_contrastive", "forward_model"):
        cells, name = select(iid, method=method), METHODS[method]
        kept = share_kept(
            f"{name}: at least 90 % of the oracle's return", "share of oracle's return", True, cells, ends
        )
        read = reads_state(f"{name}: state read far above the random encoder", state_unit(domain), cells, random)
        parts += [kept if kept.note else replace(kept, note=note), read]
    return parts


def exogenous_parts(results: Results, domain: str) -> list[Part]:
    contrastive, acro = (core(results, domain, method=m) for m in ("temporal_contrastive", "inverse_model"))
    return [
        share_kept(
            "contrastive: exogenous noise costs more than 10 % of its return under iid noise",
            "share of its iid return",
            False,
            select(contrastive, noise="exogenous"),
            select(contrastive, noise="iid"),
        ),
        falls_with_coverage(results, domain),
        share_kept(
            "ACRO: exogenous noise costs less than 10 % of its noiseless return",
            "share of its noiseless return",
            True,
            select(acro, noise="exogenous"),
            select(acro, noise="none"),
        ),
    ]


def falls_with_coverage(results: Results, domain: str) -> Part:
    """The slope of the return over the covered share of pixels; each seed gives one slope, being one experiment."""
    criterion = "forward model: return falls as exogenous noise covers more pixels"
    unit = "share of oracle's return, per 10 % of pixels"
    ends = oracle(results, domain, "exogenous")
    swept = by(sweep(results, domain, "size", method="forward_model", noise="exogenous"), "seed")
    seeds = [cells for cells in swept.values() if len({c.coverage for c in cells}) > 1]
    if not (seeds and ends):
        return undecided(criterion, unit, 0.0, False, "no sweep of the noise's size" if ends else "no oracle")
    gain = float(values(ends, "final_return").mean() - values(ends, "random_return").mean())
    if gain <= 0:
        return undecided(criterion, unit, 0.0, False, "the oracle is no better than the random policy")
    slopes = [np.polyfit([c.coverage for c in cells], [c.final_return for c in cells], 1)[0] for cells in seeds]
    return judged(criterion, unit, 0.0, False, contrast([(1.0, np.array(slopes))]), 10 * gain, len(seeds))


def autoencoder_parts(results: Results, domain: str) -> list[Part]:
    """At the largest coverage that was run; the vector-quantised form counts where it was run."""
    parts = []
    for method in ("autoencoder", "vq_autoencoder"):
        cells = [*core(results, domain, method=method), *sweep(results, domain, "size", method=method)]
        if method == "vq_autoencoder" and not cells:
            continue
        for noise in ("iid", "exogenous"):
            noisy = select(cells, noise=noise)
            most = max((c.coverage for c in noisy), default=nan)
            setting = next(((c.num_shapes, c.size) for c in noisy if c.coverage == most), None)
            worst = {c.seed: c for c in noisy if (c.num_shapes, c.size) == setting}
            at = f" over {100 * values(worst.values(), 'coverage').mean():.0f} % of the pixels" if worst else ""
            parts.append(
                share_kept(
                    f"{METHODS[method]}: {NOISES[noise]}{at} costs more than 10 % of its noiseless return",
                    "share of its noiseless return",
                    False,
                    list(worst.values()),
                    core(results, domain, method=method, noise="none"),
                )
            )
    return parts


PREDICTIONS: dict[str, Callable[[Results, str], list[Part]]] = {
    "P1": iid_parts,
    "P2": exogenous_parts,
    "P3": autoencoder_parts,
}


def lock_parts(lock: Sequence[LockCell]) -> list[Part]:
    run = {c.method for c in lock}
    # The two that the theory is about are asked for; the autoencoders count where they were run.
    asked = [m for m in VIDEO if m in run or m in ("temporal_contrastive", "forward_model")]
    parts = [part for method in asked for part in exponential(method, lock)]
    return [*parts, *polynomial("inverse_model", lock)]


def runs(method: str, lock: Sequence[LockCell]) -> tuple[Array, Array, np.ndarray, int]:
    """Horizons, episodes, whether solved (runs,), and the number of seeds."""
    cells = [c for c in lock if c.method == method]
    horizons, episodes = values(cells, "horizon"), values(cells, "episodes")
    return horizons, episodes, np.array([c.solved for c in cells], dtype=bool), len({c.seed for c in cells})


def exponential(method: str, lock: Sequence[LockCell]) -> list[Part]:
    horizons, episodes, solved, seeds = runs(method, lock)
    name = METHODS[method]
    grows = (f"{name}: episodes grow exponentially", "rate per step of horizon", 0.0, True)
    better = (f"{name}: exponential growth fits better than polynomial", "AIC difference", 0.0, True)
    as_exponential, as_power = (fit_growth(x, episodes, solved) for x in (horizons, np.log(horizons)))
    if not (as_exponential and as_power):
        return [undecided(*grows, FEW_RUNS), undecided(*better, FEW_RUNS)]
    rate = as_exponential.slope
    note = f"degree {as_power.slope.value:.1f} if polynomial; {censored(solved)}"
    return [
        Part(*grows, decide(rate.low, rate.high, 0.0, True), rate.value, rate.low, rate.high, nan, seeds, note),
        fits_better(*better, as_power.aic - as_exponential.aic, seeds),
    ]


def polynomial(method: str, lock: Sequence[LockCell]) -> list[Part]:
    horizons, episodes, solved, seeds = runs(method, lock)
    name = METHODS[method]
    bounded = (f"{name}: episodes grow no faster than H³", "degree in the horizon", POLYNOMIAL, False)
    better = (f"{name}: polynomial growth fits better than exponential", "AIC difference", 0.0, True)
    as_exponential, as_power = (fit_growth(x, episodes, solved) for x in (horizons, np.log(horizons)))
    if not (as_exponential and as_power):
        return [undecided(*bounded, FEW_RUNS), undecided(*better, FEW_RUNS)]
    degree, outcome = as_power.slope, decide(as_power.slope.low, as_power.slope.high, POLYNOMIAL, False)
    return [
        Part(*bounded, outcome, degree.value, degree.low, degree.high, nan, seeds, censored(solved)),
        fits_better(*better, as_exponential.aic - as_power.aic, seeds),
    ]


def fits_better(criterion: str, unit: str, threshold: float, above: bool, difference: float, seeds: int) -> Part:
    outcome = decide(difference - AIC_DECIDES, difference + AIC_DECIDES, threshold, above)
    note = f"a difference under {AIC_DECIDES:g} decides nothing"
    return Part(criterion, unit, threshold, above, outcome, difference, seeds=seeds, note=note)


def censored(solved: np.ndarray) -> str:
    return f"{len(solved) - solved.sum()} of {len(solved)} runs unsolved, counted as lower bounds"
