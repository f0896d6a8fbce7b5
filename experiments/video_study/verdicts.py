"""Predictions P1 to P4 of learning from video, each judged by criteria fixed here and computed from the cells.

A criterion holds if its whole 95 % t interval over seeds lies on the predicted side of its threshold, fails if the
whole interval lies on the other side, and is undecided otherwise. A prediction is refuted if one of its criteria fails,
confirmed if all hold, and undecided otherwise, also where cells are missing.

Returns are counted from the random policy's: "90 % of A's return" is random + 0.9·(A − random).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite, log, nan

import numpy as np

from experiments.results.statistics import Estimate, Growth, contrast, fit_growth
from experiments.video_study.cells import (
    METHODS,
    NOISES,
    Cell,
    LockCell,
    Results,
    by,
    core,
    oracle,
    select,
    settings,
    state_unit,
    values,
)

CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"

KEEPS = 0.9
"""The share of a return that "as good as" must reach, and that "falls clearly" must stay under."""
FAR_ABOVE = 0.10
"""The state probe's score above the random encoder's; half of what that lacks, where it lacks less than twice this."""
DOMINATES = 0.2
"""The share of pixels from which noise is taken to dominate: an autoencoder that survives less refutes nothing."""
GROWS = log(2) / 2
"""The rate that episodes must exceed to grow exponentially: half of guessing's, twice a linear growth's."""
POLYNOMIAL = 3.0
"""Highest degree that counts as polynomial: a generous bound on tabular learning with optimism in a lock."""

STATEMENTS = {
    "P1": "Under iid noise, temporal contrast and forward modelling recover the state and serve RL like ACRO and the "
    "oracle",
    "P2": "Under exogenous noise temporal contrast fails first, forward modelling falls with coverage, ACRO stays",
    "P3": "Autoencoders fall with any noise that dominates the pixels",
    "P4": "Encoders from video need exponentially many episodes in the horizon, from action labels polynomially many",
}
FEW_RUNS = "needs runs solved at 3 horizons for each seed"
NO_GAIN = "the oracle is no better than the random policy"
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
            return f"all of its {len(self.parts)} criteria hold"
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
    acro = select(iid, method="inverse_model")
    parts = []
    for method in ("temporal_contrastive", "forward_model"):
        cells, name = select(iid, method=method), METHODS[method]
        kept = share_kept(
            f"{name}: at least 90 % of the oracle's return", "share of oracle's return", True, cells, ends
        )
        beside_acro = share_kept(f"{name}: at least 90 % of ACRO's return", "share of ACRO's return", True, cells, acro)
        read = reads_state(f"{name}: state read far above the random encoder", state_unit(domain), cells, random)
        parts += [kept if kept.note else replace(kept, note=note), beside_acro, read]
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
        fails_first(results, domain),
        falls_with_coverage(results, domain),
        share_kept(
            "ACRO: exogenous noise costs less than 10 % of its noiseless return",
            "share of its noiseless return",
            True,
            select(acro, noise="exogenous"),
            select(acro, noise="none"),
        ),
    ]


def coverages(results: Results, domain: str, method: str, noise: str) -> list[list[Cell]]:
    """The cells of each amount of noise that was run, the least first."""
    cells = [*core(results, domain, method=method), *select(results.cells, domain=domain, study="size", method=method)]
    return sorted(settings(select(cells, noise=noise)), key=lambda group: values(group, "coverage").mean())


def percent(cells: Sequence[Cell]) -> str:
    return f"{100 * values(cells, 'coverage').mean():.0f} %"


def oracle_gain(ends: Sequence[Cell]) -> float:
    """The oracle's return above the random policy's: the unit of what a method loses."""
    return float(values(ends, "final_return").mean() - values(ends, "random_return").mean())


def fails_first(results: Results, domain: str) -> Part:
    """At the least exogenous noise that was run: later, both may have nothing left to lose."""
    contrastive, forward = (
        next(iter(coverages(results, domain, method, "exogenous")), [])
        for method in ("temporal_contrastive", "forward_model")
    )
    at = f" over {percent(contrastive)} of the pixels" if contrastive else ""
    criterion = f"contrastive: less return than the forward model under exogenous noise{at}"
    unit, ends = "difference, share of oracle's return", oracle(results, domain, "exogenous")
    if not (contrastive and forward and ends):
        return undecided(criterion, unit, 0.0, False, "cells are missing")
    if (gain := oracle_gain(ends)) <= 0:
        return undecided(criterion, unit, 0.0, False, NO_GAIN)
    ours, theirs = values(contrastive, "final_return"), values(forward, "final_return")
    n = min(len(ours), len(theirs))
    return judged(criterion, unit, 0.0, False, contrast([(1.0, ours), (-1.0, theirs)]), gain, n)


def falls_with_coverage(results: Results, domain: str) -> Part:
    """The slope of the return over the covered share of pixels; each seed gives one slope, being one experiment."""
    criterion = "forward model: return falls as exogenous noise covers more pixels"
    unit = "share of oracle's return, per 10 % of pixels"
    ends = oracle(results, domain, "exogenous")
    groups = coverages(results, domain, "forward_model", "exogenous")
    by_seed = by((cell for group in groups for cell in group), "seed")
    seeds = [cells for cells in by_seed.values() if len(cells) == len(groups)]
    if len(groups) < 2 or not (seeds and ends):
        return undecided(criterion, unit, 0.0, False, "no sweep of the noise's size" if ends else "no oracle")
    if (gain := oracle_gain(ends)) <= 0:
        return undecided(criterion, unit, 0.0, False, NO_GAIN)
    slopes = [np.polyfit([c.coverage for c in cells], [c.final_return for c in cells], 1)[0] for cells in seeds]
    part = judged(criterion, unit, 0.0, False, contrast([(1.0, np.array(slopes))]), 10 * gain, len(seeds))
    returns = ", ".join(f"{values(group, 'final_return').mean():.2f} at {percent(group)}" for group in groups)
    return replace(part, note=f"mean return {returns}") if part.seeds > 1 else part


def autoencoder_parts(results: Results, domain: str) -> list[Part]:
    """At the largest coverage that was run; the vector-quantised form counts where it was run."""
    parts = []
    for method in ("autoencoder", "vq_autoencoder"):
        if method == "vq_autoencoder" and not select(results.cells, domain=domain, method=method):
            continue
        for noise in ("iid", "exogenous"):
            worst = ([], *coverages(results, domain, method, noise))[-1]
            at = f" over {percent(worst)} of the pixels" if worst else ""
            part = share_kept(
                f"{METHODS[method]}: {NOISES[noise]}{at} costs more than 10 % of its noiseless return",
                "share of its noiseless return",
                False,
                worst,
                core(results, domain, method=method, noise="none"),
            )
            if part.outcome == REFUTED and values(worst, "coverage").mean() < DOMINATES:
                part = replace(part, outcome=UNDECIDED, note=f"under {100 * DOMINATES:.0f} % noise need not dominate")
            parts.append(part)
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


def growths(method: str, lock: Sequence[LockCell]) -> tuple[list[tuple[Growth, Growth]], str]:
    """Each seed's growth fitted as exponential and as polynomial, none if a seed can't be; and how many were given up.

    A seed is one lock, encoder and learner at each horizon, so seeds are what the intervals are over.
    """
    cells = [c for c in lock if c.method == method]
    fits = []
    for own in by(cells, "seed").values():
        horizons, episodes = values(own, "horizon"), values(own, "episodes")
        solved = np.array([c.solved for c in own], dtype=bool)
        as_exponential, as_power = (fit_growth(x, episodes, solved) for x in (horizons, np.log(horizons)))
        if not (as_exponential and as_power):
            return [], ""
        fits.append((as_exponential, as_power))
    return fits, f"{sum(not c.solved for c in cells)} of {len(cells)} runs unsolved, counted as lower bounds"


def exponential(method: str, lock: Sequence[LockCell]) -> list[Part]:
    name = METHODS[method]
    grows = (f"{name}: episodes grow exponentially", "rate per step of horizon", GROWS, True)
    better = (f"{name}: exponential growth fits better than polynomial", "AIC difference", 0.0, True)
    fits, given_up = growths(method, lock)
    rate = over_seeds(*grows, [exponential.slope for exponential, _ in fits])
    note = f"degree {np.mean([power.slope for _, power in fits]):.1f} if polynomial; {given_up}" if fits else ""
    return [
        rate if rate.note else replace(rate, note=note),
        over_seeds(*better, [power.aic - exponential.aic for exponential, power in fits]),
    ]


def polynomial(method: str, lock: Sequence[LockCell]) -> list[Part]:
    name = METHODS[method]
    bounded = (f"{name}: episodes grow no faster than H³", "degree in the horizon", POLYNOMIAL, False)
    better = (f"{name}: polynomial growth fits better than exponential", "AIC difference", 0.0, True)
    fits, given_up = growths(method, lock)
    degree = over_seeds(*bounded, [power.slope for _, power in fits])
    return [
        degree if degree.note else replace(degree, note=given_up),
        over_seeds(*better, [exponential.aic - power.aic for exponential, power in fits]),
    ]


def over_seeds(criterion: str, unit: str, threshold: float, above: bool, found: Sequence[float]) -> Part:
    """One number a seed against a threshold."""
    if not found:
        return undecided(criterion, unit, threshold, above, FEW_RUNS)
    return judged(criterion, unit, threshold, above, contrast([(1.0, np.array(found))], -threshold), 1.0, len(found))
