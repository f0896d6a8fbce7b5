"""Small environments for Stable-Baselines3's algorithms."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

SIZE = 20


class Counter(gym.Env[Any, Any]):
    """Pictures that show the episode and the step: a stack of RGB frames whose pixels are 10 · episode + step + 1.

    Episodes last `length` steps; odd ones end by a time limit, even ones at a real end.
    """

    def __init__(
        self, discrete: bool = False, length: int = 6, vectors: bool = False, size: int = SIZE, frames: int = 2
    ) -> None:
        pixels = spaces.Box(0, 255, (3 * frames, size, size), np.uint8)
        self.observation_space = pixels
        if vectors:
            self.observation_space = spaces.Dict(
                {"pixels": pixels, "speed": spaces.Box(-1, 1, (2,)), "gear": spaces.Discrete(3)}
            )
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-2, 2, (2,))
        self.length, self.vectors, self.size, self.frames = length, vectors, size, frames
        self.episode, self.count = -1, 0

    def frame(self, count: int) -> np.ndarray:
        return np.full((3, self.size, self.size), (10 * self.episode + count) % 250 + 1, np.uint8)

    def observe(self):
        counts = range(self.count - self.frames + 1, self.count + 1)
        pixels = np.concatenate([self.frame(max(count, 0)) for count in counts])
        if not self.vectors:
            return pixels
        return {"pixels": pixels, "speed": np.full(2, self.count / 100, np.float32), "gear": self.count % 3}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.count = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action):
        self.count += 1
        over, odd = self.count == self.length, self.episode % 2 == 1
        return self.observe(), float(self.count), over and not odd, over and odd, {}
