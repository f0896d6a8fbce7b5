"""Predictions P1 to P5 of learning from video, judged by the criteria of `reports/theory/criteria.yaml` from the cells.

Each criterion is a t test over seeds. It holds if its one-sided p value is below the level. A prediction is confirmed
if all of its criteria hold, which needs no correction: all are less likely to hold by chance than one. It is refuted if
one fails, so p values against it get Holm's correction for the number of its criteria. Otherwise, also if cells are
missing, it is undecided.

Returns are measured from the random policy's: "90 % of A's return" is random + 0.9·(A − random). Both sides of a
comparison have the same seed, so the same map and recording, and the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite, isnan, nan

import numpy as np

from rlrep.experiments.results.statistics import Growth, contrast, fit_growth, holm, rank_correlation, seed_mean
from rlrep.experiments.video_study import phase
from rlrep.experiments.video_study.cells import (
    DOMAINS,
    METHODS,
    NOISES,
    SWEEPS,
    Array,
    Cell,
    LockCell,
    Results,
    by,
    core,
    oracle,
    point,
    select,
    state_unit,
    sweep,
    values,
)
from rlrep.experiments.video_study.criteria import Criteria, Frozen, read_criteria

CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"

STATEMENTS = {
    "P1": "Under iid noise, temporal contrast and forward modelling recover the state and serve RL like ACRO and the "
    "ceiling",
    "P2": "Under exogenous noise temporal contrast fails first, forward modelling falls with coverage, ACRO stays",
    "P3": "Autoencoders fall with any noise that dominates the pixels",
    "P4": "Encoders from video need exponentially many episodes in the horizon, from action labels polynomially many",
    "P5": "Numbers known before training order where the state is lost: forward models by what noise explains of the "
    "pixels' variance, temporal contrast by how slowly it changes",
}
FEW_RUNS = "needs runs solved at 3 horizons for each seed"
MISSING = "cells are missing"
NO_GAIN = "the ceiling is no better than the random policy"
NO_YARDSTICK = "the ceiling ({name}) does not beat a random encoder under the same noise: it is no yardstick"


@dataclass(frozen=True)
class Part:
    """One criterion: the prediction is that `estimate` lies above (or below) `threshold`.

    Attributes:
        p, p_against: one-sided p values of the result for and against it, if the truth were at the threshold.
        barred: whether it is left undecided whatever its p values; `note` says why.
        outcome: of the criterion, once its prediction was judged.
    """

    criterion: str
    unit: str
    threshold: float
    above: bool
    estimate: float = nan
    low: float = nan
    high: float = nan
    p: float = nan
    p_against: float = nan
    seeds: int = 0
    note: str = ""
    barred: bool = False
    outcome: str = UNDECIDED

    def but(self, note: str, barred: bool = True) -> Part:
        """The same part with a note before its own; barred from a decision by default."""
        return replace(self, note="; ".join(filter(None, (note, self.note))), barred=self.barred or barred)


@dataclass(frozen=True)
class Verdict:
    """The verdict on a prediction in a domain; `exploratory` says why its cells were no test of it, and how many."""

    prediction: str
    domain: str
    parts: list[Part]
    exploratory: str = ""

    @property
    def statement(self) -> str:
        return STATEMENTS[self.prediction]

    @property
    def where(self) -> str:
        return DOMAINS[self.domain] + ", phase diagram" * (self.prediction == "P5")

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
    """P1 to P3 for each domain that has cells, P4 for the lock, P5 for the phase diagram, if a cell bears on them;
    missing cells leave a criterion undecided.
    """
    criteria, found = read_criteria(), []
    for domain in results.domains:
        cells = [cell for cell in select(results.cells, domain=domain) if cell.study in SWEEPS]
        if not cells:
            continue
        for prediction, asked in PREDICTIONS.items():
            parts = decided(asked(results, domain, criteria), criteria)
            found.append(Verdict(prediction, domain, parts, exploratory(cells, criteria)))
    if results.lock:
        parts = decided(lock_parts(results.lock, criteria), criteria)
        found.append(Verdict("P4", "lock", parts, exploratory(results.lock, criteria)))
    if measured := phase.cells(results):
        parts = decided(phase_parts(results, criteria), criteria)
        found.append(Verdict("P5", phase.DOMAIN, parts, exploratory(measured, criteria)))
    return [verdict for verdict in found if any(part.note != MISSING for part in verdict.parts)]


def exploratory(cells: Sequence[Cell | LockCell], criteria: Frozen) -> str:
    """Why cells are exploratory, and how many of them; empty if none is."""
    reasons = [reason for cell in cells if (reason := criteria.exploratory(cell))]
    counted = [f"{reasons.count(reason):,} of {len(cells):,} cells {reason}" for reason in dict.fromkeys(reasons)]
    return "; ".join(counted)


def decided(parts: Sequence[Part], criteria: Criteria) -> list[Part]:
    """The criteria of one prediction with their outcomes; what can't be tested counts in Holm's correction too."""
    against = holm(np.array([1.0 if part.barred or isnan(part.p_against) else part.p_against for part in parts]))
    out = []
    for part, p_against in zip(parts, against, strict=True):
        holds = not part.barred and part.p < criteria.level
        outcome = CONFIRMED if holds else REFUTED if p_against < criteria.level else UNDECIDED
        out.append(replace(part, outcome=outcome, p_against=nan if isnan(part.p_against) else float(p_against)))
    return out


def untested(criterion: str, unit: str, threshold: float, above: bool, note: str) -> Part:
    return Part(criterion, unit, threshold, above, note=note, barred=True)


def tested(
    criterion: str, unit: str, threshold: float, above: bool, excess: Array, criteria: Criteria, scale: float = 1.0
) -> Part:
    """Whether the mean of `excess`, (seeds,), is above 0 (or below), reported in readable units: threshold + excess /
    scale.
    """
    found, mean = contrast([(1.0, excess)]), seed_mean(excess)
    estimate, low, high = (threshold + value / scale for value in (mean.value, mean.low, mean.high))
    p = (found.p_not_above, found.p_not_below) if above else (found.p_not_below, found.p_not_above)
    part = Part(criterion, unit, threshold, above, estimate, low, high, *p, len(excess))
    if len(excess) < criteria.seeds:
        return part.but(f"{len(excess)} seed{'s' * (len(excess) > 1)}, at least {criteria.seeds} are asked for")
    return part


def paired(ours: Sequence[Cell], theirs: Sequence[Cell], measure: str) -> tuple[Array, Array]:
    """A measure of two methods, (seeds,) each, for the seeds that both have."""
    both: list[list[float]] = []
    other = {cell.seed: getattr(cell, measure) for cell in theirs}
    for cell in sorted(ours, key=lambda cell: cell.seed):
        pair = [getattr(cell, measure), other.get(cell.seed, nan)]
        both += [pair] if all(map(isfinite, pair)) else []
    first, second = np.array(both, float).reshape(-1, 2).T
    return first, second


def ceiling(results: Results, like: Sequence[Cell], criteria: Criteria) -> tuple[list[Cell], str]:
    """What could be reached in place of the cells `like`: the ceiling of their domain under their noise. Also why it
    cannot serve as a yardstick, if so.
    """
    if not like:
        return [], MISSING
    domain, noise = like[0].domain, like[0].noise
    name = criteria.ceiling[domain]
    cells = select(results.cells, domain=domain, noise=noise)
    same = [c for c in cells if c.study in SWEEPS and point(c) == point(like[0])]
    ends = oracle(results, domain, noise) if name == "oracle" else select(same, method=name)
    ends, random = list({c.seed: c for c in ends}.values()), select(same, method="random")
    if not ends:
        return [], f"{MISSING}: {METHODS[name]}"
    if random and values(ends, "final_return").mean() <= values(random, "final_return").mean():
        return ends, NO_YARDSTICK.format(name=METHODS[name])
    return ends, ""


def share_kept(
    criterion: str, unit: str, above: bool, cells: Sequence[Cell], whole: Sequence[Cell], criteria: Criteria
) -> Part:
    """How much of the return of `whole` the `cells` reach, both measured from the random policy, against `keeps`.

    Tested as ours − keeps·theirs − (1 − keeps)·random in each seed, so that no ratio of noisy numbers is taken.
    """
    ours, theirs = paired(cells, whole, "gain")
    if not len(ours):
        return untested(criterion, unit, criteria.keeps, above, MISSING)
    reference = contrast([(1.0, theirs)])
    if reference.value <= 0 or reference.low <= 0:
        return untested(criterion, unit, criteria.keeps, above, "the return to be kept is not clearly above random")
    excess = ours - criteria.keeps * theirs
    return tested(criterion, unit, criteria.keeps, above, excess, criteria, float(theirs.mean()))


def of_ceiling(criterion: str, above: bool, cells: Sequence[Cell], results: Results, criteria: Criteria) -> Part:
    """The share of the ceiling's return under the same noise, against `keeps`."""
    whole, note = ceiling(results, cells, criteria)
    if not whole:
        return untested(criterion, "share of the ceiling's return", criteria.keeps, above, note)
    part = share_kept(criterion, "share of the ceiling's return", above, cells, whole, criteria)
    return part.but(note) if note else part


