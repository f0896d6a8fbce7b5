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
IMAGE_SIZE, STACK = 56, 3
FRAME_SHAPE = (3, IMAGE_SIZE, IMAGE_SIZE)
REWARD_SCALE = {"basic": 100.0, "defend_the_center": 1.0}
# observations for each requested label, and the least steps to choose them from
LABELLED, STEPS = 200, 5_000


class Latent(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose observation is ``info["state"]``: the oracle sees it."""

    def __init__(self, env: gym.Env[Any, Any], size: int) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        _, info = self.env.reset(**options)
        return info["state"], info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, info = self.env.step(action)
        return info["state"], reward, terminated, truncated, info


class WithBackground(gym.ObservationWrapper[Any, Any, Any]):
    """A single frame and, as its fourth channel, where it shows only background (255)."""

    def __init__(self, env: DoomPixels) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(0, 255, (4, IMAGE_SIZE, IMAGE_SIZE), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.concatenate([observation, self.get_wrapper_attr("background_mask")()[None] * np.uint8(255)])


class DoomDomain:
    """See `domain.Domain`. Observations are stacks of three frames, shapes lie behind monsters, shots and weapon, and a
    state's label is what can be seen of it, see `DoomPixels`.

    Recorded actions are uniform: the actions of a player that knows more than the pictures show would reveal what they
    lack, and could be predicted from one picture alone. Returns of Basic are in units of 100.

    Args:
        scenario: see `DoomPixels`.
        layout: which recordings are labelled; no other recordings are like them.
    """

    shape: tuple[int, ...] = (STACK * 3, IMAGE_SIZE, IMAGE_SIZE)
    action_space = gym.spaces.Discrete(3)
    state_chance = 0.0
    records: tuple[str, ...] = ("action", "label")

    def __init__(self, scenario: str, layout: int = 0) -> None:
        self.scenario, self.layout = scenario, layout

    def make(self, frame_stack: int = STACK) -> DoomPixels:
        return DoomPixels(self.scenario, image_size=IMAGE_SIZE, frame_stack=frame_stack)

    def record(
        self, noise: dict[str, Any] | None, settings: Settings, seed: int, rewards: bool = False
    ) -> EpisodeDataset:
        env = self.make(frame_stack=1)
        with closing(env if noise is None else Noise(env, **noise)) as noisy:
            return record(noisy, None, settings.frames, frame_stack=STACK, max_gap=settings.horizon, seed=seed)

    def samples(self, noise: dict[str, Any] | None, per_state: int, seed: int, held_out: bool) -> Samples:
        count = LABELLED * per_state
        steps = max(STEPS, count)
        data = _recording(self.scenario, steps, 1_000_000 + 2 * self.layout + held_out)
        assert data.state is not None
        rows = np.arange(count) * (steps // count)
        starts = data.episodes[:, 0]
        start = starts[np.searchsorted(starts, rows, "right") - 1]
        process = None if noise is None else NoiseProcess(count, FRAME_SHAPE, seed=seed, **noise)
        observation = np.zeros((count, *self.shape), np.uint8)
        for age in reversed(range(STACK)):
            pictures = data.frames[np.maximum(rows - age, start)]
            frames = pictures[:, :3]
            if process is not None:
                process.step()
                frames = process.draw(frames, pictures[:, 3] > 0)
            newest = 3 * (STACK - age)
            observation[:, newest - 3 : newest] = frames
        latent = None if process is None else noise_picture(process)
        return Samples(torch.from_numpy(observation), torch.from_numpy(data.state[rows]), latent)

    def environment(self, noise: dict[str, Any] | None, oracle: bool, seed: int) -> DummyVecEnv:
        def make() -> gym.Env[Any, Any]:
            scale, clean = REWARD_SCALE[self.scenario], self.make()
            env: gym.Env[Any, Any] = clean
            if oracle:
                env = Latent(clean, len(clean.state_names))
            elif noise is not None:
                env = Noise(clean, **noise)
            return gym.wrappers.TransformReward(env, lambda reward: float(reward) / scale)

        venv = DummyVecEnv([make] * NUM_ENVS)
        venv.seed(seed)
        return venv

    def coverage(self, noise: dict[str, Any]) -> float:
        clean, noisy = (self.samples(options, 1, 0, held_out=False).observation for options in (None, noise))
        return float((clean != noisy)[:, -3:].any(1).float().mean())


@lru_cache(maxsize=2)
def _recording(scenario: str, steps: int, seed: int) -> EpisodeDataset:
    """This many steps without noise; frames (N, 4, 56, 56) uint8 have their background as the fourth channel."""
    with closing(DoomPixels(scenario, image_size=IMAGE_SIZE, frame_stack=1)) as env:
        return record(WithBackground(env), None, steps, frame_channels=4, channels_last=False, seed=seed)
