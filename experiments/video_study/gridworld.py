"""The grid world of the study: the whole environment is a table, so that everything about it can be known."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from envs.gridworld import VectorGridWorld, grid_table
from envs.noise import NoiseProcess
from experiments.video_study.domain import Samples, Settings, noise_picture
from experiments.video_study.ppo import GridVecEnv
from rlrep.data import EpisodeDataset

NUM_ENVS = 64
OPTIMAL = 0.5  # the probability that the recorded behaviour takes an optimal action, rather than a random one


class GridDomain:
    """See `domain.Domain`. A state's label is its number; the goal, where episodes end, has none."""

    shape: tuple[int, ...] = VectorGridWorld.observation_space.shape
    action_space = VectorGridWorld.action_space

    def __init__(self) -> None:
        self.table = grid_table()
        self.seen = np.flatnonzero(self.table.distance > 0)
        self.state_chance = 1 / len(self.seen)

    def record(self, noise: dict[str, Any] | None, settings: Settings, seed: int) -> EpisodeDataset:
        world = VectorGridWorld(NUM_ENVS, noise=noise, seed=seed)
        rng = np.random.default_rng([seed, 2])
        length = -(-settings.frames // NUM_ENVS)
        frames = np.zeros((NUM_ENVS, length, *self.shape), np.uint8)
        action = np.zeros((NUM_ENVS, length), np.int64)
        ended = np.zeros((NUM_ENVS, length), bool)
        for t in range(length):
            frames[:, t] = world.observe()
            optimal = self.table.optimal_action(world.state)
            action[:, t] = np.where(rng.random(NUM_ENVS) < OPTIMAL, optimal, rng.integers(3, size=NUM_ENVS))
            _, terminated, truncated = world.step(action[:, t])
            ended[:, t] = terminated | truncated
        ended[:, -1] = True
        lengths = np.diff(np.flatnonzero(ended), prepend=-1)
        return EpisodeDataset(
            frames.reshape(-1, *self.shape), lengths, action=action.ravel(), max_gap=settings.horizon, seed=seed
        )

    def samples(self, noise: dict[str, Any] | None, per_state: int, seed: int, held_out: bool) -> Samples:
        state = np.repeat(self.seen, per_state)
        np.random.default_rng(0).shuffle(state)
        frames, latent = self.table.frames[state], None
        if noise is not None:
            process = NoiseProcess(len(state), self.shape, seed=seed, **noise)
            frames = process.draw(frames)
            latent = noise_picture(process)
        number = np.searchsorted(self.seen, state)
        return Samples(torch.from_numpy(np.ascontiguousarray(frames)), torch.from_numpy(number), latent)

    def environment(self, noise: dict[str, Any] | None, oracle: bool, seed: int) -> GridVecEnv:
        return GridVecEnv(VectorGridWorld(NUM_ENVS, noise=None if oracle else noise, seed=seed), oracle)

    def coverage(self, noise: dict[str, Any]) -> float:
        return _coverage(tuple(noise.items()))


@lru_cache
def _coverage(noise: tuple[tuple[str, Any], ...]) -> float:
    frames = grid_table().frames
    drawn = NoiseProcess(len(frames), frames.shape[1:], seed=0, **dict(noise)).draw(frames)
    return float((drawn != frames).any(1).mean())
