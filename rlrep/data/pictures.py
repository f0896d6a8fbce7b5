"""Pictures as arrays: which axis holds the channels, which frame of a stack is the newest, and their size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlrep.channels import LARGEST_STACK, are_last
from rlrep.data.reading import Unreadable

# How many changing pictures must continue the previous ones before they count as stacks.
PROOF = 3


@dataclass(frozen=True)
class Layout:
    """The layout of pictures in an array; None means that their shape decides, see `of`.

    Attributes:
        channels_last: True for (H, W, C), False for (C, H, W).
        frame_channels: channels of one frame, 1 for grey, 3 for RGB; a picture may have several frames.

    Raises:
        ValueError: for fewer than one channel.
    """

    channels_last: bool | None = None
    frame_channels: int | None = None

    def __post_init__(self) -> None:
        if self.frame_channels is not None and self.frame_channels < 1:
            raise ValueError(f"frame_channels must be at least 1, got {self.frame_channels}")

    def of(self, shape: Sequence[int]) -> Layout:
        """The complete layout of pictures of `shape`, (C, H, W) or (H, W, C).

        A picture has fewer channels than rows or columns: the first or last axis has the channels if it is the smallest
        of all three. Otherwise the channels are on the only axis that can have them: at most 16 frames of RGB or of
        `frame_channels`. One channel is grey; three, and all multiples of three, are RGB.

        Raises:
            Unreadable: for other numbers of channels, and if the axis stays unknown.
        """
        shape = tuple(shape)
        if len(shape) != 3 or 0 in shape:
            raise Unreadable(_expected(f"pictures of shape {shape}"))
        channels_last = are_last(shape, self.frame_channels or 3) if self.channels_last is None else self.channels_last
        if channels_last is None:
            raise Unreadable(
                _expected(f"shape {shape}, in which they may come first or last: set channels_last=True or False")
            )
        channels = shape[2 if channels_last else 0]
        frame_channels = self.frame_channels or (channels if channels in (1, 3) else 3)
        if channels % frame_channels or channels > frame_channels * LARGEST_STACK:
            if self.frame_channels:
                advice = f"which frame_channels={self.frame_channels} does not divide into 1 to {LARGEST_STACK} frames"
            else:
                advice = (
                    f"which could be {channels} grey frames stacked (frame_channels=1) or one frame of {channels} "
                    f"channels (frame_channels={channels}); of RGBA leave the alpha channel out"
                )
            order = "(height, width, channels)" if channels_last else "(channels, height, width)"
            raise Unreadable(_expected(f"{shape} as {order}: {channels} channels, {advice}"))
        return Layout(channels_last, frame_channels)

    def channels_first(self, pictures: np.ndarray) -> np.ndarray:
        """(T, H, W, C) or (T, C, H, W) pictures as (T, C, H, W), without a copy."""
        return np.moveaxis(pictures, 3, 1) if self.of(pictures.shape[1:]).channels_last else pictures


UNKNOWN = Layout()


def newest_frames(pictures: Any, layout: Layout = UNKNOWN) -> np.ndarray:
    """Pictures of any usual layout as (T, C, H, W); of stacked frames, the newest.

    Args:
        pictures: uint8, (T, H, W, C) or (T, C, H, W) with 1 or 3 channels, or with up to 16 frames stacked in the
            channels, oldest first, as DrQ-v2 stores them.
        layout: the known part of the layout; `Layout.of` decides the rest.

    Raises:
        Unreadable: for anything else, for a shape that can be read in two ways, and for stacks of grey frames without
            `frame_channels=1`.
    """
    if not isinstance(pictures, np.ndarray):
        raise Unreadable(_expected(f"a {type(pictures).__name__}"))
    if pictures.ndim != 4 or pictures.dtype != np.uint8:
        raise Unreadable(_expected(f"{pictures.dtype} of shape {pictures.shape}"))
    known = layout.of(pictures.shape[1:])
    assert known.frame_channels is not None
    frames = layout.channels_first(pictures)
    if layout.frame_channels is None and known.frame_channels > 1 and _are_stacked(frames, 1):
        raise Unreadable(
            f"its pictures look like {frames.shape[1]} grey frames stacked in the channels, each seen again one place "
            f"further on: with frame_channels=1 the newest one is taken, with frame_channels=3 they are read as RGB"
        )
    return frames[:, -known.frame_channels :]


def _expected(got: str) -> str:
    return (
        f"frames must be uint8 of shape (T, H, W, C) or (T, C, H, W) with 1 or 3 channels, or RGB frames stacked in "
        f"them, got {got}"
    )


def _are_stacked(pictures: np.ndarray, frame_channels: int) -> bool:
    """Whether (T, C, H, W) are stacks of frames of so many channels: most pictures then contain the previous picture
    without its oldest frame. Only changing pictures count, and the beginning of an episode may differ.
    """
    for grid in (4, 1):  # a few pixels already refute it for nearly all other pictures
        some = pictures[..., ::grid, ::grid]
        moved = (some[1:] != some[:-1]).any((1, 2, 3))
        follows = (some[1:, :-frame_channels] == some[:-1, frame_channels:]).all((1, 2, 3))
        if not follows.any() or follows[moved].sum() < moved.sum() / 2:
            return False
    return int(follows[moved].sum()) >= PROOF


def resize(frames: np.ndarray, image_size: int) -> np.ndarray:
    """Resizes (T, C, H, W) uint8 to (T, C, image_size, image_size), by bilinear interpolation with antialiasing. The
    aspect ratio may change: nothing is cut off or added.
    """
    if frames.shape[2:] == (image_size, image_size):
        return np.ascontiguousarray(frames)
    # Strides do not change: interpolation supports channels-last, and making a large picture contiguous takes ten
    # times as long as resizing it.
    small = torch.nn.functional.interpolate(
        torch.from_numpy(frames), (image_size, image_size), mode="bilinear", antialias=True
    )
    return small.contiguous().numpy()
