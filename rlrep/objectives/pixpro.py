"""PixPro: consistent features of each place in two views of one picture (arXiv 2011.10043)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift, shift
from rlrep.bounds import Momentum
from rlrep.encoders import PixelEncoder, orthogonal_init
from rlrep.objectives.base import Objective
from rlrep.window import Window

MOST_CELLS = 7  # of a side of the map
NEAR = 0.7  # in diagonals of a cell


class PixPro(Objective):
    """Makes the features of a place agree with those of the same place in a shifted view of the picture.

    With the map x = projection(map of φ's last convolution) of one view, its momentum copy x̄ of the other, and the
    propagation y_i = Σ_j max(cos(x_i, x_j), 0)² g(x_j) over the places of one view (equations 3 to 5 of the paper):

    ``loss_pixpro`` = -mean cos(y_i, x̄_j), half from either view, over all pairs of places whose centres are closer in
    the picture than 0.7 of a cell's diagonal.

    Needs no actions. Simplified for small pictures: the augmentation's shifts replace the paper's scaled views; the map
    is averaged to at most 7×7 cells, the paper's size; and the momentum is constant. The projection has the paper's
    batch normalisation, over the places of all rows: without it, features may collapse. With an encoder that has a head
    (`out_dim`), the convolutions alone are trained.

    Args:
        encoder: the shared encoder, a `PixelEncoder`.
        action_space: not used; every objective is built from the same two arguments.
        feature_dim: of each place.
        hidden_dim: width of the projection's hidden layer.
        momentum: m in [0, 1) of the copies: copy ← m copy + (1 - m) online, after each step.
        augment: its `pad` is the largest shift of a view, in pixels; a random shift by 4 if None.

    Raises:
        ValueError: for numbers out of range, and an encoder without maps.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        feature_dim: int = 64,
        hidden_dim: int = 256,
        momentum: Momentum = 0.99,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        if not hasattr(encoder, "feature_map"):
            raise ValueError(f"PixPro reads the maps of a PixelEncoder, which {type(encoder).__name__} has not")
        self.window = Window()
        self.in_keys, self.out_keys = ["observation"], ["loss_pixpro"]
        height, width = encoder.feature_size
        self.grid = min(height, MOST_CELLS), min(width, MOST_CELLS)
        stride = math.prod(encoder.strides)
        sides = [stride * side / cells for side, cells in zip(encoder.feature_size, self.grid, strict=True)]
        rows, columns = (torch.arange(cells) * side for cells, side in zip(self.grid, sides, strict=True))
        centres = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).flatten(0, 1)
        self.register_buffer("centres", centres, persistent=False)  # (places, 2), x and y in pixels
        self.centres: Tensor
        self.near = NEAR * math.hypot(*sides)
        self.projection = nn.Sequential(
            nn.Linear(encoder.channels, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, feature_dim),
        )
        self.transform = nn.Linear(feature_dim, feature_dim)
        for part in (self.projection, self.transform):
            part.apply(orthogonal_init)
        self.target_encoder = self.momentum_copy(encoder, momentum)
        self.target_projection = self.momentum_copy(self.projection, momentum)

    def places(self, view: Tensor, encoder: PixelEncoder, head: nn.Module) -> Tensor:
        """Features of each place of a view, (B, C, H, W) uint8 to (B, places, feature_dim) of length 1."""
        cells = F.adaptive_avg_pool2d(encoder.feature_map(view), self.grid)
        return F.normalize(head(cells.flatten(2).mT.flatten(0, 1)), dim=1).unflatten(0, (len(view), -1))

    def propagate(self, places: Tensor) -> Tensor:
        """y of places (B, places, feature_dim) of length 1."""
        return (places @ places.mT).clamp(min=0).square() @ self.transform(places)

    def losses(self, observation: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        pad = self.augment.pad
        moves = [torch.randint(0, 2 * pad + 1, (len(observation), 2), device=observation.device) for _ in range(2)]
        views = [shift(observation, move, pad) for move in moves]
        with torch.no_grad():
            targets = [self.places(view, self.target_encoder, self.target_projection) for view in views]
        seen = [self.propagate(self.places(view, self.encoder, self.projection)) for view in views]
        same = same_place(self.centres, moves[0] - moves[1], self.near).float()
        both = (agreement(seen[0], targets[1], same), agreement(seen[1], targets[0], same.mT))
        return {"loss_pixpro": -(both[0] + both[1]) / 2}


def same_place(centres: Tensor, moved: Tensor, near: float) -> Tensor:
    """Whether place i of a first view is place j of a second, (B, places, places).

    Args:
        centres: (places, 2) within a view, in pixels.
        moved: (B, 2) where the first view begins in the picture, minus where the second begins.
        near: two places are the same below this distance, in pixels.
    """
    away = centres[:, None] - centres + moved[:, None, None]
    return torch.linalg.vector_norm(away, dim=3) < near


def agreement(seen: Tensor, target: Tensor, same: Tensor) -> Tensor:
    """The mean cosine over pairs of places (B, places, D) that are the same by (B, places, places)."""
    cosines = F.normalize(seen, dim=2) @ target.mT
    return (cosines * same).sum() / same.sum().clamp(min=1)
