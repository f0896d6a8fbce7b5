"""The time contrast of R3M (arXiv 2203.12601)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import Several
from rlrep.encoders import FeatureLinear, PixelEncoder, orthogonal_init
from rlrep.objectives.base import Objective
from rlrep.objectives.vip import value
from rlrep.window import Gap, Window


class R3M(Objective):
    """Makes features of observations near in time closer than those of distant ones and of other rows.

    With z = W φ(x), S(x, y) = -‖z(x) - z(y)‖, k in 1..K-1, and x' of another row (equation 1 of the paper):

    ``loss_r3m`` = mean -log( e^S(x_t, x_t+k) / (e^S(x_t, x_t+k) + e^S(x_t, x_t+K) + e^S(x_t, x'_t+k)) ).

    Needs no actions. Rows whose two later observations are one, as before a real end, are left out. Simplified for
    small pictures: this is only the time contrast of R3M's three losses, without language and the L1 penalty; the
    farther observation is always K steps away; and there is one negative x', of the previous row, which may have the
    same episode, and as far ahead as the positive, where the paper compares the anchors of two videos.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        horizon: K ≥ 2.
        feature_dim: size of z.
        augment: the image augmentation; a random shift by 4 pixels if None. Every observation has its own.

    Raises:
        ValueError: for numbers out of range.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        horizon: Several = 10,
        feature_dim: int = 50,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon = horizon
        self.window = Window(observations=(Gap(horizon - 1), horizon))
        self.in_keys = ["observation", ("sequence", "observation")]
        self.out_keys = ["loss_r3m", "r3m_accuracy"]
        self.state_projection = FeatureLinear(encoder.repr_dim, feature_dim, bias=False)
        self.state_projection.apply(orthogonal_init)

    def losses(self, observation: Tensor, others: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """The losses of observations (B, C, H, W), with a nearer and a farther one (B, 2, C, H, W)."""
        start = self.state_projection(self.view(observation, offset=0))
        near, far = (self.state_projection(self.view(each)) for each in others.unbind(1))
        logits = torch.stack([value(start, each) for each in (near, far, near.roll(1, 0))], dim=1)
        nearest = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        apart = (others[:, 0] != others[:, 1]).flatten(1).any(1).float()
        count = apart.sum().clamp(min=1)
        accuracy = ((logits.detach().argmax(1) == nearest) * apart).sum() / count
        return {
            "loss_r3m": (F.cross_entropy(logits, nearest, reduction="none") * apart).sum() / count,
            "r3m_accuracy": accuracy,
        }
