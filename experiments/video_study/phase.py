"""The phase diagram: how much of the state a method keeps, over coverage, persistence and the length of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import isfinite, nan

import numpy as np

from rlrep.experiments.results.runs import Array
from rlrep.experiments.results.statistics import over_seeds
from rlrep.experiments.video_study.cells import DOMAINS, METHODS, Cell, Results, by, select, values
from rlrep.experiments.video_study.criteria import Phases, read_criteria
from rlrep.experiments.video_study.jobs import LENGTHS, Job

DOMAIN = "gridworld"
CONTROL = "inverse_model"
# (size, persistence) on both sides of where the methods break: measured first, also for the control and with PPO.
CROSS_SECTION = ((0.15, 1.0), (0.3, 0.6), (0.3, 0.8), (0.3, 1.0))
LONGEST = ((0.3, 0.8), (0.3, 1.0))  # trained longer, to see whether the state comes back


def jobs(methods: Sequence[str] | None, seeds: int) -> Iterator[Job]:
    """The whole diagram, one seed after the other.

    Long trainings come first: they also save the encoders of shorter ones, which then need no training.
    """
    asked = read_criteria().P5
    ends = (asked.floor, asked.ceiling)
    trained = [m for m in methods or (*asked.methods, CONTROL) if m not in (*ends, "oracle", "random")]
    for seed in range(seeds):
        for method, size in product(ends if trained else (), asked.sizes):
            # They see single pictures, which look the same at any persistence; longer training hardly improves them.
            updates = None if method == "random" else min(LENGTHS)
            yield Job(DOMAIN, "phase", method, "persistence", seed, 0.0, 8, size, updates, True)
        for updates, method in product(reversed(LENGTHS), trained):
            for size, persistence in places(method, updates):
                last = updates == max(asked.updates) and (size, persistence) in CROSS_SECTION
                probes = not last or method == CONTROL
                yield Job(DOMAIN, "phase", method, "persistence", seed, persistence, 8, size, updates, probes)


def places(method: str, updates: int) -> Sequence[tuple[float, float]]:
    """The (size, persistence) at which a method is measured after this many updates."""
    asked = read_criteria().P5
    if updates not in asked.updates:
        return () if method == CONTROL else LONGEST
    return CROSS_SECTION if method == CONTROL else list(product(asked.sizes, asked.persistences))


def cross_section(methods: Sequence[str] | None, seeds: int) -> Iterator[Job]:
    """A few settings of the diagram after the shortest training, and the ends of their scale."""
    asked = read_criteria().P5
    sizes = {size for size, _ in CROSS_SECTION}
    for job in jobs(methods or asked.methods, seeds):
        ends = job.method in (asked.floor, asked.ceiling)
        if job.size in sizes if ends else job.updates == min(LENGTHS) and (job.size, job.persistence) in CROSS_SECTION:
            yield job


def cells(results: Results, **wanted: object) -> list[Cell]:
    return select(results.cells, domain=DOMAIN, study="phase", **wanted)


def kept(results: Results, cell: Cell, asked: Phases) -> float:
    """The state that the encoder keeps: 0 for a random encoder's linear probe or less, 1 for that of an encoder of
    labels, under the same noise and of the same seed; nan where one of them is missing.
    """
    ends = [cells(results, method=end, size=cell.size, seed=cell.seed) for end in (asked.floor, asked.ceiling)]
    if not all(ends):
        return nan
    low, high = (end[0].state_linear for end in ends)
    return max(0.0, (cell.state_linear - low) / (high - low)) if high > low else nan


def grids(results: Results, method: str, updates: int, asked: Phases) -> dict[int, tuple[Array, Array]]:
    """For each seed, the number that was known before and the state that is kept, (sizes, persistences) each; nan where
    nothing was measured.
    """
    found = {}
    for seed, own in by(cells(results, method=method, updates=updates), "seed").items():
        number, state = np.full((2, len(asked.sizes), len(asked.persistences)), nan)
        for cell in own:
            if cell.size in asked.sizes and cell.persistence in asked.persistences:
                at = asked.sizes.index(cell.size), asked.persistences.index(cell.persistence)
                number[at], state[at] = cell.predictor, kept(results, cell, asked)
        found[seed] = number, state
    return found


def numbers(results: Results, asked: Phases) -> dict[str, Array]:
    """(sizes, persistences) the number known before training, for each method that has one.

    It is the mean over the cells of a setting; where there is none, it is computed for the map of the first seed. Empty
    without any cell of the diagram.
    """
    if not cells(results):
        return {}
    from rlrep.experiments.video_study.pixels import domain, predicted, settings

    place, sizes = domain(DOMAIN, min(cell.layout for cell in cells(results))), settings(DOMAIN)
    found = {method: np.zeros((len(asked.sizes), len(asked.persistences))) for method in asked.methods}
    for method, number in found.items():
        for (i, size), (j, rho) in product(enumerate(asked.sizes), enumerate(asked.persistences)):
            noted = values(cells(results, method=method, size=size, persistence=rho), "predictor")
            job = Job(DOMAIN, "phase", method, "persistence", 0, rho, 8, size)
            number[i, j] = noted.mean() if len(noted) else predicted(place, job, sizes)
    return found


def at(results: Results, method: str, updates: int, size: float, persistence: float, asked: Phases) -> dict[int, float]:
    """The state that each seed keeps at one setting."""
    found = cells(results, method=method, updates=updates, size=size, persistence=persistence)
    state = {cell.seed: kept(results, cell, asked) for cell in found}
    return {seed: value for seed, value in state.items() if isfinite(value)}


def whole(results: Results, method: str, updates: int, asked: Phases) -> dict[int, tuple[Array, Array]]:
    """The grids of the seeds that have all settings."""
    found = grids(results, method, updates, asked)
    return {seed: both for seed, both in found.items() if np.isfinite(both).all()}


def mean_state(results: Results, method: str, updates: int, asked: Phases) -> Array:
    """(sizes, persistences) what is kept of the state: the mean over the seeds that have a setting, nan if none has."""
    found = grids(results, method, updates, asked).values()
    states = np.array([state for _, state in found] or [np.full((len(asked.sizes), len(asked.persistences)), nan)])
    return over_seeds(states).mean


def coverages(results: Results, asked: Phases) -> Array:
    """(sizes,) the share of the pixels under noise; where nothing was measured, that on the first seed's map."""
    from rlrep.experiments.video_study.gridworld import GridDomain

    place = GridDomain(min(cell.layout for cell in cells(results)))
    shares = []
    for size in asked.sizes:
        noted = values(cells(results, size=size), "coverage")
        noise = Job(DOMAIN, "phase", "", "persistence", 0, 1.0, 8, size).noise_options
        shares.append(noted.mean() if len(noted) or noise is None else place.coverage(noise))
    return np.array(shares)


def missing(results: Results) -> list[str]:
    """What this diagram lacks of a whole one with as many seeds, one line each."""
    have = {(c.method, c.updates, c.seed, c.size, c.persistence) for c in cells(results)}
    seeds = {cell.seed for method in read_criteria().P5.methods for cell in cells(results, method=method)}
    lacks: dict[tuple[str, int, int], dict[float, list[float]]] = {}
    for job in jobs(None, 1 + max(seeds, default=-1)):
        training = job.method, job.updates or 0, job.seed
        if job.seed in seeds and (*training, job.size, job.persistence) not in have:
            lacks.setdefault(training, {}).setdefault(job.size, []).append(job.persistence)
    lines = []
    for (method, updates, seed), by_size in lacks.items():
        name = f"{METHODS[method]}, {updates:,} updates" if updates else METHODS[method]
        at = "; ".join(f"size {size:g} at ρ = {', '.join(f'{x:g}' for x in rhos)}" for size, rhos in by_size.items())
        lines.append(f"{DOMAINS[DOMAIN]}, phase: {name}, seed {seed}: {at}")
    return lines
