"""Distractors on pixels: the same noise, either drawn anew at each step or moving on its own."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from rlrep.channels import are_last
from rlrep.envs.arguments import at_least
from rlrep.envs.distractors import KINDS, Frames


class NoiseProcess:
    """Noise that evolves on its own, for several images at once.

    At each step every part of it (a shape, a pixel's value, the camera, the light, the video) moves with probability
    `persistence`; otherwise, it is drawn anew from the uniform distribution, which moves preserve. So persistence 0
    is iid noise and 1 is exogenous noise. Single images look the same for all values; only the correlation in time
    differs: a memory of 1 / (1 - persistence) steps.

    Args:
        num_images: N.
        frame_shape: (C, H, W).
        kind: "shapes", "drift", "pixels", "camera", "color" or "video", see `rlrep.envs.distractors`.
        persistence: ρ in [0, 1].
        seed: of the noise.
        options: the kind's options: `num_shapes`, `size`, `strength`, `videos`, `background_only`.

    Raises:
        ValueError: for values out of range, and options of another kind.

    Attributes:
        state: (N, P, D) float32 in [0, 1), P parts of D values each.
        reads_background: whether `draw` needs to know which pixels are background.
    """

    def __init__(
        self,
        num_images: int,
        frame_shape: tuple[int, ...],
        kind: str = "shapes",
        persistence: float = 1.0,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; expected {' or '.join(map(repr, KINDS))}")
        if not 0 <= persistence <= 1:
            raise ValueError(f"persistence is {persistence}; expected a probability in [0, 1]")
        for name, value in options.items():
            _check_option(kind, name, value)
        self.num_images, self.frame_shape = num_images, tuple(frame_shape)
        self.persistence = persistence
        self.rng = np.random.default_rng(seed)
        self._distractor = KINDS[kind](self.frame_shape, **options)
        self.reads_background = self._distractor.reads_background
        self.state = self._fresh((num_images, *self._distractor.state_shape))

    def reset(self, which: npt.NDArray[np.bool_] | None = None) -> None:
        """Draws new noise for the images `which`, (N,) bool; for all if None."""
        which = np.ones(self.num_images, bool) if which is None else which
        self.state[which] = self._fresh(self.state[which].shape)

    def step(self) -> None:
        """One step in time."""
        moved = self._distractor.move(self.state, self.rng)
        stays = self.rng.random((*self.state.shape[:2], 1), np.float32) < self.persistence
        self.state = np.where(stays, moved, self._fresh(self.state.shape))

    def draw(self, frames: Frames, background: npt.NDArray[np.bool_] | None = None) -> Frames:
        """Frames (N, C, H, W) uint8 with the current noise; the input does not change.

        Args:
            frames: (N, C, H, W).
            background: (N, H, W), which pixels are only background; None if unknown or not read.
        """
        return self._distractor.draw(frames, self.state, background)

    def _fresh(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        return self.rng.random(shape, np.float32)


def options_of(kind: str) -> tuple[str, ...]:
    """The names of a kind's options, without `persistence`."""
    return tuple(inspect.signature(KINDS[kind]).parameters)[1:]


def _check_option(kind: str, name: str, value: Any) -> None:
    """Refuses an option that the kind does not have."""
    kinds = [each for each in KINDS if name in options_of(each)]
    if not kinds:
        known = sorted({name for each in KINDS for name in options_of(each)})
        raise ValueError(f"noise has no option {name!r}; expected {' or '.join(known)}")
    if kind not in kinds:
        whose = " or ".join(map(repr, kinds))
        raise ValueError(f"{name}={value} is for kind={whose}, and kind is {kind!r}: leave it out")


class Noise(gym.Wrapper[Frames, Any, Frames, Any]):
    """A pixel environment with a `NoiseProcess`, whose state is in ``info["noise"]``, (D,) float32.

    Observations are stacked frames (F·C, H, W) or (H, W, F·C) uint8, oldest first; each new frame gets the noise of its
    step. The noise does not affect the wrapped environment.

    Args:
        env: the environment. If it has a method `background_mask()`, (H, W) bool, videos are drawn where it is true, as
            are shapes with `background_only`.
        frame_channels: C.
        channels_last: whether observations are (H, W, F·C); None decides by their shape.
        options: of `NoiseProcess`: kind, persistence and those of the kind.

    Raises:
        ValueError: if the observations are not stacked frames, if their channel axis is ambiguous, or for options out
            of range.
    """

    def __init__(
        self, env: gym.Env[Frames, Any], frame_channels: int = 3, channels_last: bool | None = None, **options: Any
    ) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
            raise ValueError(f"noise needs pixels (channels, height, width) of uint8, this environment gives {space}")
        frame_channels = at_least(1, frame_channels, "frame_channels")
        if channels_last is None:
            channels_last = are_last(space.shape, frame_channels)
            if channels_last is None:
                raise ValueError(
                    f"observations of shape {space.shape} may be (channels, height, width) or (height, width, "
                    f"channels): set channels_last=True or False"
                )
        self._axis = 2 if channels_last else 0
        channels = space.shape[self._axis]
        if channels % frame_channels:
            raise ValueError(f"frame_channels is {frame_channels}, which does not divide {channels} channels")
        self._stack = channels // frame_channels
        sides = space.shape[:2] if channels_last else space.shape[1:]
        self._process = NoiseProcess(1, (frame_channels, *sides), **options)
        knows = self._process.reads_background and env.has_wrapper_attr("background_mask")
        self._background = env.get_wrapper_attr("background_mask") if knows else None
        self._drawn: list[Frames] = []  # the stack's frames, oldest first

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frames, dict[str, Any]]:
        """Start an episode with new noise; with a seed, everything that follows depends only on the seed."""
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._process.rng = np.random.default_rng([seed, 1])  # not the environment's own random numbers
        self._process.reset()
        self._drawn = [self._draw(observation)] * self._stack
        return np.concatenate(self._drawn, self._axis), self._told(info)

    def step(self, action: Any) -> tuple[Frames, Any, bool, bool, dict[str, Any]]:
        """A step of the environment and of the noise."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._process.step()
        self._drawn = [*self._drawn[1:], self._draw(observation)]
        return np.concatenate(self._drawn, self._axis), reward, terminated, truncated, self._told(info)

    def _draw(self, observation: Frames) -> Frames:
        """Draws the current noise on the newest frame of an observation."""
        newest = np.split(observation, self._stack, self._axis)[-1]
        background = None if self._background is None else self._background()[None]
        drawn = self._process.draw(np.moveaxis(newest, self._axis, 0)[None], background)[0]
        return np.ascontiguousarray(np.moveaxis(drawn, 0, self._axis))

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        return info | {"noise": self._process.state[0].ravel().copy()}
