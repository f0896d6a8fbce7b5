"""One episode as a format reads it, and the frames that its actions and rewards belong to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from rlrep.data.reading import AT_ONCE, Unreadable
from rlrep.data.transitions import Transitions

__all__ = ["Episode", "Rows", "in_chunks"]

Rows = Literal["taken at", "led to"]


@dataclass
class Episode:
    """One episode, as a format's `read` yields it. Actions and rewards are arrays as in the file; `actions_taken` and
    `rewards` align them with the frames.

    Attributes:
        name: identifies the episode in messages.
        chunks: its T frames in order, (t, C, H, W) uint8 each; read them before the next episode.
        fps: frames per second, if the source has them.
        times: seconds at which the frames yielded so far are shown, if the source has them.
        action: (T, A), (T, 1) or (T,) numbers, or T - 1 rows; None if not wanted or missing.
        reward: (T,) or (T, 1) float32 or float64, or T - 1 rows; None unless wanted.
        rows: of T rows, whether row i was *taken at* frame i (the last row is unused) or *led to* it (the first row
            is unused). T - 1 rows lie between the frames. None if the file does not say: then T rows of actions must
            have led to their frames, with zeros in the first.
        terminated: whether the episode really ended; known if rewards are wanted.
        left_out: the parts of the file that are not in its episodes, with the reason; only in a file's first episode.
    """

    name: str
    chunks: Iterator[np.ndarray]
    fps: Fraction | None = None
    times: list[Fraction] | None = None
    action: np.ndarray | None = None
    reward: np.ndarray | None = None
    rows: Rows | None = None
    terminated: bool = False
    left_out: str = ""

    def actions_taken(self, frames: int) -> np.ndarray:
        """(T - 1, A) float32 or (T - 1,) int64: row i was taken at frame i, of T = `frames`.

        Raises:
            Unreadable: for other shapes or types, and if it is unknown which frames the rows belong to.
        """
        action = self.action
        assert action is not None
        if action.dtype.kind not in "iuf" or action.ndim not in (1, 2) or not frames - 1 <= len(action) <= frames:
            raise Unreadable(
                f"its actions must be numbers of shape (T, A) or (T,), one for each of {frames} frames or one fewer, "
                f"got {action.dtype} of shape {action.shape}"
            )
        if self.rows is None and len(action) == frames and np.any(action[0]):
            raise Unreadable(
                "it holds an action for each frame, which must then be the one that led to it, the first all zeros; "
                "for actions taken at their frames leave the last one out"
            )
        action = self._between(action, frames)
        if action.dtype.kind == "f":
            return _float32("actions", action[:, None] if action.ndim == 1 else action)
        return (action[:, 0] if action.shape[1:] == (1,) else action).astype(np.int64)

    def rewards(self, frames: int) -> np.ndarray:
        """(T - 1,) float32: row i is the reward of the action at frame i, for T = `frames`.

        Raises:
            Unreadable: for other shapes or types.
        """
        assert self.reward is not None
        return _float32("rewards", self._between(one_each("reward", self.reward, frames), frames))

    def transitions(self) -> Transitions:
        """The episode with all its frames in memory.

        Raises:
            Unreadable: for actions, rewards or frames that do not form an episode.
        """
        missing = [f"{name}s" for name in ("action", "reward") if getattr(self, name) is None]
        if missing:
            raise Unreadable(f"it holds no {' and no '.join(missing)}: open_video is for such files")
        parts = list(self.chunks)
        if not parts:
            raise Unreadable(f"{self.name} holds no frames")
        frames = np.ascontiguousarray(np.concatenate(parts))
        action, reward = self.actions_taken(len(frames)), self.rewards(len(frames))
        try:
            return Transitions(frames, action, reward, self.terminated, self.name)
        except ValueError as error:
            raise Unreadable(f"{self.name}: {error}") from error

    def _between(self, rows: np.ndarray, frames: int) -> np.ndarray:
        """The rows between consecutive frames."""
        if len(rows) < frames:
            return rows
        return rows[:-1] if self.rows == "taken at" else rows[1:]


def one_each(name: str, array: np.ndarray, frames: int) -> np.ndarray:
    """(n,) values, one for each frame or one fewer.

    Raises:
        Unreadable: for other shapes.
    """
    if array.ndim not in (1, 2) or array.shape[1:] not in ((), (1,)) or not frames - 1 <= len(array) <= frames:
        raise Unreadable(
            f"its {name} must have one value for each of {frames} frames or one fewer, got {array.dtype} of shape "
            f"{array.shape}"
        )
    return array.reshape(-1)


def in_chunks(frames: np.ndarray) -> Iterator[np.ndarray]:
    """Splits frames in memory into chunks for `Episode.chunks`."""
    for at in range(0, len(frames), AT_ONCE):
        yield frames[at : at + AT_ONCE]


def _float32(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype not in (np.float32, np.float64):  # half precision has lost digits
        raise Unreadable(f"its {name} must be float32 or float64, got {array.dtype}")
    with np.errstate(over="ignore"):  # becomes infinite, and a later check refuses it
        return array.astype(np.float32)
