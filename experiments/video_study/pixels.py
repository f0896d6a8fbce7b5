"""One job of the study from pixels: from video to an encoder, to what it knows, to the return of PPO on it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from rlrep import Objective, PixelEncoder, RandomShift, make_objective
from rlrep.experiments.files import write_atomically
from rlrep.experiments.video_study.cells import DOMAINS
from rlrep.experiments.video_study.domain import Domain, Samples, Settings
from rlrep.experiments.video_study.jobs import Job
from rlrep.experiments.video_study.ppo import Curve, FrozenEncoder, Schedule, learn, mean_return
from rlrep.experiments.video_study.supervised import train_on_labels
from rlrep.objectives import find_objective
from rlrep.pretrain import pretrain
from rlrep.probe import alignment, effective_rank, encode, probe, reconstruction, uniformity
from rlrep.registry import look_up, parameters_of

PRETRAINING = ("frames", "horizon", "steps", "batch_size", "lr", "encoder")
# Of the objectives, where they are not their own defaults. `shift` is the augmentation: those whose positives are two
# views of one picture need one.
OPTIONS: dict[str, dict[str, Any]] = {
    "autoencoder": dict(feature_dim=128, decoder_channels=16),
    "vq_autoencoder": dict(feature_dim=128, decoder_channels=16, codes=64, codebooks=8),
    "forward_model": dict(decoder_channels=16, feature_dim=128, hidden_dim=256),
    "temporal_contrastive": dict(feature_dim=64),
    "inverse_model": dict(hidden_dim=256, feature_dim=128),
    "curl": dict(shift=4),
    "pixpro": dict(shift=4),
    "taco": dict(shift=4, reward=False),
    "latent_model": dict(reward=0.0, termination=0.0),
    "lapo": dict(decoder_channels=16),
}
NEEDED = {
    "action": "the actions taken",
    "reward": "rewards",
    "label": "labels of the state",
    "background": "recordings of the background alone",
}
# What objectives call the layer behind the features that their loss reads, where not "state_projection".
HEADS = {"autoencoder": "projection", "vq_autoencoder": "projection"}


def domain(name: str, layout: int = 0) -> Domain:
    if name == "gridworld":
        from rlrep.experiments.video_study.gridworld import GridDomain

        return GridDomain(layout)
    from rlrep.experiments.video_study.doom import DoomDomain

    return DoomDomain(name.removeprefix("vizdoom_"))


def settings(name: str, quick: bool = False) -> Settings:
    """Of a domain; `quick` ones only show that everything runs."""
    usual = {
        "gridworld": Settings(),
        "vizdoom_basic": Settings(steps=2_000, ppo=Schedule(steps=40_000, evaluations=4, episodes=40)),
        "vizdoom_defend_the_center": Settings(steps=2_000, ppo=Schedule(steps=60_000, evaluations=4, episodes=40)),
    }
    chosen = look_up("domain", name, usual)
    if not quick:
        return chosen
    return Settings(
        frames=1_000,
        steps=5,
        batch_size=16,
        labels=2,
        test_labels=1,
        noise_labels=2,
        probe_steps=5,
        ppo=Schedule(2_048, 1, 8),
        ppo_seeds=1,
    )


def run(job: Job, settings: Settings, folder: Path) -> dict[str, Any]:
    """What a job measures, in the report's names; pictures go to `folder`/pictures."""
    place, noise, oracle = domain(job.domain, job.layout), job.noise_options, job.method == "oracle"
    row: dict[str, Any] = {"coverage": 0.0 if noise is None else place.coverage(noise), "pictures": None}
    wrap: Callable[[VecEnv], VecEnv] = lambda venv: venv  # noqa: E731
    if not oracle:
        encoder, measured = pretrained_encoder(place, job, settings, folder / "encoders" / job.name)
        row |= measured | probe_encoder(encoder, place, job, settings, folder)
        wrap = lambda venv: FrozenEncoder(venv, encoder)  # noqa: E731
    started = time.perf_counter()
    make: Callable[[int], VecEnv] = lambda seed: wrap(place.environment(noise, oracle, seed))  # noqa: E731
    choices, rng = place.action_space.n, np.random.default_rng(job.seed)
    with closing(make(job.seed + 50_000)) as test:
        row["random_return"] = mean_return(
            test, lambda features: rng.integers(choices, size=len(features)), settings.ppo.episodes
        )
    curves = [learn_once(make, settings, job.seed + 100_000 * again) for again in range(settings.ppo_seeds)]
    row["returns"] = [curve[-1][1] for curve in curves]
    # One encoder is one sample, however often PPO learns on it: its own luck is averaged out.
    row["curve"] = np.mean(curves, axis=0).tolist()
    row["return"] = float(np.mean(row["returns"]))
    return row | {"ppo_seconds": time.perf_counter() - started}


