"""Barlow Twins over time (arXiv 2103.03230)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import NonNegative
from rlrep.encoders import FeatureLinear, PixelEncoder, orthogonal_init
from rlrep.objectives.base import Objective
from rlrep.window import Gap, Window

EPSILON = 1e-5


class BarlowTwins(Objective):
    """Pulls the cross-correlation of z_t and z_t+k, k in 1..K, to the identity; needs no actions and no negatives.

    With z = MLP(φ(x)), each dimension standardised over the batch, and C_ij = 1/B Σ_b z_t,bi z_t+k,bj (equations 1 and
    2 of the paper): ``loss_barlow`` = Σ_i (1 - C_ii)² + λ Σ_i≠j C_ij². Two observations of one episode replace the
    paper's two views of one picture; the MLP has one hidden layer with layer normalisation, where the paper's has two
    with batch normalisation; and the batch is a rank's own.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        horizon: K ≥ 1, the largest gap.
        feature_dim: size of z.
        hidden_dim: width of the MLP's hidden layer.
        off_diagonal_weight: λ ≥ 0.
        augment: the image augmentation; a random shift by 4 pixels if None.

    Raises:
        ValueError: for numbers out of range.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        horizon: int = 3,
        feature_dim: int = 128,
        hidden_dim: int = 256,
        off_diagonal_weight: NonNegative = 0.005,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon, self.off_diagonal_weight = horizon, off_diagonal_weight
        self.window = Window(observations=(Gap(horizon),))
        self.in_keys = ["observation", "future_observation"]
        self.out_keys = ["loss_barlow", "barlow_correlation"]
        self.projection = nn.Sequential(
            FeatureLinear(encoder.repr_dim, hidden_dim),
            nn.LayerNorm(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, feature_dim),
        )
        self.projection.apply(orthogonal_init)

    def losses(self, observation: Tensor, future_observation: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        early = self.projection(self.view(observation, offset=0))
        late = self.projection(self.view(future_observation))
        correlation = cross_correlation(early, late)
        diagonal = correlation.diagonal()
        off_diagonal = correlation.square().sum() - diagonal.square().sum()
        loss = (1 - diagonal).square().sum() + self.off_diagonal_weight * off_diagonal
        return {"loss_barlow": loss, "barlow_correlation": diagonal.detach().mean()}


def cross_correlation(first: Tensor, second: Tensor) -> Tensor:
    """(D, D) of two batches (B, D), each dimension standardised over the batch."""
    standardised = [(each - each.mean(0)) / (each.var(0, correction=0) + EPSILON).sqrt() for each in (first, second)]
    return standardised[0].T @ standardised[1] / len(first)
