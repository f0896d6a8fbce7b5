"""The kinds of distractors: their states, how these move, and how they are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rlrep.envs.arguments import at_least

Frames = npt.NDArray[np.uint8]
State = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

MOVE = (0.05, 0.1)  # share of the image's side per step and axis, in either direction (arXiv 2403.13765)
HUE_DRIFT = 0.05  # of the colour circle, at most
_VALUE_DRIFT = 0.1  # of a value's range, at most
_DARK = 48  # of 255: below it a pixel counts as background
_OUTLINES = ("disc", "square", "diamond", "ring")

# The largest changes at strength 1, in either direction.
_SHIFT = 0.25  # of the image's side
_ROLL = np.pi / 4
_ZOOM = 1.5
_HUE_TURN = np.pi
_BRIGHTNESS = 64.0  # of 255
_CONTRAST = 2.0


class Distractor(ABC):
    """A kind of distractor. Its constructor takes the frames' shape (C, H, W) and the kind's own options.

    Attributes:
        state_shape: (P, D) of one image's state: P parts of D values in [0, 1). Fresh values are uniform, and moves
            preserve that. Each part separately moves or is drawn anew.
        reads_background: whether `draw` needs to know which pixels are background.
    """

    state_shape: tuple[int, int]
    reads_background = False

    def move(self, state: State, rng: np.random.Generator) -> State:
        """States (N, P, D) one step later; by default, each value walks at random and is reflected at 0 and 1."""
        moved = state + _VALUE_DRIFT * (2 * rng.random(state.shape, np.float32) - 1)
        return 1 - np.abs(1 - np.abs(moved))

    @abstractmethod
    def draw(self, frames: Frames, state: State, background: Mask | None = None) -> Frames:
        """Frames (N, C, H, W) with the distractor; the input does not change.

        Args:
            frames: (N, C, H, W).
            state: (N, P, D).
            background: (N, H, W), the pixels that show neither the agent nor its task, if known.
        """


class Shapes(Distractor):
    """Coloured shapes.

    A shape's state is (x, y, hue). A move shifts it by 5 to 10 % of the image's side in either direction of both axes,
    and wraps it around the edges. It shifts the hue by up to 5 % of the colour circle.

    Args:
        frame_shape: (3, H, W).
        num_shapes: how many, at least 1.
        size: of a shape, as a share of the image's side, in (0, 1].
        background_only: whether shapes cover the background only, or everything. The background is what the environment
            reports, and dark pixels in environments that do not report it.
    """

    def __init__(
        self,
        frame_shape: tuple[int, ...],
        num_shapes: int = 4,
        size: float = 0.25,
        background_only: bool = False,
    ) -> None:
        num_shapes, size = at_least(1, num_shapes, "num_shapes"), _size(size)
        _check_coloured(frame_shape, "shapes")
        self.background_only = self.reads_background = background_only
        self.state_shape = num_shapes, 3
        height, width = frame_shape[1:]
        self.outlines = [_outline(i, round(size * min(height, width))) for i in range(num_shapes)]
        self._covered = [np.nonzero(outline) for outline in self.outlines]
        # Where a row and a column start among the pixels of a picture; those beyond its edges are on the other side.
        self._rows, self._columns = np.arange(2 * height) % height * width, np.arange(2 * width) % width

    def move(self, state: State, rng: np.random.Generator) -> State:
        low, high = MOVE
        far = low + (high - low) * rng.random((*state.shape[:2], 2), np.float32)
        side = np.where(rng.random(far.shape, np.float32) < 0.5, -1, 1).astype(np.float32)
        turn = HUE_DRIFT * (2 * rng.random((*state.shape[:2], 1), np.float32) - 1)
        return self._wrapped(state, side * far, turn)

    def _wrapped(self, state: State, shift: State, turn: State) -> State:
        """States after shifts (N, P, 2) and changes of the hue (N, P, 1)."""
        moved = (state + np.concatenate([shift, turn], 2)) % 1
        return np.where(moved < 1, moved, 0).astype(np.float32)  # float32 rounds the largest values to 1

    def draw(self, frames: Frames, state: State, background: Mask | None = None) -> Frames:
        (count, _, height, width), shapes = frames.shape, len(self.outlines)
        top = np.zeros(count * height * width, np.min_scalar_type(shapes))  # which shape a pixel shows, counted from 1
        first, numbers = np.arange(count)[:, None] * height * width, range(shapes)
        for i in reversed(numbers) if self.background_only else numbers:  # in the background, the first one is in front
            (x, y), (down, right) = (state[:, i, :2] * (width, height)).astype(int).T[..., None], self._covered[i]
            top[first + self._rows[y + down] + self._columns[x + right]] = i + 1
        covered = top.reshape(count, height, width) > 0
        if self.background_only:
            covered &= dark(frames) if background is None else background
        at = np.flatnonzero(covered)
        out = frames.copy(order="K")
        which = at // (height * width) * shapes + top[at] - 1
        out.transpose(0, 2, 3, 1)[covered] = colour(state[..., 2].ravel()).take(which, axis=0)
        return out


class Drift(Shapes):
    """Coloured shapes that only move to the right and down, and whose hue turns one way, as far as those of `Shapes`.

    So the noise looks different backwards in time, as traffic does; single pictures are those of `Shapes`.
    """

    def move(self, state: State, rng: np.random.Generator) -> State:
        low, high = MOVE
        far = low + (high - low) * rng.random((*state.shape[:2], 2), np.float32)
        return self._wrapped(state, far, HUE_DRIFT * rng.random((*state.shape[:2], 1), np.float32))


class Pixels(Distractor):
    """An offset on every value of the image, uniform in ±`size` · 255.

    Args:
        frame_shape: (C, H, W).
        size: in (0, 1].
    """

    def __init__(self, frame_shape: tuple[int, ...], size: float = 0.25) -> None:
        self.size = _size(size)
        self.state_shape = int(np.prod(frame_shape)), 1

    def draw(self, frames: Frames, state: State, background: Mask | None = None) -> Frames:
        offset = (2 * state.reshape(frames.shape) - 1) * (255 * self.size)
        return (frames + offset).clip(0, 255).astype(np.uint8)


class Camera(Distractor):
    """Shifts, turns and zooms the whole picture, like a moving camera.

    At strength 1, it shifts by up to a quarter of the picture's sides, turns by up to 45° and zooms by up to 1.5 times
    in or out. Pixels from outside the picture repeat its edge. Distracting Control Suite moves the camera in the
    simulation, which changes the perspective and shows new parts of the scene; this kind needs no simulator.

    Args:
        frame_shape: (C, H, W).
        strength: in [0, 1]; 0 leaves frames as they are.
    """

    def __init__(self, frame_shape: tuple[int, ...], strength: float = 0.5) -> None:
        self.strength = _share(strength, "strength")
        self.state_shape = 1, 4  # to the right, down, the turn, the zoom
        height, width = frame_shape[1:]
        self._centre = np.array([(width - 1) / 2, (height - 1) / 2])
        self._places = np.stack(np.meshgrid(np.arange(width), np.arange(height))) - self._centre[:, None, None]

    def draw(self, frames: Frames, state: State, background: Mask | None = None) -> Frames:
        change = self.strength * (2 * state[:, 0].astype(np.float64) - 1)
        return np.stack([self._seen(frame, each) for frame, each in zip(frames, change, strict=True)])

    def _seen(self, frame: Frames, change: npt.NDArray[np.float64]) -> Frames:
        """A frame (C, H, W) of the camera at `change` (4,), values in [-strength, strength]."""
        cos, sin = np.cos(change[2] * _ROLL), np.sin(change[2] * _ROLL)
        turned = np.tensordot([[cos, sin], [-sin, cos]], self._places, 1) / _ZOOM ** change[3]
        height, width = frame.shape[1:]
        shift = change[:2] * _SHIFT * (width, height)
        x, y = turned + (self._centre - shift)[:, None, None]
        x, y = x.clip(0, width - 1), y.clip(0, height - 1)
        left, top = x.astype(int), y.astype(int)
        right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
        across, down = x - left, y - top
        upper = frame[:, top, left] * (1 - across) + frame[:, top, right] * across
        lower = frame[:, below, left] * (1 - across) + frame[:, below, right] * across
        return np.rint(upper * (1 - down) + lower * down).astype(np.uint8)


class Color(Distractor):
    """Changes the light of the whole picture: its hue, and the brightness and the contrast of each channel.

    At strength 1, hues turn by up to half of the colour circle, brightness changes by up to 64 of 255, and contrast by
    up to a factor of 2. Distracting Control Suite gives each body its own colour; this kind changes all colours of the
    picture together, and needs no simulator.

    Args:
        frame_shape: (3, H, W).
        strength: in [0, 1]; 0 leaves frames as they are.
    """

    def __init__(self, frame_shape: tuple[int, ...], strength: float = 0.5) -> None:
        self.strength = _share(strength, "strength")
        _check_coloured(frame_shape, "color")
        self.state_shape = 1, 7  # hue; brightness of red, green and blue; contrast of each

    def draw(self, frames: Frames, state: State, background: Mask | None = None) -> Frames:
        change = self.strength * (2 * state[:, 0] - 1)
        turned = np.einsum("nij,njhw->nihw", _hue_turn(change[:, 0] * _HUE_TURN), frames - np.float32(128))
        contrast = _CONTRAST ** change[:, 4:, None, None]
        brightness = 128 + _BRIGHTNESS * change[:, 1:4, None, None]
        return np.rint(contrast * turned + brightness).clip(0, 255).astype(np.uint8)


class Clip(NamedTuple):
    """A video in a file, rows `first` to `end` of a `.npy` of frames; each process opens the file itself."""

    path: Path
    first: int
    end: int

    def frames(self) -> Frames:
        """(T, C, H, W), mapped into memory."""
        return np.load(self.path, mmap_mode="r")[self.first : self.end]


class Video(Distractor):
    """Videos as the background.

    If the environment reports its background, videos cover it: in dm_control's tasks the sky and the floor, as in
    Distracting Control Suite. With `background_only` they cover dark pixels. Otherwise they are mixed into the whole
    picture.

    A fresh draw takes any frame of any video. A moving video plays one frame per step, to its end and then backwards,
    as in Distracting Control Suite.

    Args:
        frame_shape: (C, H, W).
        videos: arrays (T, C, H, W) uint8 with frames of the same shape, such as `rlrep.data.open_video(...).videos()`,
            or clips.
        strength: the video's share of a covered pixel, in [0, 1]; 0 leaves frames as they are.
        background_only: whether videos cover dark pixels only, in environments that do not report their background.
    """

    reads_background = True

    def __init__(
        self,
        frame_shape: tuple[int, ...],
        videos: Sequence[Frames | Clip] = (),
        strength: float = 0.5,
        background_only: bool = False,
    ) -> None:
        self.strength, self.background_only = _share(strength, "strength"), background_only
        if not len(videos):
            raise ValueError("kind='video' needs videos: arrays of frames, like rlrep.data.open_video(FOLDER).videos()")
        self.videos = [each.frames() if isinstance(each, Clip) else each for each in videos]
        for i, video in enumerate(self.videos):
            if video.dtype != np.uint8 or video.shape[1:] != tuple(frame_shape) or not len(video):
                raise ValueError(
                    f"videos[{i}] is {video.dtype} of shape {video.shape}; expected uint8 frames (T, "
                    f"{', '.join(map(str, frame_shape))}), at least one"
                )
        self.state_shape = 1, 2  # which video; the position on the way to its end and back
        self._ways = 2 * np.array([len(video) for video in self.videos])

    def move(self, state: State, rng: np.random.Generator) -> State:
        ways = self._ways[self._which(state)]
        step = (state[:, 0, 1] * ways).astype(int)  # the middle of the next frame, so that errors do not add up
        moved = state.copy()
        moved[:, 0, 1] = ((step + 1) % ways + 0.5) / ways
        return moved

    def draw(self, frames: Frames, state: State, background: Mask | None = None) -> Frames:
        which = self._which(state)
        ways = self._ways[which]
        step = (state[:, 0, 1] * ways).astype(int)
        shown = np.minimum(step, ways - 1 - step)
        video = np.stack([self.videos[i][t] for i, t in zip(which, shown, strict=True)])
        mixed = np.rint(frames + np.float32(self.strength) * (video.astype(np.float32) - frames)).astype(np.uint8)
        if background is None and self.background_only:
            background = dark(frames)
        return mixed if background is None else np.where(background[:, None], mixed, frames)

    def _which(self, state: State) -> npt.NDArray[np.int64]:
        return (state[:, 0, 0] * len(self.videos)).astype(int)


KINDS: dict[str, Callable[..., Distractor]] = {
    "shapes": Shapes,
    "drift": Drift,
    "pixels": Pixels,
    "camera": Camera,
    "color": Color,
    "video": Video,
}


def _size(size: float) -> float:
    if not 0 < size <= 1:
        raise ValueError(f"size is {size}; expected a share in (0, 1]")
    return size


def _share(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; expected a share in [0, 1]")
    return value


def _check_coloured(frame_shape: tuple[int, ...], kind: str) -> None:
    if frame_shape[0] != 3:
        raise ValueError(f"kind={kind!r} is coloured and needs 3 channels a frame, got {frame_shape[0]}: use 'pixels'")


def dark(frames: Frames) -> Mask:
    """Which pixels of frames (N, C, H, W) are nearly black, (N, H, W)."""
    found: Mask = np.logical_and.reduce([channel < _DARK for channel in frames.swapaxes(0, 1)])
    return found


def _outline(number: int, side: int) -> Mask:
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


def colour(hue: State) -> Frames:
    """Bright colours (N, 3) uint8 for hues (N,) in [0, 1)."""
    ramp = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    return (ramp.clip(0, 1) * 155 + 100).astype(np.uint8)


def _hue_turn(angle: State) -> State:
    """Matrices (N, 3, 3) that turn colours around the greys by the angles (N,), by Rodrigues' formula."""
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / np.float32(np.sqrt(3))
    turn: State = cos * np.eye(3, dtype=np.float32) + (1 - cos) / 3 + sin * across
    return turn
