"""One cell of the grid-world study: a method, a noise and a seed, from video to the return of PPO on frozen features."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.gridworld import VectorGridWorld, grid_table
from envs.noise import NoiseProcess
from experiments.theory.cells import Cell, noise_options
from experiments.theory.ppo import FrozenEncoder, GridVecEnv, Schedule, learn, mean_return
from rlrep import PixelEncoder, RandomShift, make_objective
from rlrep.data import EpisodeDataset
from rlrep.pretrain import pretrain
from rlrep.probe import alignment, effective_rank, encode, probe, reconstruction, uniformity

NUM_ENVS = 64
OBJECTIVE_OPTIONS: dict[str, dict[str, Any]] = {
    "autoencoder": dict(decoder_channels=8),
    "vq_autoencoder": dict(decoder_channels=8, codes=64, codebooks=8),
    "forward_model": dict(decoder_channels=8, feature_dim=128, hidden_dim=256),
    "temporal_contrastive": dict(feature_dim=64),
    "inverse_model": dict(hidden_dim=256),
}


@dataclass(frozen=True)
class GridSettings:
    """Sizes of the study: what `python -m experiments.video_theory` runs unless it is told otherwise."""

    frames: int = 20_000
    behaviour: float = 0.5  # probability of an optimal action, else a random one
    horizon: int = 3
    steps: int = 1_500
    batch_size: int = 256
    lr: float = 1e-3
    labels: int = 5  # a state, to fit probes with
    test_labels: int = 3
    ppo: Schedule = field(default_factory=lambda: Schedule(steps=60_000, evaluations=6))
    encoder: dict[str, Any] = field(default_factory=lambda: dict(channels=16, strides=(4, 2, 2), out_dim=128))


def record_video(noise: dict[str, Any] | None, settings: GridSettings, seed: int) -> EpisodeDataset:
    """Videos of a behaviour that mixes optimal and random moves, with the actions taken."""
    world = VectorGridWorld(NUM_ENVS, noise=noise, seed=seed)
    rng = np.random.default_rng([seed, 2])
    length = -(-settings.frames // NUM_ENVS)
    frames = np.zeros((NUM_ENVS, length, *world.observation_space.shape), np.uint8)
    action = np.zeros((NUM_ENVS, length), np.int64)
    ended = np.zeros((NUM_ENVS, length), bool)
    for t in range(length):
        frames[:, t] = world.observe()
        optimal = world.table.optimal_action(world.state)
        action[:, t] = np.where(rng.random(NUM_ENVS) < settings.behaviour, optimal, rng.integers(3, size=NUM_ENVS))
        _, terminated, truncated = world.step(action[:, t])
        ended[:, t] = terminated | truncated
    ended[:, -1] = True
    lengths = np.diff(np.flatnonzero(ended.ravel()), prepend=-1)
    return EpisodeDataset(
        frames.reshape(-1, *frames.shape[2:]),
        lengths,
        action=action.reshape(-1),
        max_gap=settings.horizon,
        seed=seed,
    )


def train_encoder(cell: Cell, settings: GridSettings) -> tuple[PixelEncoder, dict[str, Any]]:
    """The cell's encoder, frozen, and how long it took; the random one if the method learns nothing."""
    torch.manual_seed(cell.seed)
    shape = VectorGridWorld.observation_space.shape
    encoder = PixelEncoder(shape, **settings.encoder)
    if cell.method not in OBJECTIVE_OPTIONS:
        return encoder.requires_grad_(False).eval(), {"updates_per_second": None, "pretrain_seconds": 0.0}
    options = dict(OBJECTIVE_OPTIONS[cell.method])
    if cell.method not in ("autoencoder", "vq_autoencoder"):
        options["horizon"] = settings.horizon
    space = VectorGridWorld.action_space if cell.method == "inverse_model" else None
    name = cell.method.removeprefix("vq_")
    objective = make_objective(name, encoder, space, augment=RandomShift(0), **options)
    train, validation = record_video(noise_options(cell), settings, cell.seed).split(0.1, cell.seed)
    started = time.perf_counter()
    trainer = pretrain(
        objective, train, validation, steps=settings.steps, batch_size=settings.batch_size, lr=settings.lr
    )
    seconds = time.perf_counter() - started
    measured = {"updates_per_second": trainer.updates / seconds, "pretrain_seconds": seconds}
    return encoder.requires_grad_(False).eval(), measured


