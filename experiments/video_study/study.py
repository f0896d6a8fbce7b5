"""The study's jobs. Runs those whose cells are missing, in parallel processes."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from rlrep import OBJECTIVES
from rlrep.experiments.files import write_atomically
from rlrep.experiments.video_study import phase
from rlrep.experiments.video_study.cells import CORE_METHODS, METHODS, read_content
from rlrep.experiments.video_study.criteria import Longer, Replicated, read
from rlrep.experiments.video_study.jobs import BESIDE, NOISES, UNSEEN, Job, LockJob
from rlrep.experiments.video_study.origin import claim, stamp
from rlrep.registry import look_up, parameters_of

SIZES = (0.15, 0.45)  # besides the core's size
PERSISTENCES = (0.5, 0.8, 0.9, 0.95)  # between the core's iid and exogenous noise
HORIZONS = range(2, 11)
LOCK_METHODS = ("oracle", "inverse_model", "temporal_contrastive", "forward_model", "autoencoder", "lapo")
LABELS = (0, 250, 1_000, 4_000, 20_000)  # recorded frames whose action is known
LABELLED = ("random", "inverse_model", *BESIDE)
TEMPERATURES = (0.03, 0.1, 0.3, 1.0)
LRS = (3e-4, 1e-3, 3e-3)
TUNING_SEED = 100  # the first one of the tuning, whose maps nothing else is measured on
# PixPro trains the feature map alone, and probes read what comes after; the other is an ablation.
FIELD_METHODS = [m for m in METHODS if m not in ("pixpro", "curved_ahead")]
ARROW = ("random", "supervised", "curved", "curved_ahead", "temporal_contrastive", "inverse_model")
RECORDED = ("random", "supervised", "temporal_contrastive", "invariance")
CODES = (3, 4)  # of an encoder of the lock, besides two: four suffice for both factors
TOURED = ("temporal_contrastive", "forward_model", "autoencoder", "random", "supervised")  # under iid noise too
SWEPT = ("forward_model", "temporal_contrastive", "inverse_model")
Methods = Sequence[str] | None  # None: the study's default methods


def core(domain: str, methods: Methods, seeds: int) -> Iterator[Job]:
    """Methods × {no noise, iid, exogenous} × seeds, one whole seed after the other."""
    for seed, method, (noise, persistence) in product(range(seeds), methods or CORE_METHODS, NOISES.items()):
        if method == "oracle" and noise != "none":
            continue  # it sees no noise
        yield Job(domain, "core", method, noise, seed, persistence)


def replication(methods: Methods, seeds: int) -> Iterator[Job]:
    """The core's jobs that the criteria about the main results on other maps read, on the first of their seeds."""
    asked = read(Replicated)
    named = {asked.oracle, asked.floor, asked.ceiling, *asked.keep, *asked.lose, asked.method, *asked.baselines}
    chosen = [method for method in methods or sorted(named) if method in named]
    for job in core("gridworld", chosen, max(asked.seeds) + 1) if chosen else ():
        if job.seed in asked.seeds[:seeds] and job.noise == ("none" if job.method == asked.oracle else asked.noise):
            yield job


def longer(methods: Methods, seeds: int) -> Iterator[Job]:
    """What the criteria about one method after longer training read, on the first of their seeds."""
    asked = read(Longer)
    for seed in asked.seeds[:seeds]:
        for method, persistence, updates in (
            (asked.method, asked.persistence, asked.updates),
            (asked.baseline, asked.persistence, asked.updates),
            ("random", 0.0, None),
            ("supervised", 0.0, 1_000),
        ):
            if not methods or method in methods:
                yield Job("gridworld", "phase", method, "persistence", seed, persistence, 8, asked.size, updates, True)


def under_noise(domain: str, methods: Methods, seeds: int) -> Iterator[Job]:
    """The core's jobs that verdicts compare; without noise only those of the oracle, which never sees noise."""
    for job in core(domain, methods, seeds):
        if job.noise != "none" or job.method == "oracle":
            yield job


