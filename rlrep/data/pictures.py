"""Pictures as arrays: which axis holds the channels, which frame of a stack is the newest, and their size."""

from __future__ import annotations

import numpy as np
import torch

CHANNELS = (1, 3)
LARGEST_STACK = 16


def newest_frames(pictures: np.ndarray) -> np.ndarray:
    """Pictures of any usual layout as (T, C, H, W), the newest frame of each where frames are stacked.

    Args:
        pictures: uint8, (T, H, W, C) or (T, C, H, W) with 1 or 3 channels, or with up to 16 RGB frames stacked in the
            channels, oldest first, as DrQ-v2 stores them.

    Raises:
        ValueError: for anything else.
    """
    if pictures.ndim == 4 and pictures.dtype == np.uint8:
        for axis in (3, 1):
            if pictures.shape[axis] in CHANNELS:
                return np.moveaxis(pictures, axis, 1)
        for axis in (1, 3):
            if pictures.shape[axis] % 3 == 0 and pictures.shape[axis] <= 3 * LARGEST_STACK:
                return np.moveaxis(pictures, axis, 1)[:, -3:]
    raise ValueError(
        f"frames must be uint8 of shape (T, H, W, C) or (T, C, H, W) with 1 or 3 channels, or RGB frames stacked in "
        f"them, got {pictures.dtype} of shape {pictures.shape}"
    )


def resize(frames: np.ndarray, image_size: int) -> np.ndarray:
    """(T, C, H, W) uint8 as (T, C, image_size, image_size), by bilinear interpolation with antialiasing. The aspect
    ratio is not kept: nothing is cut off and nothing added.
    """
    if frames.shape[2:] == (image_size, image_size):
        return np.ascontiguousarray(frames)
    # Strides are left as they are: interpolation knows channels that come last, and making a large picture contiguous
    # takes ten times as long as making it small.
    small = torch.nn.functional.interpolate(
        torch.from_numpy(frames), (image_size, image_size), mode="bilinear", antialias=True
    )
    return small.contiguous().numpy()