def reads_state(method: str, cells: Sequence[Cell], reference: Sequence[Cell], criteria: Criteria, unit: str) -> Part:
    """The linear probe's score minus that of the reference, against minus the margin."""
    margin, name = criteria.probe_margin, METHODS[criteria.reference]
    criterion = f"{METHODS[method]}: state read at most {margin:g} worse than from {name}"
    ours, theirs = paired(cells, reference, "state_linear")
    if not len(ours):
        return untested(criterion, f"{unit} less {name}'s", -margin, True, MISSING)
    return tested(criterion, f"{unit} less {name}'s", -margin, True, ours - theirs + margin, criteria)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def iid_parts(results: Results, domain: str, criteria: Criteria) -> list[Part]:
    noisy, kept = core(results, domain, noise=criteria.P1.noise), percent(criteria.keeps)
    reference, name = select(noisy, method=criteria.reference), METHODS[criteria.reference]
    # If a random encoder does as well, the return says little about what was learned.
    beside = of_ceiling("", True, select(noisy, method="random"), results, criteria).estimate
    note = f"random encoder: {beside:.2f}" if isfinite(beside) else ""
    parts = []
    for method in criteria.P1.methods:
        cells, who = select(noisy, method=method), METHODS[method]
        whole = of_ceiling(f"{who}: at least {kept} of the ceiling's return", True, cells, results, criteria)
        like = share_kept(
            f"{who}: at least {kept} of {name}'s return", f"share of {name}'s return", True, cells, reference, criteria
        )
        parts += [whole.but(note, barred=False) if whole.seeds else whole, like]
        parts.append(reads_state(method, cells, reference, criteria, state_unit(domain)))
    return parts