def field(methods: Methods, seeds: int) -> Iterator[Job]:
    """Linear probes of every method, without PPO; `core` runs PPO on their encoders. One seed after the other under
    noise, then without noise, where nearly all read the whole state.
    """
    jobs = [job for job in core("gridworld", methods or FIELD_METHODS, seeds) if job.method != "oracle"]
    for job in sorted(jobs, key=lambda job: job.noise == "none"):
        yield replace(job, study="field", only_probes=True)


def arrow(methods: Methods, seeds: int) -> Iterator[Job]:
    """Does the arrow of time keep the state under exogenous noise? The noise as it is, and drifting one way; recordings
    of the usual behaviour, and of random actions.
    """
    changes = ((False, False), (True, False), (False, True))
    for seed, method, (drift, random_actions) in product(range(seeds), methods or ARROW, changes):
        if (drift or random_actions) and method in ("random", "supervised", "curved_ahead"):
            continue  # the first two read single pictures, which stay the same
        job = Job("gridworld", "arrow", method, "exogenous", seed, 1.0, only_probes=True)
        if method != "oracle":
            yield replace(job, drift=drift, random_actions=random_actions)


def recordings(methods: Methods, seeds: int) -> Iterator[Job]:
    """Does invariance across recordings repair contrast where they differ in their noise? All under exogenous noise,
    and every second one under iid noise instead.
    """
    for seed, method, mixed in product(range(seeds), methods or RECORDED, (False, True)):
        # The first two read single pictures; of recordings for SepCLR every second one is of the background.
        if method != "oracle" and not (mixed and method in ("random", "supervised", "sepclr")):
            yield Job("gridworld", "recordings", method, "exogenous", seed, 1.0, only_probes=True, mixed=mixed)


def tuning(methods: Methods, seeds: int) -> Iterator[Job]:
    """Whether each method beside the core's learns without noise at the step size that all have, and at others; on maps
    of their own.
    """
    chosen = methods or FIELD_METHODS
    for seed, method, lr in product(range(TUNING_SEED, TUNING_SEED + seeds), chosen, LRS):
        if method not in CORE_METHODS:
            yield Job("gridworld", "tuning", method, "none", seed, only_probes=True, lr=lr)


def sizes(methods: Methods, seeds: int) -> Iterator[Job]:
    """How returns fall as exogenous noise (iid noise too for autoencoders) covers more; the core has one point."""
    yield from core("gridworld", methods or ("oracle", "autoencoder", *SWEPT), seeds)
    for seed, method, size in product(range(seeds), methods or ("autoencoder", *SWEPT), SIZES):
        if method == "oracle":
            continue
        yield Job("gridworld", "size", method, "exogenous", seed, 1.0, size=size)
        if method == "autoencoder":
            yield Job("gridworld", "size", method, "iid", seed, 0.0, size=size)


def persistences(methods: Methods, seeds: int) -> Iterator[Job]:
    """From iid to exogenous noise; both ends are in the core."""
    yield from core("gridworld", methods or SWEPT, seeds)
    for seed, method, persistence in product(range(seeds), methods or SWEPT, PERSISTENCES):
        if method != "oracle":
            yield Job("gridworld", "persistence", method, "persistence", seed, persistence)


def labels(methods: Methods, seeds: int) -> Iterator[Job]:
    """How many action labels bring the state back under exogenous noise: for an inverse model alone, and beside
    methods that read videos.
    """
    for seed, method, count in product(range(seeds), methods or LABELLED, LABELS):
        if method in BESIDE or (count > 0 if method == "inverse_model" else method == "random" and count == 0):
            yield Job("gridworld", "labels", method, "exogenous", seed, 1.0, only_probes=True, labels=count)


