"""Cells as the study would write them, made up so that each prediction holds, fails or cannot be decided."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.experiments.video_study import phase
from rlrep.experiments.video_study.jobs import Job, LockJob

# Each method's share of the oracle's return under no, iid and exogenous noise, as the theory predicts.
THEORY = {
    "oracle": (1.0, 1.0, 1.0),
    "supervised": (1.0, 0.99, 0.98),
    "inverse_model": (0.99, 0.98, 0.97),
    "temporal_contrastive": (0.98, 0.97, 0.35),
    "forward_model": (0.98, 0.96, 0.6),
    "autoencoder": (0.97, 0.5, 0.4),
    "vq_autoencoder": (0.95, 0.45, 0.35),
    "random": (0.7, 0.3, 0.25),
}
NOISES = ("none", "iid", "exogenous")
CORE_COVERAGE = 0.25  # of size 0.3
COVERAGES = {0.15: 0.05, 0.45: 0.5}  # by size
PERSISTENCES = (0.0, 0.5, 0.8, 0.9, 0.95, 1.0)
HORIZONS = (4, 6, 8, 10, 12)
RATES = {"temporal_contrastive": 0.6, "forward_model": 0.65, "autoencoder": 0.6, "random": 0.7}
RANDOM, ORACLE = -0.2, 0.9

Shares = Mapping[str, tuple[float, float, float]]


def write(folder: Path, name: str, cell: Mapping[str, Any]) -> None:
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    (folder / "cells" / f"{name}.json").write_text(json.dumps(cell))


def rl_cell(method: str, noise: str, share: float, seed: int, rng: np.random.Generator, **changes: Any) -> dict:
    share = share if method == "oracle" else share - abs(rng.normal(0, 0.01))
    result = RANDOM + share * (ORACLE - RANDOM) + rng.normal(0, 0.004)
    steps = np.arange(0, 100_001, 10_000)
    curve = RANDOM + (result - RANDOM) * (1 - np.exp(-steps / 25_000)) + rng.normal(0, 0.02, len(steps))
    state = 1.0 if method == "oracle" else 0.1 + 0.85 * share
    noisy = noise != "none"
    reads = {"temporal_contrastive": 0.8, "forward_model": 0.5, "autoencoder": 0.7, "vq_autoencoder": 0.6}
    return {
        "domain": "gridworld",
        "study": "core",
        "method": method,
        "noise": noise,
        "persistence": {"none": 0.0, "iid": 0.0, "exogenous": 1.0, "persistence": 0.0}[noise],
        "num_shapes": 8 * noisy,
        "size": 0.3 * noisy,
        "coverage": CORE_COVERAGE * noisy,
        "seed": seed,
        "return": result,
        "random_return": RANDOM,
        "curve": [[int(s), float(v)] for s, v in zip(steps, curve, strict=True)],
        "state_linear": min(1.0, state + rng.normal(0, 0.01)),
        "state_mlp": min(1.0, state + 0.03),
        "state_chance": 0.01,
        "noise_linear": reads.get(method, 0.1) - 0.4 * (noise == "iid") if noisy else None,
        "noise_mlp": reads.get(method, 0.1) - 0.3 * (noise == "iid") if noisy else None,
        "reconstruction": None if method == "oracle" else 0.02,
        "alignment": 0.3,
        "uniformity": -2.0,
        "effective_rank": 20.0,
        "updates_per_second": 25.0 if method in THEORY and method not in ("oracle", "random") else None,
        "pretrain_seconds": 80.0,
        "ppo_seconds": 60.0,
        "pictures": None,
        **changes,
    }


def write_core(folder: Path, shares: Shares = THEORY, seeds: int = 5, spread: float = 0.0, **changes: Any) -> None:
    rng = np.random.default_rng(0)
    for method, by_noise in shares.items():
        for noise, share in zip(NOISES, by_noise, strict=True):
            for seed in range(seeds):
                cell = rl_cell(method, noise, share + rng.normal(0, spread), seed, rng, **changes)
                write(folder, f"{cell['domain']}-core-{method}-{noise}-{seed}", cell)


def write_size(folder: Path, slope: float = -1.2, seeds: int = 5, spread: float = 0.0) -> None:
    rng = np.random.default_rng(1)
    slopes = {"inverse_model": -0.05, "temporal_contrastive": -0.6, "forward_model": slope, "autoencoder": -1.0}
    both = [(method, "exogenous", by) for method, by in slopes.items()] + [("autoencoder", "iid", -1.0)]
    for method, noise, by_coverage in both:
        for size, coverage in COVERAGES.items():
            for seed in range(seeds):
                share = THEORY[method][NOISES.index(noise)] + by_coverage * (coverage - CORE_COVERAGE)
                share += rng.normal(0, spread)
                shapes: dict[str, Any] = {"study": "size", "size": size, "coverage": coverage + 0.001 * seed}
                cell = rl_cell(method, noise, share, seed, rng, **shapes)
                write(folder, f"size-{method}-{noise}-{size}-{seed}", cell)


def write_persistence(folder: Path, seeds: int = 5) -> None:
    rng = np.random.default_rng(2)
    for method in ("inverse_model", "temporal_contrastive", "forward_model", "autoencoder", "random"):
        for rho in PERSISTENCES:
            low, high = THEORY[method][1:]
            for seed in range(seeds):
                share = low + (high - low) / (1 + np.exp(-20 * (rho - 0.75)))
                changes: dict[str, Any] = {"study": "persistence", "persistence": rho}
                cell = rl_cell(method, "persistence", share, seed, rng, **changes)
                write(folder, f"persistence-{method}-{rho}-{seed}", cell)


def write_phase(folder: Path, jobs: Iterable[Job] | None = None, seeds: int = 3) -> None:
    """Writes the diagram, or some jobs of it, as the numbers known before training predict."""
    rng = np.random.default_rng(5)
    for job in jobs or phase.jobs(None, seeds):
        area = (job.size / 0.3) ** 2
        number = {"forward_model": area * job.persistence**2, "temporal_contrastive": job.persistence**3}.get(
            job.method
        )
        enough = 0.5 * (job.updates or 0) / 1_000  # of the number to lose half of the state
        kept = {"random": 0.0, "supervised": 1.0, "inverse_model": 0.8}.get(job.method)
        if kept is None:
            kept = 1 / (1 + (float(number or 0) / enough) ** 2)
        low = 0.9 - job.size
        cell = {
            **job.description,
            "coverage": CORE_COVERAGE * area,
            "state_linear": low + kept * (1 - low) + rng.normal(0, 0.001),
            "predictor": number,
            "pretrain_seconds": 0.02 * (job.updates or 0),
            "pictures": None,
        }
        if not job.only_probes:
            cell |= {"return": 0.9 * kept, "random_return": RANDOM, "returns": [0.9 * kept], "ppo_seconds": 60.0}
        write(folder, job.name, cell)


def write_field(folder: Path, jobs: Iterable[Job | LockJob]) -> None:
    """Cells of these jobs, in which a method reads as much of the state as it has labels."""
    rng = np.random.default_rng(6)
    for job in jobs:
        if isinstance(job, LockJob):
            cell: dict[str, Any] = {"episodes_to_solve": 2**job.horizon if job.codes < 4 else 2 * job.horizon}
            write(folder, job.name, job.description | cell | {"solved": True, "max_episodes": 5_000})
            continue
        state = 0.2 + 0.03 * (job.labels or 0) ** 0.3 + 0.1 * (job.noise == "iid") + rng.normal(0, 0.001)
        cell = {"coverage": CORE_COVERAGE, "state_linear": state, "noise_linear": 1 - state, "pretrain_seconds": 9.0}
        cell |= {"uniformity_head": -2.0, "tolerance_head": 0.5, "effective_rank": 9.0}
        cell |= {"held_out_loss": 0.3}
        if not job.only_probes:
            cell |= {"return": state, "random_return": RANDOM, "cloned_4": 0.1, "cloned_16": 0.2, "cloned_64": 0.3}
        write(folder, job.name, job.description | cell)


def write_lock(
    folder: Path, rates: Mapping[str, float] = RATES, power: float = 1.2, seeds: int = 5, most: int = 1000
) -> None:
    """Writes cells with growth exp(rate·H) for the methods in `rates`, and H^power for the action-labelled one."""
    rng = np.random.default_rng(3)
    for method in dict.fromkeys((*rates, "inverse_model")):
        for horizon in HORIZONS:
            for seed in range(seeds):
                mean = 2 * np.exp(rates[method] * horizon) if method in rates else 3 * horizon**power
                episodes = int(np.ceil(mean * np.exp(rng.normal(0, 0.15))))
                labelled = method == "inverse_model"
                cell = {
                    "domain": "lock",
                    "study": "lock",
                    "method": method,
                    "horizon": horizon,
                    "seed": seed,
                    "episodes_to_solve": min(episodes, most),
                    "solved": episodes <= most,
                    "max_episodes": most,
                    "controlled_accuracy": 1.0 if labelled else 0.6,
                    "exogenous_accuracy": 0.5 if labelled else 0.9,
                }
                write(folder, f"lock-{method}-{horizon}-{seed}", cell)


def write_pictures(folder: Path) -> None:
    """Gives the first seed of each core cell a picture: coloured tiles, shapes, and a blurred reconstruction."""
    rng = np.random.default_rng(4)
    tiles = rng.integers(40, 200, (3, 7, 7, 3)).repeat(8, 1).repeat(8, 2)
    for path in sorted((folder / "cells").glob("*-core-*-0.json")):
        cell = json.loads(path.read_text())
        if cell["method"] == "oracle":
            continue
        observation = tiles.copy()
        if cell["noise"] != "none":
            observation[:, 10:30, 20:40] = (230, 60, 60)
        quality = THEORY[cell["method"]][NOISES.index(cell["noise"])]
        guess = quality * observation + (1 - quality) * observation.mean((1, 2), keepdims=True)
        name = f"pictures/{path.stem}.npz"
        (folder / "pictures").mkdir(exist_ok=True)
        np.savez(folder / name, observation=observation.astype(np.uint8), reconstruction=guess.astype(np.uint8))
        path.write_text(json.dumps({**cell, "pictures": name}))


def write_study(folder: Path, seeds: int = 5) -> None:
    """Writes a whole study in which every prediction holds."""
    write_core(folder, seeds=seeds)
    write_size(folder, seeds=seeds)
    write_persistence(folder, seeds=seeds)
    write_phase(folder)
    write_lock(folder)
