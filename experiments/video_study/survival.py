"""Which method of the field keeps the state under which noise, by the criteria of `reports/theory/field_criteria.yaml`;
whether the arrow of time is why one does, by `arrow_criteria.yaml`; whether that serves PPO, by `core_criteria.yaml`;
whether all this holds on other maps, by `replication_criteria.yaml`, and after longer training, by
`longer_criteria.yaml`; whether videos help where few actions are known, by `labels_criteria.yaml`; whether a
temperature repairs contrast, by `temperature_criteria.yaml`, or recordings that differ in their noise, by
`recordings_criteria.yaml`; whether encoders carry over to unseen noise, by `transfer_criteria.yaml`; and whether the
lock's bound vanishes with more codes, by `codes_criteria.yaml`, or with latent actions, by `latent_criteria.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import nan
from typing import Any, TypeVar

import numpy as np

from rlrep.experiments.results.runs import Array
from rlrep.experiments.results.statistics import Estimate, contrast, holm, seed_mean
from rlrep.experiments.video_study import phase
from rlrep.experiments.video_study.cells import METHODS, Cell, Results, by, grouped, select
from rlrep.experiments.video_study.criteria import (
    Arrow,
    FewLabels,
    LatentActions,
    Longer,
    ManyCodes,
    OverSeeds,
    Recorded,
    Replicated,
    Served,
    Survival,
    Tempered,
    Transferred,
    read,
    read_criteria,
)
from rlrep.experiments.video_study.verdicts import growth_fits

K = TypeVar("K", bound=Any)
KEEPS, OPEN, LOSES, WORSE = "keeps the state", "open", "loses the state", "has less of it than a random encoder"
OUTCOMES = (KEEPS, OPEN, LOSES, WORSE)
USUAL = (False, False)  # whether the noise drifts, and whether the recorded actions are random
HOLDS, FAILS = "holds", "fails"
BACK, NOT_BACK = "has the state back", "does not have it back"
HELPS, HURTS = "helps", "hurts"


@dataclass(frozen=True)
class Kept:
    """How much of the state a method keeps under a noise, its mean over seeds and their number.

    Attributes:
        outcome: of OUTCOMES; "" if a seed that is judged is missing.
        difference: from the baseline's, paired by seed; None for the baseline itself, and without an outcome.
        p: that difference's, two-sided, after Holm's correction.
    """

    method: str
    noise: str
    estimate: Estimate
    seeds: int
    outcome: str
    difference: Estimate | None = None
    p: float = nan


def field_cells(results: Results, domain: str, **wanted: object) -> list[Cell]:
    """The cells of the core and the field that have probes, one for each method, noise and seed."""
    found = [c for study in ("field", "core") for c in select(results.cells, domain=domain, study=study, **wanted)]
    return [c for c in {(c.method, c.noise, c.seed): c for c in found}.values() if np.isfinite(c.state_linear)]


def shares(results: Results, domain: str, method: str, noise: str, asked: Survival) -> dict[int, float]:
    """The state kept in each seed that has the method, the floor and the ceiling."""
    return state_kept(field_cells(results, domain, noise=noise, method=method), results, asked)


def state_kept(cells: list[Cell], results: Results, asked: Survival | Tempered | Replicated) -> dict[int, float]:
    """The state kept in each seed by cells of one noise, where it has the floor and the ceiling."""
    if not cells:
        return {}
    low, high = (
        {c.seed: c.state_linear for c in field_cells(results, cells[0].domain, noise=cells[0].noise, method=each)}
        for each in (asked.floor, asked.ceiling)
    )
    return on_scale({c.seed: c.state_linear for c in cells}, low, high)


def on_scale(own: dict[int, float], low: dict[int, float], high: dict[int, float]) -> dict[int, float]:
    """Scores by seed, 0 at the lower end and 1 at the higher one, for the seeds that have all three."""
    both = sorted(own.keys() & low.keys() & high.keys())
    return {seed: (own[seed] - low[seed]) / (high[seed] - low[seed]) for seed in both if high[seed] > low[seed]}


def kept(results: Results, domain: str) -> dict[tuple[str, str], Kept]:
    """What is kept by each method under each noise that has cells, by the seeds that are judged; where one of them is
    missing, by all seeds, and without an outcome.
    """
    asked = read(Survival)
    methods = [m for m in METHODS if m not in (asked.floor, asked.ceiling)]
    each = {(m, noise): shares(results, domain, m, noise, asked) for noise in asked.noises for m in methods}
    whole = complete(each, asked)
    found = {}
    for (method, noise), own in each.items():
        if own:
            judged = whole.get((method, noise), np.array([*own.values()]))
            mean = seed_mean(judged)
            outcome = outcome_of(mean, asked) if (method, noise) in whole else ""
            found[method, noise] = Kept(method, noise, mean, len(judged), outcome)
    return found | differences(found, whole, asked)


def outcome_of(mean: Estimate, asked: Survival) -> str:
    if mean.low > asked.keeps:
        return KEEPS
    return WORSE if mean.high < asked.worse else LOSES if mean.high < asked.keeps else OPEN


def differences(
    found: dict[tuple[str, str], Kept], whole: dict[tuple[str, str], Array], asked: Survival
) -> dict[tuple[str, str], Kept]:
    """Those that have an outcome, with their difference from the baseline."""
    compared = [place for place in whole if place[0] != asked.baseline and (asked.baseline, place[1]) in whole]
    gaps = {p: contrast([(1.0, whole[p] - whole[asked.baseline, p[1]])]) for p in compared}
    return {place: replace(found[place], difference=gaps[place], p=p) for place, p in corrected(gaps).items()}


def complete(each: Mapping[K, dict[int, float]], asked: OverSeeds) -> dict[K, Array]:
    """(seeds,) numbers, of those that have all seeds that are judged."""
    return {key: np.array([own[s] for s in asked.seeds]) for key, own in each.items() if own.keys() >= {*asked.seeds}}


def corrected(gaps: Mapping[K, Estimate]) -> dict[K, float]:
    """Two-sided p values after Holm's correction over all of them."""
    p = holm(np.array([2 * min(gap.p_not_above, gap.p_not_below) for gap in gaps.values()]))
    return dict(zip(gaps, map(float, p), strict=True))