def temperatures(methods: Methods, seeds: int) -> Iterator[Job]:
    """Contrastive losses at several temperatures, under iid and under exogenous noise."""
    for seed, method, temperature in product(range(seeds), methods or ("temporal_contrastive", "cvrl"), TEMPERATURES):
        if method in OBJECTIVES and "temperature" in parameters_of(OBJECTIVES[method]):
            for noise in ("iid", "exogenous"):
                job = Job("gridworld", "temperature", method, noise, seed, NOISES[noise], only_probes=True)
                yield replace(job, temperature=temperature)


def transfer(methods: Methods, seeds: int) -> Iterator[Job]:
    """The core's encoders, frozen, under a kind of noise that they were not trained under."""
    for job in core("gridworld", methods, seeds):
        if job.method != "oracle":
            for kind in UNSEEN:
                yield replace(job, study="transfer", unseen=kind)


def lock(methods: Methods, seeds: int) -> Iterator[LockJob]:
    """Combination locks of growing length, for the methods that have a model for them."""
    for seed, horizon, method in product(range(seeds), HORIZONS, LOCK_METHODS):
        if not methods or method in methods:
            yield LockJob(method, horizon, seed)


def codes(methods: Methods, seeds: int) -> Iterator[LockJob]:
    """The lock, and the same for encoders with more codes, for which the lower bound should vanish."""
    yield from lock(methods, seeds)
    for job, count in product(lock(methods, seeds), CODES):
        if job.method != "oracle":
            yield replace(job, codes=count)


def tour(methods: Methods, seeds: int) -> Iterator[Job]:
    """What one seed can show in less than 20 minutes on two cores: probes of all methods under exogenous noise and of
    those of P1 and P3 under iid noise, one PPO run on the core's encoders under exogenous noise, and a cross-section of
    the phase diagram.
    """
    for job in field(methods, seeds):
        alone = job.method not in CORE_METHODS or job.method == "supervised"  # the core's cells have probes too
        if (job.noise == "exogenous" and alone) or (job.noise == "iid" and job.method in (methods or TOURED)):
            yield job
    for job in core("gridworld", methods, seeds):
        if job.method == "oracle" or (job.noise == "exogenous" and job.method != "supervised"):
            yield replace(job, ppo_runs=1)
    yield from phase.cross_section(methods, seeds)


STUDIES: dict[str, Callable[[Methods, int], Iterable[Job | LockJob]]] = {
    "core": partial(core, "gridworld"),
    "replication": replication,
    "longer": longer,
    "size": sizes,
    "persistence": persistences,
    "phase": phase.jobs,
    "tour": tour,
    "tuning": tuning,
    "field": field,
    "arrow": arrow,
    "recordings": recordings,
    "labels": labels,
    "temperature": temperatures,
    "transfer": transfer,
    "lock": lock,
    "codes": codes,
    "vizdoom_basic": partial(under_noise, "vizdoom_basic"),
    "vizdoom_defend_the_center": partial(under_noise, "vizdoom_defend_the_center"),
}


OWN_SEEDS = ("replication", "longer", "tuning")


def run_job(job: Job | LockJob, folder: Path, quick: bool = False) -> Path:
    """Runs a job in this process, on one thread, and writes its cell.

    Args:
        job: which.
        folder: of the study; the file is cells/NAME.json.
        quick: use sizes that only check that everything runs.
    """
    import torch

    from rlrep.experiments.run.allocator import keep_pages
    from rlrep.experiments.speed.machine import machine_line

    torch.set_num_threads(1)
    keep_pages()
    started = time.perf_counter()
    if isinstance(job, LockJob):
        from rlrep.experiments.video_study.lock import run_lock_cell

        row: dict[str, Any] = run_lock_cell(job.method, job.horizon, job.seed, codes=job.codes)
    else:
        from rlrep.experiments.video_study import pixels

        row = pixels.run(job, pixels.settings_of(job, quick), folder)
        row["settings"] = job_settings(job, quick)
    row = job.description | row | stamp() | {"seconds": time.perf_counter() - started, "machine": machine_line()}
    path = folder / "cells" / f"{job.name}.json"
    write_atomically(path, json.dumps(row, indent=1).encode())
    return path


