"""Curved contrast: similarities fall with the steps ahead, and are 0 to the past (arXiv 2211.07591)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import NonNegative
from rlrep.contrast import gather
from rlrep.encoders import PixelEncoder, mlp, orthogonal_init, projection
from rlrep.objectives.base import Objective
from rlrep.window import Gap, Window


class Curved(Objective):
    """Regresses how far ahead an observation is: needs no actions.

    With s = projection(φ(x)), two heads p (from where) and q (to where), and c(x, y) = cos(p(s(x)), q(s(y))), k in
    1..K:

    ``loss_curved`` = mean (c(x_t, x_t+k) - (1 - k/K))² + ω mean c(x_t+k, x_t)² + mean c(x_t, y)²,

    where ω is 1 in the paper, and y are the later observations of all other rows, also of other ranks, see
    `Objective.all_ranks`: observations from the past or from elsewhere get similarity 0. The heads differ, because the
    similarity has a direction. All sides carry a gradient: the targets are numbers, so nothing collapses.

    Simplified for small pictures: observations "from elsewhere" are the batch's, and a few of them are from the same
    episode.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        horizon: K ≥ 1, the largest gap; there the similarity is 0.
        past: ω ≥ 0. The term about the past is what tells time's direction: noise that looks the same backwards helps
            neither to predict it nor to keep it apart.
        feature_dim: size of s and of the heads' outputs.
        hidden_dim: width of the heads' hidden layer.
        augment: the image augmentation; a random shift by 4 pixels if None. Every observation has its own.

    Raises:
        ValueError: for numbers out of range.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        horizon: int = 8,
        past: NonNegative = 1.0,
        feature_dim: int = 50,
        hidden_dim: int = 256,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon, self.past = horizon, past
        self.window = Window(observations=(Gap(horizon),))
        self.in_keys, self.out_keys = ["observation", "future_observation", "gap"], ["loss_curved"]
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        self.leaving = mlp(feature_dim, [hidden_dim], feature_dim)
        self.arriving = mlp(feature_dim, [hidden_dim], feature_dim)
        for part in (self.state_projection, self.leaving, self.arriving):
            part.apply(orthogonal_init)

    def directed(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """p and q of length 1, (B, feature_dim) each, from features or a feature map."""
        state = self.state_projection(view)
        return F.normalize(self.leaving(state), dim=1), F.normalize(self.arriving(state), dim=1)

    def losses(  # type: ignore[override]
        self, observation: Tensor, future_observation: Tensor, gap: Tensor
    ) -> dict[str, Tensor]:
        leaving, before = self.directed(self.view(observation, offset=0))
        back, arriving = self.directed(self.view(future_observation))
        ahead = ((leaving * arriving).sum(1) - (1 - gap / self.horizon)).square().mean()
        behind = (back * before).sum(1).square().mean()
        everyone, first = gather(arriving, self.all_ranks)
        own = torch.arange(first, first + len(gap), device=gap.device)
        elsewhere = (leaving @ everyone.T).square().scatter(1, own[:, None], 0).sum(1) / max(len(everyone) - 1, 1)
        return {"loss_curved": ahead + self.past * behind + elsewhere.mean()}