def learn_once(make: Callable[[int], VecEnv], settings: Settings, seed: int) -> Curve:
    """The curve of one PPO, on environments of its own."""
    with closing(make(seed + 40_000)) as venv, closing(make(seed + 50_000)) as test:
        return learn(venv, test, settings.ppo, seed)


def pretrained_encoder(
    place: Domain, job: Job, settings: Settings, folder: Path
) -> tuple[PixelEncoder, dict[str, Any]]:
    """What `train_encoder` returns; kept in `folder`, so that a job that is run again need not train it again."""
    made_by, kept = folder / "made_by.json", None
    description = (
        job.description
        | {name: value for name, value in asdict(settings).items() if name in PRETRAINING}
        | {"options": OPTIONS.get(job.method)}
    )
    with suppress(OSError, ValueError):
        kept = json.loads(made_by.read_text())
    if kept is not None and kept["description"] == json.loads(json.dumps(description)):
        return PixelEncoder.from_pretrained(folder).requires_grad_(False).eval(), kept["measured"]
    encoder, measured = train_encoder(place, job, settings)
    encoder.save_pretrained(folder)
    write_atomically(made_by, json.dumps({"description": description, "measured": measured}).encode())
    return encoder, measured


def train_encoder(place: Domain, job: Job, settings: Settings) -> tuple[PixelEncoder, dict[str, Any]]:
    """The job's encoder, frozen, how fast it learned, and what the layer says that its loss reads; the random one if
    the method learns nothing.

    All methods are probed and used at the same depth, before any head. `state_head` is the linear probe behind it.
    """
    torch.manual_seed(job.seed)
    encoder = PixelEncoder(place.shape, **settings.encoder)
    measured: dict[str, Any] = {"updates_per_second": None, "pretrain_seconds": 0.0, "state_head": None}
    if job.method != "random":
        started = time.perf_counter()
        if job.method == "supervised":
            head: nn.Module | None = train_on_labels(encoder, place, job.noise_options, settings, job.seed)
            updates = settings.steps
        else:
            head, updates = train_on_video(encoder, place, job, settings)
        seconds = time.perf_counter() - started
        measured |= {"updates_per_second": updates / seconds, "pretrain_seconds": seconds}
        if head is not None:
            parts = probed_states(place, job, settings)
            states = [(head(encode(encoder, x.observation)).detach(), x.state) for x in parts]
            measured["state_head"] = probe(states[0], states[1], steps=settings.probe_steps)
    return encoder.requires_grad_(False).eval(), measured


def train_on_video(encoder: PixelEncoder, place: Domain, job: Job, settings: Settings) -> tuple[nn.Module | None, int]:
    """Steps the encoder by the job's objective; returns the layer that the loss reads, and the number of updates."""
    objective = build(job.method, encoder, place, settings)
    train, validation = place.record(job.noise_options, settings, job.seed).split(0.1, job.seed)
    trainer = pretrain(
        objective, train, validation, steps=settings.steps, batch_size=settings.batch_size, lr=settings.lr
    )
    return getattr(objective.eval(), HEADS.get(job.method, "state_projection"), None), trainer.updates


