"""SupReMix: contrast in the order of returns, with mixtures as pairs (arXiv 2309.16633)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import Share
from rlrep.encoders import PixelEncoder, orthogonal_init, projection
from rlrep.objectives.base import Objective
from rlrep.window import Window


class SupReMix(Objective):
    """Orders features by the return to come, by contrast with mixtures of features.

    The label of an observation is the return of the next n rewards, y_t = Σ_i γ^i r_t+i, 0 after a real end. With
    z = projection(φ(x)) of length 1, and cosines c at temperature τ (sections 3.2 and 3.3 of the paper):

    - the positive of anchor i mixes one row with a smaller label and one with a larger label, both at random, so that
      the mixed label is the anchor's: p_i = λ z_a + (1 - λ) z_b with λ y_a + (1 - λ) y_b = y_i;
    - its negatives mix the anchor itself into each row with another label: q_ij = μ z_i + (1 - μ) z_j;
    - ``loss_supremix`` = -mean_i log( e^c(z_i, p_i)/τ / ( e^c(z_i, p_i)/τ + Σ_j w_ij e^c(z_i, q_ij)/τ ) ), where w_ij
      is |y_i - y_j| over its mean.

    Anchors whose label is the least or the largest of the batch have no positive and no part in the mean. It needs
    rewards, which video lacks. Rows of other ranks take no part. Simplified: labels are truncated returns, while the
    paper's are given; μ is a constant, the mean of the paper's random one; each anchor has one positive, of any two
    labels around its own, and no unmixed rows beside it. The authors' code differs further: there, mixtures carry no
    gradient, and the weight is |y_i - y_j| + 1.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        horizon: n ≥ 1 rewards.
        gamma: γ in 0..1.
        anchor_share: μ in 0..1.
        feature_dim: size of z.
        temperature: τ > 0.
        augment: the image augmentation; a random shift by 4 pixels if None.

    Raises:
        ValueError: for numbers out of range.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        horizon: int = 10,
        gamma: Share = 0.9,
        anchor_share: Share = 0.2,
        feature_dim: int = 50,
        temperature: float = 0.1,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon, self.temperature = horizon, temperature
        self.gamma, self.anchor_share = gamma, anchor_share
        self.window = Window(rewards=horizon)
        self.in_keys = ["observation", ("sequence", "reward"), ("sequence", "valid")]
        self.out_keys = ["loss_supremix", "supremix_anchors"]
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        self.state_projection.apply(orthogonal_init)

    def losses(self, observation: Tensor, reward: Tensor, valid: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        discount = self.gamma ** torch.arange(self.horizon, device=reward.device)
        label = (reward * valid).squeeze(2) @ discount
        state = F.normalize(self.state_projection(self.view(observation, offset=0)), dim=1)
        return self.contrast(state, label)

    def contrast(self, state: Tensor, label: Tensor) -> dict[str, Tensor]:
        """The loss of z (B, D) of length 1 and labels (B,)."""
        away = label - label[:, None]  # of row j from anchor i
        anchors = (away < 0).any(1) & (away > 0).any(1)
        smaller, larger = pick(away < 0), pick(away > 0)
        low, high = (-away.take_along_dim(smaller[:, None], 1), away.take_along_dim(larger[:, None], 1))
        share = high / (low + high).clamp(min=1e-12)
        positive = F.normalize(share * state[smaller] + (1 - share) * state[larger], dim=1)
        mixed = self.anchor_share * state[:, None] + (1 - self.anchor_share) * state
        negatives = F.cosine_similarity(state[:, None], mixed, dim=2) / self.temperature
        weight = away.abs() / away.abs().sum(1, keepdim=True).clamp(min=1e-12) * (away != 0).sum(1, keepdim=True)
        agreement = (state * positive).sum(1, keepdim=True) / self.temperature
        among = torch.cat([agreement, negatives + weight.log()], 1)
        each = torch.where(anchors, among.logsumexp(1) - agreement.squeeze(1), 0)
        return {
            "loss_supremix": each.sum() / anchors.sum().clamp(min=1),
            "supremix_anchors": anchors.float().mean(),
        }


def pick(allowed: Tensor) -> Tensor:
    """A random column for each row, (B,) int64, among those that are allowed (B, N) bool; any if none is."""
    return torch.where(allowed, torch.rand(allowed.shape, device=allowed.device), -1.0).argmax(1)