def exogenous_parts(results: Results, domain: str, criteria: Criteria) -> list[Part]:
    asked, kept = criteria.P2, percent(criteria.keeps)
    first, stays = (core(results, domain, noise=asked.noise, method=m) for m in (asked.first, asked.stays))
    under = NOISES[asked.noise]
    falls = f"{METHODS[asked.first]}: under {kept} of the ceiling's return under {under}"
    remains = f"{METHODS[asked.stays]}: at least {kept} of the ceiling's return under {under}"
    return [
        of_ceiling(falls, False, first, results, criteria),
        *fails_first(results, domain, criteria),
        falls_with_coverage(results, domain, criteria),
        of_ceiling(remains, True, stays, results, criteria),
    ]


def at_points(results: Results, domain: str, study: str, method: str, criteria: Criteria) -> dict[float, list[Cell]]:
    """The cells of a method at each point of a sweep that counts: sizes of exogenous noise, or persistences."""
    by_size = study == "size"
    wanted = (criteria.coverage if by_size else criteria.persistence).get(domain, [])
    cells = sweep(results, domain, study, method=method)
    if by_size:
        cells = select(cells, noise=criteria.P2.noise)
    return {x: select(cells, **{"size" if by_size else "persistence": x}) for x in wanted}


def over_sweep(points: dict[float, list[Cell]]) -> dict[int, Array]:
    """(points,) returns for each seed that has all points."""
    by_seed = by((cell for cells in points.values() for cell in cells), "seed")
    order = list(points)
    found = {}
    for seed in by_seed:
        own = [[c.final_return for c in points[x] if c.seed == seed] for x in order]
        if order and all(own):
            found[seed] = np.array([one[0] for one in own])
    return found


def fails_first(results: Results, domain: str, criteria: Criteria) -> list[Part]:
    """Whether one method has less return than another over a whole sweep of the noise, each point counting the same.

    Once as it covers more at full persistence, once as it becomes persistent; if they differ in sign, neither counts.
    """
    asked = criteria.P2
    first, then = METHODS[asked.first], METHODS[asked.then]
    unit = f"return less that of the {then}, share of the ceiling's"
    parts = []
    for study, varied in (("size", "sizes"), ("persistence", "persistences")):
        ours, theirs = (at_points(results, domain, study, m, criteria) for m in (asked.first, asked.then))
        at = f" ({', '.join(f'{x:g}' for x in ours)})" if ours else ""
        criterion = f"{first}: less return than the {then}, mean over the {varied} of {NOISES[asked.noise]}{at}"
        both = over_sweep(ours), over_sweep(theirs)
        seeds = sorted(both[0].keys() & both[1].keys())
        whole, note = ceiling(results, core(results, domain, noise=asked.noise, method=asked.first), criteria)
        if not ours or not seeds or not whole:
            lacks = f"no sweep of its {varied}" if not (ours and seeds) else note
            parts.append(untested(criterion, unit, asked.difference, False, lacks))
            continue
        gain = float(values(whole, "gain").mean())
        if gain <= 0:
            parts.append(untested(criterion, unit, asked.difference, False, NO_GAIN))
            continue
        gaps = np.array([both[0][seed] - both[1][seed] for seed in seeds]) / gain
        each = ", ".join(f"{gap:+.2f} at {x:g}" for x, gap in zip(ours, gaps.mean(0), strict=True))
        part = tested(criterion, unit, asked.difference, False, gaps.mean(1) - asked.difference, criteria)
        parts.append(part.but(each, barred=False))
    signs = {part.estimate < asked.difference for part in parts if isfinite(part.estimate)}
    return [part.but("the two sweeps differ in sign") for part in parts] if len(signs) > 1 else parts


