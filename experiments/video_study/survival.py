"""Which method of the field survives which noise, by the criteria of `reports/theory/field_criteria.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlrep.experiments.results.statistics import Estimate, seed_mean
from rlrep.experiments.video_study.cells import Array, Cell, Results, select
from rlrep.experiments.video_study.criteria import Survival, read_survival

SURVIVES, BREAKS, OPEN = "survives", "breaks", "open"


@dataclass(frozen=True)
class Kept:
    """How much of the state a method keeps under a noise, its mean over seeds and their number, and what that says:
    SURVIVES, BREAKS, OPEN, or "" with too few seeds.
    """

    method: str
    noise: str
    estimate: Estimate
    seeds: int
    outcome: str


def field_cells(results: Results, domain: str, **wanted: object) -> list[Cell]:
    """The cells of the core and the field that have probes, one for each method, noise and seed."""
    found = [c for study in ("field", "core") for c in select(results.cells, domain=domain, study=study, **wanted)]
    return [c for c in {(c.method, c.noise, c.seed): c for c in found}.values() if np.isfinite(c.state_linear)]


def shares(results: Results, domain: str, method: str, noise: str, asked: Survival) -> Array:
    """(seeds,) the state kept in each seed that has the method, the floor and the ceiling."""
    own, low, high = (
        {c.seed: c.state_linear for c in field_cells(results, domain, noise=noise, method=each)}
        for each in (method, asked.floor, asked.ceiling)
    )
    both = sorted(seed for seed in own.keys() & low.keys() & high.keys() if high[seed] > low[seed])
    return np.array([(own[seed] - low[seed]) / (high[seed] - low[seed]) for seed in both])


def kept(results: Results, domain: str, method: str, noise: str, asked: Survival | None = None) -> Kept | None:
    """None if no seed has the method and both ends of its scale under this noise."""
    asked = asked or read_survival()
    found = shares(results, domain, method, noise, asked)
    if not len(found):
        return None
    mean, outcome = seed_mean(found), ""
    if len(found) >= asked.seeds:
        outcome = SURVIVES if mean.low > asked.kept else BREAKS if mean.high < asked.kept else OPEN
    return Kept(method, noise, mean, len(found), outcome)


def early(results: Results, domain: str, asked: Survival | None = None) -> str:
    """Why cells of the field are exploratory, and how many of them; empty if none is."""
    asked = asked or read_survival()
    judged: Sequence[Cell] = [c for noise in asked.noises for c in field_cells(results, domain, noise=noise)]
    reasons = [reason for cell in judged if (reason := asked.too_early(cell))]
    return "; ".join(f"{reasons.count(why):,} of {len(judged):,} cells {why}" for why in dict.fromkeys(reasons))
