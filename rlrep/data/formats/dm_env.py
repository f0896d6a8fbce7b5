"""Time steps in dm_env's form, as in V-D4RL and DrQ-v2: row i has the action and reward that led to observation i."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlrep.data.episode import one_each
from rlrep.data.reading import Unreadable, pick
from rlrep.data.transitions import Transitions


def led_here(rows: np.ndarray) -> np.ndarray:
    """Adds a first row of zeros, because no action led to an episode's first frame."""
    return np.concatenate([np.zeros_like(rows[:1]), rows])


def discounts(episode: Transitions) -> np.ndarray:
    """(T + 1,) float32, 0 at a real end."""
    values = np.ones(len(episode.frames), np.float32)
    values[-1] = not episode.terminated
    return values


def has_ended(file: Mapping[str, Any], frames: int) -> bool:
    """Whether an episode ended for good: its last `discount` is 0, its last `is_terminal` true."""
    told = []
    if "is_terminal" in file:
        told.append(_flags("is_terminal", np.asarray(file["is_terminal"]), frames))
    if "discount" in file or not told:
        told.append(~_flags("discount", np.asarray(pick(file, "discount", "is_terminal")), frames))
    for ended in told:
        if ended[:-1].any():
            raise Unreadable(f"an episode continues after its end at step {np.flatnonzero(ended)[0]}")
    if len({bool(ended[-1]) for ended in told}) > 1:
        raise Unreadable("its discount and is_terminal contradict each other on whether the episode ended")
    return bool(told[0][-1])


def check_marks(name: str, array: np.ndarray, expected: np.ndarray) -> None:
    """Refuses marks such as `is_first` at wrong places of an episode."""
    if array.shape not in (expected.shape, (*expected.shape, 1)) or array.dtype.kind not in "biuf":
        raise Unreadable(f"its {name} must be {expected.shape} marks, got {array.dtype} of shape {array.shape}")
    if not np.array_equal(array.reshape(-1), expected):
        raise Unreadable(f"its {name} is not that of one whole episode")


def _flags(name: str, array: np.ndarray, frames: int) -> np.ndarray:
    values = one_each(name, array, frames)[len(array) - frames + 1 :]  # those of the steps
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise Unreadable(f"its {name} must hold 0 and 1 alone, which tell whether an episode continues")
    return values.astype(bool)