def falls_with_coverage(results: Results, domain: str, criteria: Criteria) -> Part:
    """The slope of the return over the covered share of pixels; each seed is one experiment and gives one slope."""
    asked = criteria.P2
    criterion = f"{METHODS[asked.then]}: return falls as {NOISES[asked.noise]} covers more pixels"
    unit = "share of the ceiling's return, per 10 % of pixels"
    points = at_points(results, domain, "size", asked.then, criteria)
    seeds = over_sweep(points)
    whole, note = ceiling(results, core(results, domain, noise=asked.noise, method=asked.then), criteria)
    if not seeds or not whole:
        lacks = note if seeds else "no sweep of the noise's size"
        return untested(criterion, unit, asked.slope, False, lacks)
    gain = float(values(whole, "gain").mean())
    if gain <= 0:
        return untested(criterion, unit, asked.slope, False, NO_GAIN)
    covered = np.array([values(cells, "coverage").mean() for cells in points.values()])
    slopes = np.array([np.polyfit(10 * covered, own / gain, 1)[0] for own in seeds.values()])
    returns = np.mean(list(seeds.values()), axis=0)
    mean = ", ".join(f"{value:.2f} at {percent(share)}" for value, share in zip(returns, covered, strict=True))
    part = tested(criterion, unit, asked.slope, False, slopes - asked.slope, criteria)
    return part.but(f"mean return {mean}", barred=False)


def autoencoder_parts(results: Results, domain: str, criteria: Criteria) -> list[Part]:
    """Judged at the sweep's largest size, or at the core's size if nothing is swept."""
    parts, asked = [], criteria.P3
    largest = max(criteria.coverage.get(domain, []), default=None)
    for method in asked.methods:
        for noise in asked.noises:
            cells = core(results, domain, method=method, noise=noise)
            if largest is not None:
                swept = select(results.cells, domain=domain, study="size", method=method, noise=noise)
                cells = select([*cells, *swept], size=largest)
            covered = float(values(cells, "coverage").mean()) if cells else nan
            at = f" over {percent(covered)} of the pixels" if cells else ""
            criterion = f"{METHODS[method]}: under {percent(criteria.keeps)} of the ceiling's return"
            part = of_ceiling(f"{criterion} under {NOISES[noise]}{at}", False, cells, results, criteria)
            if covered < asked.dominates:
                part = part.but(f"noise over less than {percent(asked.dominates)} of the pixels need not dominate")
            clean = of_ceiling("", True, core(results, domain, method=method, noise="none"), results, criteria)
            parts.append(part.but(f"without noise {clean.estimate:.2f}", barred=False) if clean.seeds else part)
    return parts


PREDICTIONS: dict[str, Callable[[Results, str, Criteria], list[Part]]] = {
    "P1": iid_parts,
    "P2": exogenous_parts,
    "P3": autoencoder_parts,
}


