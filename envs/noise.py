"""Distractors on pixels: the same noise, drawn afresh at each step or moving on its own."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from rlrep.envs.arguments import at_least

Kind = Literal["shapes", "pixels"]
Frames = npt.NDArray[np.uint8]

MOVE = (0.05, 0.1)  # of the image's side, a step and axis, to either side (arXiv 2403.13765)
HUE_DRIFT = 0.05  # of the colour circle, at most
_VALUE_DRIFT = 0.1  # of a pixel's range, at most
DARK = 48  # of 255: below it a pixel counts as background
_OUTLINES = ("disc", "square", "diamond", "ring")


class NoiseProcess:
    """Noise that evolves by itself, for several images at once.

    - "shapes": `num_shapes` coloured shapes lie on the dark pixels. A shape's state is (x, y, hue), each in [0, 1) and
      uniform; it moves on by 5 to 10 % of the image's side in either direction of both axes, around the edges, and by
      up to 5 % of the colour circle.
    - "pixels": every value of the image gets an offset, uniform in ±`size` · 255.

    At each step every shape (or pixel) moves on with probability `persistence`, and is else drawn afresh from the
    uniform distribution, which the moves keep. So persistence 0 is iid noise, 1 is exogenous noise, and all between
    have the same single images; only the correlation in time differs: a memory of 1 / (1 - persistence) steps.

    Args:
        num_images: N.
        frame_shape: (C, H, W); shapes need C = 3.
        kind: "shapes" or "pixels".
        num_shapes: how many, at least 1.
        size: of a shape, as a share of the image's side, in (0, 1]; of a pixel's offset, as a share of 255.
        persistence: ρ in [0, 1].
        background_only: whether shapes cover dark pixels only, or everything.
        seed: of the noise.

    Raises:
        ValueError: for values out of range, and settings of shapes with another kind.
    """

    def __init__(
        self,
        num_images: int,
        frame_shape: tuple[int, ...],
        kind: Kind = "shapes",
        num_shapes: int = 4,
        size: float = 0.25,
        persistence: float = 1.0,
        background_only: bool = False,
        seed: int | None = None,
    ) -> None:
        if kind not in ("shapes", "pixels"):
            raise ValueError(f"kind is {kind!r}; expected 'shapes' or 'pixels'")
        num_shapes = at_least(1, num_shapes, "num_shapes")
        if not 0 < size <= 1:
            raise ValueError(f"size is {size}; expected a share in (0, 1]")
        if not 0 <= persistence <= 1:
            raise ValueError(f"persistence is {persistence}; expected a probability in [0, 1]")
        if kind == "pixels" and (num_shapes, background_only) != (4, False):
            raise ValueError(
                f"num_shapes={num_shapes} and background_only={background_only} are for kind='shapes', and kind is "
                f"'pixels': leave them out"
            )
        if kind == "shapes" and frame_shape[0] != 3:
            raise ValueError(
                f"shapes are coloured and need 3 channels a frame, got {frame_shape[0]}: use kind='pixels'"
            )
        self.num_images, self.frame_shape, self.kind = num_images, tuple(frame_shape), kind
        self.size, self.persistence, self.background_only = size, persistence, background_only
        self.rng = np.random.default_rng(seed)
        shape = (num_shapes, 3) if kind == "shapes" else self.frame_shape
        self.outlines = [_outline(i, round(size * min(frame_shape[1:]))) for i in range(num_shapes)]
        self.state = self._fresh((num_images, *shape))

    def reset(self, which: npt.NDArray[np.bool_] | None = None) -> None:
        """Draws the noise of the images `which`, (N,) bool, afresh; of all if None."""
        which = np.ones(self.num_images, bool) if which is None else which
        self.state[which] = self._fresh(self.state[which].shape)

    def step(self) -> None:
        """One step in time."""
        moved = self._move(self.state)
        each = (*self.state.shape[:2], 1) if self.kind == "shapes" else self.state.shape
        stays = self.rng.random(each, np.float32) < self.persistence
        self.state = np.where(stays, moved, self._fresh(self.state.shape))

    def draw(self, frames: Frames) -> Frames:
        """Frames (N, C, H, W) uint8 with the noise of now on them; the input is left alone."""
        if self.kind == "pixels":
            return (frames + (2 * self.state - 1) * (255 * self.size)).clip(0, 255).astype(np.uint8)
        out = frames.copy(order="K")
        pixels = out.transpose(0, 2, 3, 1)
        height, width = self.frame_shape[1:]
        image = np.arange(len(frames))[:, None, None]
        for i, outline in enumerate(self.outlines):
            side = np.arange(len(outline))
            x, y = (self.state[:, i, :2] * (width, height)).astype(int).T
            at = (image, ((y[:, None] + side) % height)[:, :, None], ((x[:, None] + side) % width)[:, None, :])
            patch = pixels[at]
            covered = np.broadcast_to(outline, patch.shape[:3])
            if self.background_only:
                red, green, blue = np.moveaxis(patch, 3, 0)
                covered = covered & (red < DARK) & (green < DARK) & (blue < DARK)
            chosen = np.nonzero(covered)
            patch[chosen] = colour(self.state[:, i, 2])[chosen[0]]
            pixels[at] = patch
        return out

    def _fresh(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        return self.rng.random(shape, np.float32)

    def _move(self, state: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self.kind == "pixels":
            moved = state + _VALUE_DRIFT * (2 * self._fresh(state.shape) - 1)
            return 1 - np.abs(1 - np.abs(moved))  # reflected at 0 and 1, which keeps it uniform
        low, high = MOVE
        far = low + (high - low) * self._fresh((*state.shape[:2], 2))
        side = np.where(self._fresh(far.shape) < 0.5, -1, 1).astype(np.float32)
        drift = HUE_DRIFT * (2 * self._fresh((*state.shape[:2], 1)) - 1)
        moved = (state + np.concatenate([side * far, drift], 2)) % 1
        return np.where(moved < 1, moved, 0).astype(np.float32)  # float32 rounds the largest values up to 1


class Noise(gym.Wrapper[Frames, Any, Frames, Any]):
    """A pixel environment behind a `NoiseProcess`, whose state is in ``info["noise"]``, (D,) float32.

    Observations are stacked frames (F·C, H, W) or (H, W, F·C) uint8, oldest first; each new frame gets the noise of its
    own time. The wrapped environment knows nothing of the noise.

    Args:
        env: the environment.
        frame_channels: C.
        channels_last: whether observations are (H, W, F·C); None decides by their shape.
        options: of `NoiseProcess`: kind, num_shapes, size, persistence, background_only.

    Raises:
        ValueError: if the observations are no stacked frames, if any axis could hold their channels, or for options out
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
            channels_last = _is_last(space.shape, frame_channels)
        self._axis = 2 if channels_last else 0
        channels = space.shape[self._axis]
        if channels % frame_channels:
            raise ValueError(f"frame_channels is {frame_channels}, which does not divide {channels} channels")
        self._stack = channels // frame_channels
        sides = space.shape[:2] if channels_last else space.shape[1:]
        self._process = NoiseProcess(1, (frame_channels, *sides), **options)
        self._drawn: list[Frames] = []  # the stack's frames, oldest first

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frames, dict[str, Any]]:
        """Start an episode, with new noise; with a seed, it and what follows depend on that alone."""
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._process.rng = np.random.default_rng([seed, 1])  # not the environment's own stream
        self._process.reset()
        self._drawn = [self._draw(observation)] * self._stack
        return np.concatenate(self._drawn, self._axis), self._told(info)

    def step(self, action: Any) -> tuple[Frames, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._process.step()
        self._drawn = [*self._drawn[1:], self._draw(observation)]
        return np.concatenate(self._drawn, self._axis), reward, terminated, truncated, self._told(info)

    def _draw(self, observation: Frames) -> Frames:
        """The newest frame of an observation with the noise of now on it."""
        newest = np.split(observation, self._stack, self._axis)[-1]
        drawn = self._process.draw(np.moveaxis(newest, self._axis, 0)[None])[0]
        return np.ascontiguousarray(np.moveaxis(drawn, 0, self._axis))

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        return info | {"noise": self._process.state[0].ravel().copy()}


def _is_last(shape: tuple[int, ...], frame_channels: int) -> bool:
    """Whether the last axis of pictures holds the channels, and not the first: the one that is the smallest of all
    three does; where that tells nothing, the only one that up to 16 frames fit into. `rlrep.data` decides likewise.
    """
    first, middle, last = shape
    if min(first, last) < min(middle, max(first, last)):
        return last < first
    first_can, last_can = (n % frame_channels == 0 and n <= 16 * frame_channels for n in (first, last))
    if first_can == last_can:
        raise ValueError(
            f"observations of shape {shape} may be (channels, height, width) or (height, width, channels): set "
            f"channels_last=True or False"
        )
    return last_can


def _outline(number: int, side: int) -> npt.NDArray[np.bool_]:
    """The pixels (side, side) of the shape with this number."""
    side = max(1, side)
    centre = (np.arange(side) + 0.5) * 2 / side - 1
    x, y = np.abs(np.meshgrid(centre, centre))
    radius = np.hypot(x, y)
    name = _OUTLINES[number % len(_OUTLINES)]
    if name == "square":
        return np.ones((side, side), bool)
    if name == "diamond":
        return x + y <= 1
    return (radius <= 1) if name == "disc" else (radius <= 1) & (radius >= 0.5)


def colour(hue: npt.NDArray[np.float32]) -> Frames:
    """Bright colours (N, 3) uint8 for hues (N,) in [0, 1)."""
    ramp = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    return (ramp.clip(0, 1) * 155 + 100).astype(np.uint8)
