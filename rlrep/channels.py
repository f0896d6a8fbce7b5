"""Which axis of pictures holds the channels; without PyTorch, so that environments can tell too."""

from __future__ import annotations

LARGEST_STACK = 16


def are_last(shape: tuple[int, ...], frame_channels: int) -> bool | None:
    """Whether the channels of pictures are on the last axis, not on the first; None if the shape does not tell.

    They are on the first or last axis if it is the smallest of all three. Otherwise they are on the only axis that can
    have them: one channel, or up to 16 frames.

    Args:
        shape: (C, H, W) or (H, W, C).
        frame_channels: channels of one frame.
    """
    first, middle, last = shape
    if min(first, last) < min(middle, max(first, last)):
        return last < first
    first_can, last_can = (
        n == 1 or (n % frame_channels == 0 and n <= frame_channels * LARGEST_STACK) for n in (first, last)
    )
    return None if first_can == last_can else last_can