def build(method: str, encoder: PixelEncoder, place: Domain, settings: Settings) -> Objective:
    """A method's objective, with the study's horizon if it has one, and the actions if it reads them.

    Raises:
        ValueError: for a method that is no objective.
    """
    name = method.removeprefix("vq_")
    kind, options = find_objective(name), dict(OPTIONS.get(method, {}))
    augment = RandomShift(options.pop("shift", 0))
    if "horizon" in parameters_of(kind):
        options["horizon"] = settings.horizon
    space = place.action_space if kind.reads_actions(options) else None
    return make_objective(name, encoder, space, augment=augment, **options)


def check_methods(jobs: Iterable[Job]) -> None:
    """Refuses, before anything runs, a method that reads what the recordings of its domain do not hold.

    Raises:
        ValueError: with the method, what it needs and where that is missing.
    """
    for name, method in dict.fromkeys((job.domain, job.method) for job in jobs):
        place, chosen = domain(name), settings(name)
        needs: tuple[str, ...] = ("label",) * (method in ("oracle", "supervised"))
        if method not in ("oracle", "supervised", "random"):
            objective = build(method, PixelEncoder(place.shape, **chosen.encoder), place, chosen)
            needs = objective.window.needs + ("background",) * objective.needs_background
        if lacks := [need for need in needs if need not in place.records]:
            raise ValueError(
                f"{method} needs {' and '.join(NEEDED[need] for need in lacks)}, which the recordings of "
                f"{DOMAINS[name]} do not hold: leave it out of --methods"
            )


def probed_states(place: Domain, job: Job, settings: Settings) -> tuple[Samples, Samples]:
    """What probes of the state are fitted to, and what they are scored on."""
    noise, seed = job.noise_options, job.seed
    return (
        place.samples(noise, settings.labels, seed + 10_000, held_out=False),
        place.samples(noise, settings.test_labels, seed + 20_000, held_out=True),
    )


def probe_encoder(encoder: PixelEncoder, place: Domain, job: Job, settings: Settings, folder: Path) -> dict[str, Any]:
    """What the encoder knows of state and noise, how its features lie, and what can be drawn from them."""
    noise, seed, steps = job.noise_options, job.seed, settings.probe_steps
    train, test = probed_states(place, job, settings)
    again = place.samples(noise, settings.test_labels, seed + 30_000, held_out=True)
    features, test_features = encode(encoder, train.observation), encode(encoder, test.observation)
    states = (features, train.state), (test_features, test.state)
    out = {
        "state_linear": probe(*states, steps=steps),
        "state_mlp": probe(*states, hidden_dim=256, steps=steps),
        "state_chance": place.state_chance,
        "noise_linear": None,
        "noise_mlp": None,
        # Two observations of one state, each with noise of its own, should have features alike.
        "alignment": alignment(test_features, encode(encoder, again.observation)),
        "uniformity": uniformity(test_features),
        "effective_rank": effective_rank(test_features),
    }
    if test.noise is not None:
        labelled = place.samples(noise, settings.noise_labels, seed + 40_000, held_out=False)
        assert labelled.noise is not None
        noises = (encode(encoder, labelled.observation), labelled.noise), (test_features, test.noise)
        out["noise_linear"] = probe(*noises, steps=steps)
        out["noise_mlp"] = probe(*noises, hidden_dim=256, steps=steps // 3 + 1)  # longer, and it learns by heart
    frames, test_frames = train.observation[:, -3:], test.observation[:, -3:]
    out["reconstruction"], images = reconstruction(
        (features, frames), (test_features, test_frames), steps=steps, seed=seed
    )
    chosen = np.random.default_rng(0).choice(len(images), 8, replace=False)
    path = folder / "pictures" / f"{job.name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    shown, drawn = (x[chosen].permute(0, 2, 3, 1).numpy() for x in (test_frames, images))
    np.savez_compressed(path, observation=shown, reconstruction=drawn)
    return out | {"pictures": str(path.relative_to(folder))}
