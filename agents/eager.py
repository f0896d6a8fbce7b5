"""The plain update, the reference for speed: the same agents in float32 without accelerations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlrep import PixelEncoder, RandomShift
from rlrep.encoders import ACTIVATIONS


class EagerEncoder(PixelEncoder):
    """A plain `PixelEncoder`: float32, channels first, one operation after the other."""

    def forward(self, observation: Tensor, as_map: bool = False) -> Tensor:
        x = observation / 255 - 0.5
        for convolution in self.convolutions:
            x = ACTIVATIONS[self.activation](convolution(x))
        features = x.flatten(1)
        return features if self.head is None else self.head(features)


class GridSampleShift(RandomShift):
    """`RandomShift` by bilinear interpolation on a shifted grid, as in the papers' code. Returns float32."""

    def forward(self, observation: Tensor) -> Tensor:
        if self.pad == 0:
            return observation.float()
        batch_size, _, height, width = observation.shape
        padded = F.pad(observation.float(), [self.pad] * 4, "replicate")
        offset = torch.randint(0, 2 * self.pad + 1, (batch_size, 2), device=observation.device)
        rows = torch.arange(height, device=observation.device) + offset[:, 1:]
        columns = torch.arange(width, device=observation.device) + offset[:, :1]
        # Pixel centres on grid_sample's scale: -1 and 1 are the padded image's outer edges.
        y = (2 * rows + 1) / (height + 2 * self.pad) - 1
        x = (2 * columns + 1) / (width + 2 * self.pad) - 1
        grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
        return F.grid_sample(padded, grid, padding_mode="zeros", align_corners=False)


def plain_adam(optimizer: torch.optim.Optimizer) -> torch.optim.Adam:
    """Adam, or AdamW, on the same parameters, one tensor at a time."""
    (group,) = optimizer.param_groups
    how: dict[str, Any] = dict(lr=group["lr"], weight_decay=group["weight_decay"], foreach=False, fused=False)
    return type(optimizer)(group["params"], **how)  # type: ignore[return-value]
