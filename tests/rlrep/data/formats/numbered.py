"""Frames that hold their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlrep.data import EpisodeDataset

SMALL: dict[str, Any] = dict(image_size=8, frame_stack=1, max_gap=2)


def numbered(frames: int = 6, start: int = 0, channels: int = 3) -> np.ndarray:
    """Frames (T, C, 8, 8) uint8; every pixel of a frame holds its number."""
    values = np.arange(start, start + frames, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(values, (frames, channels, 8, 8)).copy()


def numbers(data: EpisodeDataset) -> list[int]:
    assert (data.frames == data.frames[:, :1, :1, :1]).all()
    return data.frames[data.index, 0, 0, 0].tolist()


def stacked(frames: np.ndarray, stack: int = 3) -> np.ndarray:
    """Stacks as DrQ-v2 stores them: (T, stack * C, 8, 8), oldest first."""
    rows = np.maximum(np.arange(len(frames))[:, None] - np.arange(stack)[::-1], 0)
    return frames[rows].reshape(len(frames), -1, 8, 8)
