"""The ViZDoom scenarios of the study."""

from __future__ import annotations

from contextlib import closing
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from rlrep.data import EpisodeDataset, record
from rlrep.envs import DoomPixels
from rlrep.envs.noise import Noise, NoiseProcess
from rlrep.experiments.video_study.domain import Samples, Settings, noise_picture

NUM_ENVS = 8
IMAGE_SIZE = 56
REWARD_SCALE = {"basic": 100.0, "defend_the_center": 1.0}
# What no picture shows can't be asked of an encoder.
UNSEEN = ("ammo", "health", "player_velocity_y")
OBSERVATIONS, APART = 1_000, 5
OPTIMAL = 0.5  # the probability that the recorded behaviour does as `aim` says, rather than at random
LEFT, RIGHT, SHOOT = range(3)


def aim(scenario: str, state: dict[str, float]) -> int:
    """Turn to the (nearest) monster, or move before it, and shoot."""
    if scenario == "basic":
        aside, narrow, ahead = state["monster_y"] - state["player_y"], 0.05, True
    else:
        aside, narrow, ahead = state["monster0_sin"], 0.1, state["monster0_cos"] > 0
    if abs(aside) < narrow and ahead:
        return SHOOT
    return LEFT if aside > 0 else RIGHT


class Latent(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose observation is ``info["state"]``: what the oracle sees."""

    def __init__(self, env: gym.Env[Any, Any], size: int) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        _, info = self.env.reset(**options)
        return info["state"], info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, info = self.env.step(action)
        return info["state"], reward, terminated, truncated, info


class DoomDomain:
    """See `domain.Domain`. Half of the actions in the videos are random, half those of a player that
    knows the state, as in the grid world; a state's label is what of it can be seen.

    Shapes lie on everything, as little of these pictures is dark. Returns of Basic are in units of 100.
    """

    shape: tuple[int, ...] = (3, IMAGE_SIZE, IMAGE_SIZE)
    action_space = gym.spaces.Discrete(3)
    state_chance = 0.0
    records: tuple[str, ...] = ("action", "label")

    def __init__(self, scenario: str) -> None:
        self.scenario = scenario

    def make(self) -> DoomPixels:
        return DoomPixels(self.scenario, image_size=IMAGE_SIZE, frame_stack=1)

    def make_noisy(self, noise: dict[str, Any] | None) -> gym.Env[Any, Any]:
        env = self.make()
        return env if noise is None else Noise(env, **noise)

    def record(self, noise: dict[str, Any] | None, settings: Settings, seed: int) -> EpisodeDataset:
        rng = np.random.default_rng([seed, 2])
        with closing(self.make_noisy(noise)) as env:
            doom: Any = env.unwrapped

            def act(_: np.ndarray) -> int:
                if rng.random() >= OPTIMAL:
                    return int(rng.integers(3))
                return aim(self.scenario, dict(zip(doom.state_names, doom.state, strict=True)))

            return record(env, act, settings.frames, max_gap=settings.horizon, seed=seed)

    def samples(self, noise: dict[str, Any] | None, per_state: int, seed: int, held_out: bool) -> Samples:
        frames, state = _observations(self.scenario, OBSERVATIONS, int(held_out))
        repeats = -(-per_state // 5)  # 5 labels a state, the usual number, are each observation once
        frames, state = np.tile(frames, (repeats, 1, 1, 1)), np.tile(state, (repeats, 1))
        latent = None
        if noise is not None:
            process = NoiseProcess(len(frames), self.shape, seed=seed, **noise)
            frames, latent = process.draw(frames), noise_picture(process)
        return Samples(torch.from_numpy(frames), torch.from_numpy(state), latent)

    def environment(self, noise: dict[str, Any] | None, oracle: bool, seed: int) -> DummyVecEnv:
        def make() -> gym.Env[Any, Any]:
            scale = REWARD_SCALE[self.scenario]
            if oracle:
                clean = self.make()
                env: gym.Env[Any, Any] = Latent(clean, len(clean.state_names))
            else:
                env = self.make_noisy(noise)
            return gym.wrappers.TransformReward(env, lambda reward: float(reward) / scale)

        venv = DummyVecEnv([make] * NUM_ENVS)
        venv.seed(seed)
        return venv

    def coverage(self, noise: dict[str, Any]) -> float:
        frames = np.zeros((256, *self.shape), np.uint8)
        drawn = NoiseProcess(256, self.shape, seed=0, **noise).draw(frames)
        return float(drawn.any(1).mean())


@lru_cache
def _observations(scenario: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3, 56, 56) uint8 frames without noise, a few steps apart, and the (N, T) float32 states in them."""
    with closing(DoomPixels(scenario, image_size=IMAGE_SIZE, frame_stack=1)) as env:
        data = record(env, None, APART * count, seed=seed)
        seen = [i for i, name in enumerate(env.state_names) if name not in UNSEEN]
    assert data.state is not None
    return data.frames[::APART], data.state[::APART][:, seen].astype(np.float32)