def arrow_shares(results: Results, method: str, where: tuple[bool, bool], asked: Arrow) -> dict[int, float]:
    """The state kept in each seed, where the noise drifts or not, and actions are random or not."""
    drift, random = where
    cells = select(results.cells, study="arrow")
    own, low, high = (
        {c.seed: c.state_linear for c in select(cells, method=each, drift=d, random_actions=r)}
        for each, d, r in ((method, drift, random), (asked.floor, *USUAL), (asked.ceiling, *USUAL))
    )
    return on_scale(own, low, high)


def recording_shares(results: Results, method: str, mixed: bool, asked: Recorded) -> dict[int, float]:
    """The state kept in each seed, where every second recording has iid noise (`mixed`) or none has."""
    cells = select(results.cells, study="recordings")
    own, low, high = (
        {c.seed: c.state_linear for c in select(cells, method=each, mixed=m)}
        for each, m in ((method, mixed), (asked.floor, False), (asked.ceiling, False))
    )
    return on_scale(own, low, high)


@dataclass(frozen=True)
class Claim:
    """Whether a mean over seeds is more than the criteria say.

    Attributes:
        estimate: None if a seed that is judged is missing.
        p: one-sided.
        outcome: HOLDS if it is clearly more, FAILS if clearly less, else OPEN.
    """

    name: str
    estimate: Estimate | None
    p: float
    outcome: str


def claim(name: str, own: dict[int, float], more_than: float, asked: OverSeeds) -> Claim:
    """By a t test over the seeds that are judged."""
    if not {*asked.seeds} <= own.keys():
        return Claim(name, None, nan, OPEN)
    numbers = np.array([own[seed] for seed in asked.seeds])
    excess = contrast([(1.0, numbers - more_than)])
    outcome = HOLDS if excess.p_not_above < asked.level else FAILS if excess.p_not_below < asked.level else OPEN
    return Claim(name, contrast([(1.0, numbers)]), excess.p_not_above, outcome)


def less(own: dict[int, float], other: dict[int, float]) -> dict[int, float]:
    """The differences, paired by seed."""
    return {seed: own[seed] - other[seed] for seed in own.keys() & other.keys()}


def arrow_claims(results: Results) -> list[Claim]:
    """How much less of the state is kept after each of the three changes."""
    asked = read(Arrow)
    usual = arrow_shares(results, asked.method, USUAL, asked)
    changes = {
        "without its term about the past": (asked.without, USUAL),
        "recordings of random actions": (asked.method, (False, True)),
        "noise that drifts one way": (asked.method, (True, False)),
    }
    return [
        claim(name, less(usual, arrow_shares(results, *where, asked)), asked.falls, asked)
        for name, where in changes.items()
    ]


