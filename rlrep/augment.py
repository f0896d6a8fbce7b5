"""Augmentation of pixel observations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rlrep.arguments import checked_numbers
from rlrep.bounds import Count


def shift(observation: Tensor, offset: Tensor, pad: int) -> Tensor:
    """Crop `[y : y + H, x : x + W]` of each image padded by `pad` with edge replication.

    Args:
        observation: (B, C, H, W), any type.
        offset: (B, 2) int64, (x, y) in 0..2·pad; (pad, pad) leaves the image as it is.

    Returns:
        (B, C, H, W) of the same type, on the CPU in channels-last memory.
    """
    if pad >= min(observation.shape[-2:]):
        raise ValueError(f"pad must be less than the image's side, got {pad} for shape {tuple(observation.shape)}")
    move = offset - pad
    if observation.device.type == "cpu" and observation.dtype == torch.uint8 and not torch.compiler.is_compiling():
        pixels = observation.contiguous(memory_format=torch.channels_last)  # fast for convolutions, and fast to copy
        return torch.from_numpy(_shift_by_slices(pixels.numpy(), move.tolist()))
    return _shift_by_index(observation, move)


def _shift_by_index(images: Tensor, move: Tensor) -> Tensor:
    """Each image moved by its (dx, dy): gathers every pixel at once, which is fast on a GPU."""
    batch_size, _, height, width = images.shape
    rows = (torch.arange(height, device=move.device) + move[:, 1:]).clamp_(0, height - 1)
    columns = (torch.arange(width, device=move.device) + move[:, :1]).clamp_(0, width - 1)
    batch = torch.arange(batch_size, device=move.device)
    return images.movedim(1, -1)[batch[:, None, None], rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def _shift_by_slices(images: np.ndarray, moves: list[list[int]]) -> np.ndarray:
    """Each image moved by its (dx, dy): copies what stays visible, then the edges, without a padded image."""
    height, width = images.shape[-2:]
    out = np.empty_like(images)
    for image, target, (dx, dy) in zip(images, out, moves, strict=True):
        top, bottom = max(0, -dy), min(height, height - dy)
        left, right = max(0, -dx), min(width, width - dx)
        target[:, top:bottom, left:right] = image[:, top + dy : bottom + dy, left + dx : right + dx]
        if left:
            target[:, top:bottom, :left] = target[:, top:bottom, left : left + 1]
        elif right < width:
            target[:, top:bottom, right:] = target[:, top:bottom, right - 1 : right]
        if top:
            target[:, :top] = target[:, top : top + 1]
        elif bottom < height:
            target[:, bottom:] = target[:, bottom - 1 : bottom]
    return out


class RandomShift(nn.Module):
    """DrQ's random shift: each image moves by up to `pad` pixels in x and y, edges replicated (arXiv 2107.09645).

    Input and output: (B, C, H, W), any type. Each call draws one shift per sample, the same for its stacked frames,
    from torch's global generator.

    Args:
        pad: pixels, at most; 0 leaves images as they are.
    """

    @checked_numbers
    def __init__(self, pad: Count = 4) -> None:
        super().__init__()
        self.pad = pad

    def forward(self, observation: Tensor) -> Tensor:
        """Shifted images (B, C, H, W)."""
        if self.pad == 0:
            return observation
        offset = torch.randint(0, 2 * self.pad + 1, (len(observation), 2), device=observation.device)
        return shift(observation, offset, self.pad)