def without_cell(jobs: Sequence[Job | LockJob], folder: Path, quick: bool) -> list[Job | LockJob]:
    """The jobs that are not done yet.

    Raises:
        ValueError: if the folder has other criteria or other code, or a cell has other noise or other settings.
    """
    if jobs:
        claim(folder)
    missing = []
    for job in jobs:
        path = folder / "cells" / f"{job.name}.json"
        if not path.exists():
            missing.append(job)
            continue
        cell = read_content(path)
        asked = job.description
        if "settings" in cell and isinstance(job, Job):
            asked |= {"settings": job_settings(job, quick)}
            runs, wanted = (given["settings"].pop("ppo_seeds", 0) for given in (cell, asked))
            if runs < wanted and not job.only_probes:
                missing.append(job)  # its encoder is kept, so that this takes only PPO's time
        if other := [f"{name}={cell.get(name)}" for name, value in asked.items() if cell.get(name) != value]:
            raise ValueError(
                f"{path} is of another study ({', '.join(other)}): move it away, or choose another folder with --out"
            )
    return missing


def job_settings(job: Job, quick: bool) -> Any:
    """The settings as a cell stores them, in JSON's types."""
    from rlrep.experiments.video_study import pixels

    return json.loads(json.dumps(asdict(pixels.settings_of(job, quick))))


def run_missing(jobs: Sequence[Job | LockJob], folder: Path, workers: int, quick: bool) -> list[str]:
    """Runs the jobs whose cells are missing, `workers` at a time, each in its own process; returns the failures."""
    from rlrep.experiments.run.log import Progress  # with torch, which takes a second or two to import

    missing = without_cell(jobs, folder, quick)
    failed = []
    progress = Progress("video study", len(jobs), len(jobs) - len(missing), "cell")
    with closing(progress), ProcessPoolExecutor(workers, get_context("spawn"), max_tasks_per_child=1) as pool:
        running = {pool.submit(run_job, job, folder, quick): job for job in missing}
        left = set(running)
        try:
            while left:
                # A cell takes minutes: meanwhile the time is shown.
                done, left = wait(left, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    job = running[future]
                    try:
                        future.result()
                    except Exception:
                        failed.append(f"{job.name}: {traceback.format_exc(limit=-1).strip().splitlines()[-1]}")
                    progress.show({"last": job.name})
                progress.advance(len(jobs) - len(left))
        except KeyboardInterrupt:  # otherwise the pool would first run all remaining jobs
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in active_children():
                worker.terminate()
            raise
    return failed


def chosen_jobs(
    studies: Sequence[str], methods: Sequence[str] | None, seeds: int, first_seed: int = 0
) -> list[Job | LockJob]:
    """The jobs of the requested studies, on so many seeds from the first one on.

    Raises:
        ValueError: for an unknown study or method, a method that none of the studies has, or one that reads what a
            study's recordings do not hold.
    """
    for method in methods or ():
        look_up("method", method, METHODS)
    jobs: list[Job | LockJob] = []
    for name in studies:
        if first_seed and name in OWN_SEEDS:
            raise ValueError(f"{name} has seeds of its own, which its criteria name: leave --first-seed out")
        jobs += (job for job in look_up("study", name, STUDIES)(methods, first_seed + seeds) if job.seed >= first_seed)
    if not jobs:
        raise ValueError(f"{' and '.join(studies)} has no job for {' or '.join(methods or ())}")
    if methods:
        from rlrep.experiments.video_study.pixels import check_methods

        check_methods(job for job in jobs if isinstance(job, Job))
    return each_once(jobs)


def each_once(jobs: Iterable[Job | LockJob]) -> list[Job | LockJob]:
    """Every cell's job once: that with the most PPO runs, if several studies have it."""
    found: dict[str, Job | LockJob] = {}
    for job in jobs:
        if job.name not in found or (isinstance(job, Job) and job.ppo_runs is None):
            found[job.name] = job
    return list(found.values())