def recording_claims(results: Results) -> list[Claim]:
    """Whether the method keeps the state where recordings differ in their noise, and more than the baseline on the
    same.
    """
    asked = read(Recorded)
    own, other = (recording_shares(results, method, True, asked) for method in (asked.method, asked.baseline))
    return [
        claim(f"{METHODS[asked.method]} keeps more than {asked.keeps:g}", own, asked.keeps, asked),
        claim(f"{METHODS[asked.method]}, more than {METHODS[asked.baseline]}", less(own, other), 0.0, asked),
    ]


def return_shares(own: list[Cell], results: Results, ceiling: str) -> dict[int, float]:
    """The return in each seed of cells of one domain, from 0, the random policy's, to 1, the ceiling's in the core."""
    cells = select(results.cells, domain=own[0].domain, study="core", method=ceiling) if own else []
    returns, low = ({c.seed: getattr(c, name) for c in own} for name in ("final_return", "random_return"))
    return on_scale(returns, low, {c.seed: c.final_return for c in cells})


def served_claims(results: Results, domain: str) -> list[Claim]:
    """Whether the method serves PPO, and whether better than the baseline."""
    asked = read(Served)
    cells = select(results.cells, domain=domain, study="core", noise=asked.noise)
    own, other = (
        return_shares(select(cells, method=method), results, asked.ceiling) for method in (asked.method, asked.baseline)
    )
    return [
        claim(f"more than {asked.serves:g} of what {METHODS[asked.ceiling]} gives", own, asked.serves, asked),
        claim(f"more than {METHODS[asked.baseline]}", less(own, other), 0.0, asked),
    ]


def replicated_claims(results: Results, domain: str) -> list[Claim]:
    """Whether the main results hold on maps that they were not found on."""
    asked = read(Replicated)
    cells = select(results.cells, domain=domain, study="core", noise=asked.noise)

    def kept_by(method: str) -> dict[int, float]:
        return state_kept(select(cells, method=method), results, asked)

    def returned(method: str) -> dict[int, float]:
        return return_shares(select(cells, method=method), results, asked.oracle)

    keep = [claim(f"{METHODS[m]} keeps more than {asked.keeps:g}", kept_by(m), asked.keeps, asked) for m in asked.keep]
    lose = [
        claim(
            f"{METHODS[m]} keeps less than {asked.keeps:g}",
            {s: asked.keeps - k for s, k in kept_by(m).items()},
            0.0,
            asked,
        )
        for m in asked.lose
    ]
    own, name = returned(asked.method), METHODS[asked.method]
    return [
        *keep,
        *lose,
        claim(f"PPO on {name}, more than {asked.serves:g}", own, asked.serves, asked),
        *(
            claim(f"PPO on {name}, more than on {METHODS[other]}", less(own, returned(other)), 0.0, asked)
            for other in asked.baselines
        ),
    ]


def longer_claims(results: Results) -> list[Claim]:
    """Whether the method keeps the state after longer training, on maps that nothing was chosen on."""
    asked, ends = read(Longer), read_criteria().P5
    own, other = (
        phase.at(results, method, asked.updates, asked.size, asked.persistence, ends)
        for method in (asked.method, asked.baseline)
    )
    name = f"{METHODS[asked.method]} after {asked.updates:,} updates"
    return [
        claim(f"{name} keeps more than {asked.keeps:g}", own, asked.keeps, asked),
        claim(f"{name}, more than {METHODS[asked.baseline]}", less(own, other), 0.0, asked),
    ]


def temperature_claims(results: Results) -> list[Claim]:
    """Whether each method keeps the state at each temperature."""
    asked = read(Tempered)
    cells = select(results.cells, study="temperature", noise=asked.noise)
    return [
        claim(f"{METHODS[method]}, τ = {temperature:g}", state_kept(own, results, asked), asked.keeps, asked)
        for (method, temperature), own in grouped(cells, "method", "temperature").items()
        if method in asked.methods
    ]