def phase_parts(results: Results, criteria: Criteria) -> list[Part]:
    """Does a method's number order its settings; which is ahead where the two disagree; does longer training help?"""
    asked = criteria.P5
    compare = partial(judged_over_seeds, criteria=replace(criteria, seeds=asked.seeds), lacks=MISSING)
    grids = {(m, n): phase.whole(results, m, n, asked) for n in asked.updates for m in asked.methods}
    first, last, parts = min(asked.updates), max(asked.updates), []
    unit = f"rank correlation over {len(asked.sizes) * len(asked.persistences)} settings"
    for (method, updates), seeds in grids.items():
        criterion = f"{METHODS[method]}, {updates:,} updates: the larger its number, the less of the state is kept"
        found = [rank_correlation(number.ravel(), state.ravel()).value for number, state in seeds.values()]
        parts.append(compare(criterion, unit, asked.correlation, False, found))
    unit = "state kept (random encoder 0, labels 1)"
    pair = ("forward_model", "temporal_contrastive")
    for (size, persistence), (ahead, behind) in ((asked.forward_ahead, pair), (asked.contrast_ahead, pair[::-1])):
        criterion = (
            f"{METHODS[ahead]}: keeps more than {METHODS[behind]} under shapes of size {size:g} at ρ = "
            f"{persistence:g}, {first:,} updates"
        )
        ours, theirs = (phase.at(results, method, first, size, persistence, asked) for method in (ahead, behind))
        found = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
        parts.append(compare(criterion, f"difference in {unit}", asked.difference, True, found))
    early, late = (phase.whole(results, pair[0], updates, asked) for updates in (first, last))
    found = [float((late[seed][1] - early[seed][1]).mean()) for seed in sorted(early.keys() & late.keys())]
    criterion = f"{METHODS[pair[0]]}: keeps more after {last:,} updates than after {first:,}, mean over the settings"
    return [*parts, compare(criterion, f"difference in {unit}", asked.gained, True, found)]


def lock_parts(lock: Sequence[LockCell], criteria: Criteria) -> list[Part]:
    asked = criteria.P4
    parts = [part for method in asked.video for part in exponential(method, lock, criteria)]
    return parts + [part for method in asked.labelled for part in polynomial(method, lock, criteria)]


def growths(method: str, lock: Sequence[LockCell]) -> tuple[list[tuple[Growth, Growth]], str]:
    """Each seed's growth fitted as exponential and as polynomial, empty if one fit fails; and how many were given up.

    A seed is one lock, encoder and learner at each horizon, so seeds are what the intervals are over.
    """
    cells = select(lock, method=method)
    found = [growth_fits(own) for own in by(cells, "seed").values()]
    fits = [fit for fit in found if fit]
    if len(fits) < len(found):
        return [], ""
    return fits, f"{sum(not c.solved for c in cells)} of {len(cells)} runs unsolved, counted as lower bounds"


def growth_fits(cells: Sequence[LockCell]) -> tuple[Growth, Growth] | None:
    """The growth of the episodes fitted as exponential and as polynomial; None if one fit fails."""
    horizons, episodes = values(cells, "horizon"), values(cells, "episodes")
    solved = np.array([c.solved for c in cells], dtype=bool)
    as_exponential, as_power = (fit_growth(x, episodes, solved) for x in (horizons, np.log(horizons)))
    return (as_exponential, as_power) if as_exponential and as_power else None


def exponential(method: str, lock: Sequence[LockCell], criteria: Criteria) -> list[Part]:
    name, asked = METHODS[method], criteria.P4
    fits, given_up = growths(method, lock)
    rates, better = ([f.slope for f, _ in fits], [power.aic - own.aic for own, power in fits])
    note = f"degree {np.mean([power.slope for _, power in fits]):.1f} if polynomial; {given_up}" if fits else ""
    grows = judged_over_seeds(
        f"{name}: episodes grow exponentially", "rate per step of horizon", asked.rate, True, rates, criteria
    )
    fitting = f"{name}: exponential growth fits better than polynomial"
    return [
        grows.but(note, barred=False),
        judged_over_seeds(fitting, "AIC difference", asked.aic, True, better, criteria),
    ]


def polynomial(method: str, lock: Sequence[LockCell], criteria: Criteria) -> list[Part]:
    name, asked = METHODS[method], criteria.P4
    fits, given_up = growths(method, lock)
    degrees, better = ([power.slope for _, power in fits], [own.aic - power.aic for own, power in fits])
    bounded = judged_over_seeds(
        f"{name}: episodes grow no faster than H^{asked.degree:g}",
        "degree in the horizon",
        asked.degree,
        False,
        degrees,
        criteria,
    )
    fitting = f"{name}: polynomial growth fits better than exponential"
    return [
        bounded.but(given_up, barred=False),
        judged_over_seeds(fitting, "AIC difference", asked.aic, True, better, criteria),
    ]


def judged_over_seeds(
    criterion: str,
    unit: str,
    threshold: float,
    above: bool,
    found: Sequence[float],
    criteria: Criteria,
    lacks: str = FEW_RUNS,
) -> Part:
    """One number for each seed, against a threshold."""
    if not found:
        return untested(criterion, unit, threshold, above, lacks)
    return tested(criterion, unit, threshold, above, np.array(found) - threshold, criteria)
