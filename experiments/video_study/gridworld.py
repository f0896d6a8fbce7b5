"""The grid world of the study: the whole environment is a table, so that everything about it can be computed."""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import pdist

from rlrep.data import EpisodeDataset
from rlrep.envs.gridworld import MAX_STEPS, VectorGridWorld, grid_table
from rlrep.envs.noise import NoiseProcess
from rlrep.experiments.results.runs import Array
from rlrep.experiments.video_study.domain import Samples, Settings, noise_picture
from rlrep.experiments.video_study.ppo import GridVecEnv

NUM_ENVS = 64


class GridDomain:
    """See `domain.Domain`. A state's label is its number; the goal, where episodes end, has none.

    Args:
        layout: the map, see `rlrep.envs.gridworld.grid_table`.
        optimal: the probability that the recorded behaviour takes an optimal action, rather than a random one.
    """

    shape: tuple[int, ...] = VectorGridWorld.observation_space.shape
    action_space = VectorGridWorld.action_space
    records: tuple[str, ...] = ("action", "label", "reward", "background", "demonstration")

    def __init__(self, layout: int = 0, optimal: float = 0.5) -> None:
        self.layout, self.table, self.optimal = layout, grid_table(layout), optimal
        self.seen = np.flatnonzero(self.table.distance > 0)
        self.state_chance = 1 / len(self.seen)

    def record(
        self, noise: dict[str, Any] | None, settings: Settings, seed: int, rewards: bool = False
    ) -> EpisodeDataset:
        """See `domain.Domain`; with rewards, an episode that reached the goal ends with one more frame, of the goal."""
        length = -(-settings.frames // NUM_ENVS)
        frames = np.zeros((NUM_ENVS, length, *self.shape), np.uint8)
        action = np.zeros((NUM_ENVS, length), np.int64)
        reward = np.zeros((NUM_ENVS, length), np.float32)
        terminated, truncated = np.zeros((2, NUM_ENVS, length), bool)
        goals: dict[tuple[int, int], np.ndarray] = {}  # what is seen in each state, by environment and time
        world, rng = VectorGridWorld(NUM_ENVS, self.layout, noise, seed), np.random.default_rng([seed, 2])
        for t in range(length):
            frames[:, t] = world.observe()
            action[:, t] = self.behave(world.state, rng)
            if rewards:
                goals |= {(i, t): frame for i, frame in self.at_goal(world, action[:, t]).items()}
            reward[:, t], terminated[:, t], truncated[:, t] = world.step(action[:, t])
        ended = terminated | truncated
        ended[:, -1] = True
        lengths = np.diff(np.flatnonzero(ended), prepend=-1)
        seen, acted = frames.reshape(-1, *self.shape), action.ravel()
        after = np.flatnonzero(terminated) + 1 if rewards else np.zeros(0, np.int64)
        if rewards:
            lengths = lengths + terminated.ravel()[np.flatnonzero(ended)]
            seen = np.insert(seen, after, [goals[i, t] for i, t in np.argwhere(terminated)], axis=0)
            acted = np.insert(acted, after, 0)
        data = EpisodeDataset(seen, lengths, action=acted, max_gap=settings.horizon, seed=seed)
        if rewards:
            data.rows["reward"] = np.insert(reward.ravel(), after, 0)[None]
            data.rows["terminated"] = np.insert(terminated.ravel(), after, False)[None]
        return data

    def at_goal(self, world: VectorGridWorld, action: np.ndarray) -> dict[int, np.ndarray]:
        """The picture of the goal for each world that these actions take there, by the world's number."""
        after = self.table.next_state[world.state, action]
        there = np.flatnonzero(self.table.distance[after] == 0)
        frames = self.table.frames[after]
        if world.noise is not None and len(there):
            noise = deepcopy(world.noise)  # a copy, as the world's own noise is reset at the goal
            noise.step()
            frames = noise.draw(frames)
        return dict(zip(there.tolist(), frames[there], strict=True))

    def behave(self, state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The recorded actions in states (N,)."""
        optimal = self.table.optimal_action(state)
        return np.where(rng.random(len(state)) < self.optimal, optimal, rng.integers(3, size=len(state)))

    def visited(self, settings: Settings, seed: int) -> float:
        """The share of the states before the goal that `record` shows; it does not depend on the noise."""
        world, rng = VectorGridWorld(NUM_ENVS, self.layout, seed=seed), np.random.default_rng([seed, 2])
        shown = np.zeros(len(self.table.states), bool)
        for _ in range(-(-settings.frames // NUM_ENVS)):
            shown[world.state] = True
            world.step(self.behave(world.state, rng))
        return float(shown[self.seen].mean())

    def transitions(self) -> Array:
        """(states, states) the probability of each next state under the recorded behaviour, the goal's included."""
        count = len(self.table.states)
        step = np.zeros((count, count))
        for action in range(3):
            best = self.table.optimal_action(np.arange(count)) == action
            chance = self.optimal * best + (1 - self.optimal) / 3
            np.add.at(step, (np.arange(count), self.table.next_state[:, action]), chance)
        return step

    def pairs(self, gap: int) -> Array:
        """(seen, seen) how often two states stand `gap` steps apart in an episode of the recordings; the sum is 1.

        Exact: episodes start anywhere that is far enough from the goal, and end at the goal or after `MAX_STEPS` moves.
        """
        step = self.transitions()[np.ix_(self.seen, self.seen)]
        now = np.isin(self.seen, self.table.starts).astype(float)
        first = np.zeros(len(now))
        for _ in range(MAX_STEPS - gap):
            first += now
            now = now @ step
        found = first[:, None] * np.linalg.matrix_power(step, gap)
        return found / found.sum()

    def margins(self, horizon: int) -> list[float]:
        """The block MDP's margin for a gap of 1, ..., `horizon` steps, computed exactly from the table.

        Take the distributions of the state k steps after two different states, under the recorded behaviour. The margin
        is their least total variation, min ½ Σ_s |P(s | s_1, k) − P(s | s_2, k)|. It says how well the future tells
        states apart.
        """
        step, ends = self.transitions(), self.table.distance == 0
        step[ends] = np.eye(len(step))[ends]
        powers = [np.linalg.matrix_power(step, gap)[self.seen] for gap in range(1, horizon + 1)]
        return [float(pdist(power, "cityblock").min() / 2) for power in powers]

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
        return GridVecEnv(VectorGridWorld(NUM_ENVS, self.layout, None if oracle else noise, seed), oracle)

    def coverage(self, noise: dict[str, Any]) -> float:
        return _coverage(self.layout, tuple(noise.items()))


@lru_cache
def _coverage(layout: int, noise: tuple[tuple[str, Any], ...]) -> float:
    frames = grid_table(layout).frames
    drawn = NoiseProcess(len(frames), frames.shape[1:], seed=0, **dict(noise)).draw(frames)
    return float((drawn != frames).any(1).mean())