def transfer_claims(results: Results, domain: str) -> list[Claim]:
    """Whether PPO learns on encoders of each method under noise that they were not trained under, and better than on
    one that was not trained at all.
    """
    asked = read(Transferred)
    cells = select(results.cells, domain=domain, study="transfer")
    untrained = return_shares(select(cells, method=asked.baseline), results, asked.ceiling)
    claims = []
    for method in asked.methods:
        own = return_shares(select(cells, method=method, noise=asked.noise), results, asked.ceiling)
        name = METHODS[method]
        claims.append(claim(f"{name}, more than {asked.serves:g}", own, asked.serves, asked))
        claims.append(claim(f"{name}, more than {METHODS[asked.baseline]}", less(own, untrained), 0.0, asked))
    return claims


def code_claims(results: Results) -> list[Claim]:
    """By how much the degree of growth lies below the bound, and by how much polynomial growth fits better than
    exponential, for encoders with room for both factors.
    """
    asked, claims = read(ManyCodes), []
    for method in asked.methods:
        own = by(select(results.codes, method=method, codes=asked.codes), "seed")
        fits = {seed: fit for seed, cells in own.items() if (fit := growth_fits(cells))}
        name = f"{METHODS[method]}, {asked.codes} codes"
        below = {seed: asked.degree - power.slope for seed, (_, power) in fits.items()}
        better = {seed: exponential.aic - power.aic for seed, (exponential, power) in fits.items()}
        claims.append(claim(f"{name}, degree below {asked.degree:g}", below, 0.0, asked))
        claims.append(claim(f"{name}, AIC of exponential growth above polynomial", better, asked.aic, asked))
    return claims


def latent_claims(results: Results) -> list[Claim]:
    """By how much the rate of growth lies above the bound, and by how much exponential growth fits better than
    polynomial, for latent actions.
    """
    asked, claims = read(LatentActions), []
    for method in asked.methods:
        own = by(select(results.lock, method=method), "seed")
        fits = {seed: fit for seed, cells in own.items() if (fit := growth_fits(cells))}
        above = {seed: exponential.slope - asked.rate for seed, (exponential, _) in fits.items()}
        better = {seed: power.aic - exponential.aic for seed, (exponential, power) in fits.items()}
        claims.append(claim(f"{METHODS[method]}, rate above {asked.rate:g} a level", above, 0.0, asked))
        claims.append(claim(f"{METHODS[method]}, AIC of polynomial growth above exponential", better, asked.aic, asked))
    return claims


def label_shares(results: Results, method: str, count: int, asked: FewLabels) -> dict[int, float]:
    """The state kept in each seed that has the method with so many labels, and both ends of the scale."""
    cells = select(results.cells, study="labels")
    most = max((c.labels for c in select(cells, method=asked.reference)), default=nan)
    own, low, high = (
        {c.seed: c.state_linear for c in select(cells, method=each, labels=float(n))}
        for each, n in ((method, count), (asked.floor, 0), (asked.reference, most))
    )
    return on_scale(own, low, high)


@dataclass(frozen=True)
class Labelled:
    """What so many action labels are worth to a method.

    Attributes:
        estimate: the state kept by the reference; for another method, by how much it is more than the reference's with
            as many labels, paired by seed.
        p: the latter's, two-sided, after Holm's correction.
        outcome: of BACK, NOT_BACK, OPEN for the reference, of HELPS, HURTS, OPEN for others.
    """

    method: str
    count: int
    estimate: Estimate
    p: float
    outcome: str


def label_outcomes(results: Results) -> list[Labelled]:
    """For the reference with fewer labels than the most, and for the others; only where all seeds are there."""
    asked = read(FewLabels)
    cells = select(results.cells, study="labels", method=asked.reference)
    counts = sorted({int(c.labels) for c in cells})
    each = {(m, n): label_shares(results, m, n, asked) for m in (asked.reference, *asked.beside) for n in counts}
    whole, found = complete(each, asked), []
    for (method, n), own in whole.items():
        if method == asked.reference and n != counts[-1]:
            mean = seed_mean(own)
            outcome = BACK if mean.low > asked.keeps else NOT_BACK if mean.high < asked.keeps else OPEN
            found.append(Labelled(method, n, mean, nan, outcome))
    gaps = {
        (method, n): contrast([(1.0, own - whole[asked.reference, n])])
        for (method, n), own in whole.items()
        if method != asked.reference and (asked.reference, n) in whole
    }
    for (method, n), p in corrected(gaps).items():
        outcome = OPEN if p >= asked.level else HELPS if gaps[method, n].value > 0 else HURTS
        found.append(Labelled(method, n, gaps[method, n], p, outcome))
    return found
