"""Motion and appearance: where a clip moves most and which way, where its colours vary most (arXiv 1904.03597)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import Several
from rlrep.encoders import PixelEncoder, mlp, orthogonal_init, projection
from rlrep.objectives.base import Objective, check_frame_channels
from rlrep.window import Window

DIRECTIONS = 8
BLUR = 5  # pixels: motion by more than this cannot be seen in a picture's gradient
RIDGE = 1e-6  # keeps the motion of a place without a gradient finite


class Statistics(NamedTuple):
    """Statistics of clips on a grid of cells, a row for each clip."""

    motion_place: Tensor
    """(B,) int64, the cell where the pictures change most."""
    motion_direction: Tensor
    """(B,) int64, where to: 0 is right, then clockwise in steps of 45°."""
    moves: Tensor
    """(B,) bool, whether anything changes at all; without it the two above mean nothing."""
    colour_place: Tensor
    """(B,) int64, the cell whose colours vary most over its pixels and over time."""
    colour: Tensor
    """(B, C) the mean colour there."""


class Motion(Objective):
    """Reads from features where a clip moves most and which way, where its colours vary most, and the colour there.

    A clip is T observations, one step apart, cut into G×G cells (section 3 of the paper). A head reads the projected
    features of its observations side by side:

    - ``loss_motion_place`` = cross-entropy of the cell with the largest mean |x_t+1 - x_t|;
    - ``loss_motion_direction`` = cross-entropy of the direction of the motion there, one of eight;
    - ``loss_colour_place`` = cross-entropy of the cell with the largest variance of colours;
    - ``loss_colour`` = mean squared error of the mean colour there, in 0..1.

    A clip in which nothing changes has no part in the first two. Needs no actions. Simplified for small pictures: one
    grid, while the paper has three ways to cut a picture; places are classes, and the paper regresses their numbers;
    motion is that of brightness by least squares (Lucas and Kanade), and the paper's the boundaries of an optical flow;
    the places with the least motion and colour are left out. It reads the newest frame of each observation.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        clip_length: T ≥ 2 observations.
        grid: G ≥ 2.
        feature_dim: size of an observation's projected features.
        hidden_dim: width of the head's hidden layer.
        frame_channels: channels of one frame (None: 3, or 1 if the observation's are not a multiple of 3).
        augment: the image augmentation, one for a whole clip; a random shift by 4 pixels if None.

    Raises:
        ValueError: for numbers out of range.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        clip_length: Several = 4,
        grid: Several = 4,
        feature_dim: int = 50,
        hidden_dim: int = 256,
        frame_channels: int | None = None,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.grid, self.frame_channels = grid, check_frame_channels(encoder, frame_channels)
        self.window = Window(observations=tuple(range(1, clip_length)))
        self.in_keys = ["observation", ("sequence", "observation")]
        self.out_keys = ["loss_motion_place", "loss_motion_direction", "loss_colour_place", "loss_colour"]
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        self.sizes = (grid**2, DIRECTIONS, grid**2, self.frame_channels)
        self.head = mlp(clip_length * feature_dim, [hidden_dim], sum(self.sizes))
        for part in (self.state_projection, self.head):
            part.apply(orthogonal_init)

    def losses(self, observation: Tensor, others: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """The losses of clips: the first observation (B, C, H, W) and the others (B, T - 1, C, H, W)."""
        clip = self.clip_view(torch.cat([observation[:, None], others], dim=1))
        told = statistics(clip[:, :, -self.frame_channels :] / 255, self.grid)
        states = self.state_projection(self.encoder(clip.flatten(0, 1))).unflatten(0, clip.shape[:2])
        motion_place, direction, colour_place, colour = self.head(states.flatten(1)).split(self.sizes, 1)
        moving = told.moves / told.moves.sum().clamp(min=1)
        return {
            "loss_motion_place": F.cross_entropy(motion_place, told.motion_place, reduction="none") @ moving,
            "loss_motion_direction": F.cross_entropy(direction, told.motion_direction, reduction="none") @ moving,
            "loss_colour_place": F.cross_entropy(colour_place, told.colour_place),
            "loss_colour": F.mse_loss(colour, told.colour),
        }


@torch.no_grad()
def statistics(clip: Tensor, grid: int) -> Statistics:
    """The statistics of clips (B, T, C, H, W) of single frames, in 0..1, on grid×grid cells, numbered row by row."""

    def cells(values: Tensor) -> Tensor:
        """Means over the cells: (B, …, H, W) to (B, …, grid²)."""
        return F.adaptive_avg_pool2d(values.flatten(1, -3), grid).unflatten(1, values.shape[1:-2]).flatten(-2)

    colour = cells(clip).mean(1)
    variance = (cells(clip.square()).mean(1) - colour.square()).sum(1)
    colour_place = variance.argmax(1)
    brightness = clip.mean(2)
    change = cells(brightness.diff(dim=1).abs()).mean(1)
    motion_place = change.argmax(1)
    smooth = F.avg_pool2d(brightness, BLUR, stride=1, padding=BLUR // 2, count_include_pad=False)
    later = smooth.diff(dim=1)
    down, right = torch.gradient((smooth[:, 1:] + smooth[:, :-1]) / 2, dim=(-2, -1))
    products = torch.stack([right * right, right * down, down * down, right * later, down * later], 2).mean(1)
    xx, xy, yy, xt, yt = cells(products).take_along_dim(motion_place[:, None, None], 2).squeeze(2).unbind(1)
    # The motion (u, v) with the least squared error of right·u + down·v + later = 0, up to a positive factor.
    u, v = xy * yt - (yy + RIDGE) * xt, xy * xt - (xx + RIDGE) * yt
    direction = (torch.atan2(v, u) * (DIRECTIONS / (2 * math.pi))).round().long() % DIRECTIONS
    there = colour.take_along_dim(colour_place[:, None, None], 2).squeeze(2)
    return Statistics(motion_place, direction, change.amax(1) > 0, colour_place, there)
