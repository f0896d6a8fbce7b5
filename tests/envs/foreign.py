"""Environments of a foreign package, made for tests; local classes, so that spawned processes get them by value."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np

HEIGHT, WIDTH = 30, 40


def foreign(
    pixels: tuple[int, ...] | None = (HEIGHT, WIDTH, 3),
    action_space: gym.Space[Any] | None = None,
    render_modes: tuple[str, ...] = ("rgb_array",),
) -> type[gym.Env[Any, Any]]:
    """A class of environments whose picture has a bright bar, as long as the first number of the action, above noise.

    Args:
        pixels: shape of the observations; None for a vector.
        action_space: Box from (0, -2) to (4, 2) if None.
        render_modes: of the environments.
    """
    actions = gym.spaces.Box(np.float32([0, -2]), np.float32([4, 2])) if action_space is None else action_space

    class Foreign(gym.Env[Any, Any]):
        metadata: dict[str, Any] = {"render_modes": list(render_modes), "render_fps": 20}  # noqa: RUF012

        def __init__(self, render_mode: str | None = None, bonus: float = 0.0) -> None:
            self.render_mode, self.bonus = render_mode, bonus
            self.action_space = actions
            self.taken: list[Any] = []
            self.drawn = 0
            vector = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
            self.observation_space = vector if pixels is None else gym.spaces.Box(0, 255, pixels, np.uint8)

        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            if seed is not None:
                np.random.RandomState(seed)  # as old environments do, which refuse seeds of 64 bits
            self.taken, self.picture = [], self.draw(0.0)
            return self.observation, {"state": "not an array", "list": np.zeros(1)}

        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            assert self.action_space.contains(action), action
            self.taken.append(action)
            self.picture = self.draw(float(np.ravel(action)[0]))
            over = len(self.taken) == 9
            return self.observation, np.float32(1 + self.bonus), over, False, {"list": np.zeros(len(self.taken))}

        def draw(self, value: float) -> np.ndarray:
            picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            picture[:10, : round(10 * value)] = (200, 100, 50)
            picture[20:] = self.np_random.integers(256, size=(10, WIDTH, 3), dtype=np.uint8)
            return picture

        @property
        def observation(self) -> Any:
            if pixels is None:
                return np.zeros(2, np.float32)
            if len(pixels) == 2:
                return self.picture[..., 0].copy()
            picture = self.picture if 3 in pixels else self.picture[..., :1]
            return picture.transpose(2, 0, 1).copy() if pixels[0] in (1, 3) else picture.copy()

        def render(self) -> Any:
            assert self.render_mode == "rgb_array"
            self.drawn += 1
            return self.picture

    return Foreign


@contextmanager
def registered(name: str, entry_point: Any, **options: Any) -> Iterator[str]:
    gym.register(name, entry_point=entry_point, **options)
    try:
        yield name
    finally:
        del gym.registry[name]