class Samples:
    """Frames of given states, each with noise of its own, and what is in them.

    Attributes:
        observation: (N, 3, 56, 56) uint8.
        state: (N,) int64, the state's number.
        noise: (N, T) float32: sine and cosine of each shape's position and hue; None without noise.
    """

    def __init__(self, state: np.ndarray, noise: dict[str, Any] | None, seed: int) -> None:
        frames = grid_table().frames[state]
        self.state = torch.from_numpy(state)
        self.noise: Tensor | None = None
        if noise is not None:
            process = NoiseProcess(len(state), frames.shape[1:], seed=seed, **noise)
            frames = process.draw(frames)
            angle = torch.from_numpy(process.state.reshape(len(state), -1)) * (2 * np.pi)
            self.noise = torch.cat([angle.sin(), angle.cos()], 1)
        self.observation = torch.from_numpy(np.ascontiguousarray(frames))


def probe_encoder(
    encoder: PixelEncoder, cell: Cell, settings: GridSettings, pictures: Path | None = None
) -> dict[str, Any]:
    """What the encoder knows of state and noise, and how its features lie."""
    noise = noise_options(cell)
    seen = np.flatnonzero(grid_table().distance > 0)
    train = Samples(np.repeat(seen, settings.labels), noise, seed=cell.seed + 10_000)
    test = Samples(np.repeat(seen, settings.test_labels), noise, seed=cell.seed + 20_000)
    again = Samples(test.state.numpy(), noise, seed=cell.seed + 30_000)
    features, test_features = encode(encoder, train.observation), encode(encoder, test.observation)
    rng = np.random.default_rng(cell.seed)
    order = torch.from_numpy(rng.permutation(len(features)))
    error, images = reconstruction(
        (features[order], train.observation[order]), (test_features, test.observation), seed=cell.seed
    )
    out = {
        "state_linear": probe((features, train.state), (test_features, test.state)),
        "state_mlp": probe((features, train.state), (test_features, test.state), hidden_dim=256),
        "state_chance": 1 / len(seen),
        "noise_linear": None,
        "noise_mlp": None,
        "reconstruction": error,
        # Two frames of one state, each with noise of its own, should have features alike.
        "alignment": alignment(test_features, encode(encoder, again.observation)),
        "uniformity": uniformity(test_features),
        "effective_rank": effective_rank(test_features),
    }
    if train.noise is not None and test.noise is not None:
        pair = (features, train.noise), (test_features, test.noise)
        out |= {"noise_linear": probe(*pair), "noise_mlp": probe(*pair, hidden_dim=256)}
    if pictures is not None:
        chosen = rng.choice(len(images), 8, replace=False)
        pictures.parent.mkdir(parents=True, exist_ok=True)
        shown = {"observation": test.observation[chosen], "reconstruction": images[chosen]}
        np.savez_compressed(pictures, **{name: x.permute(0, 2, 3, 1).numpy() for name, x in shown.items()})
    return out


def coverage(noise: dict[str, Any] | None) -> float:
    """The share of pixels that the noise covers, on average over states."""
    if noise is None:
        return 0.0
    frames = grid_table().frames
    drawn = NoiseProcess(len(frames), frames.shape[1:], seed=0, **noise).draw(frames)
    return float((drawn != frames).any(1).mean())


def run(cell: Cell, settings: GridSettings, folder: Path) -> dict[str, Any]:
    """The row of a cell."""
    noise = noise_options(cell)
    oracle = cell.method == "oracle"
    row: dict[str, Any] = {"coverage": coverage(noise), "pictures": None}
    encoder = None
    if not oracle:
        encoder, measured = train_encoder(cell, settings)
        pictures = folder / "pictures" / f"{cell.name}.npz"
        row |= measured | probe_encoder(encoder, cell, settings, pictures)
        row["pictures"] = str(pictures.relative_to(folder))

    def environment(seed: int) -> Any:
        venv = GridVecEnv(VectorGridWorld(NUM_ENVS, noise=None if oracle else noise, seed=seed), oracle)
        return venv if encoder is None else FrozenEncoder(venv, encoder)

    started = time.perf_counter()
    test = environment(cell.seed + 50_000)
    rng = np.random.default_rng(cell.seed)
    row["random_return"] = mean_return(test, lambda features: rng.integers(3, size=len(features)), 1000)
    row["curve"] = learn(environment(cell.seed + 40_000), test, settings.ppo, cell.seed)
    row["return"] = row["curve"][-1][1]
    row["ppo_seconds"] = time.perf_counter() - started
    return row
