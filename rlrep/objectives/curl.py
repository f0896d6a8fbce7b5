"""CURL: contrastive unsupervised representations for RL (arXiv 2004.04136), as TACO uses it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.contrast import info_nce
from rlrep.encoders import PixelEncoder, orthogonal_init, projection
from rlrep.objectives.base import Objective


class CURL(Objective):
    """InfoNCE between two augmented views of one observation; the other rows are negatives.

    With z = projection(encoder(view)), z' of the second view, and W a learned matrix:

    ``loss_curl`` = -1/B Σ_i log( exp(z_i W z'_i) / Σ_j exp(z_i W z'_j) ), equation 3 of arXiv 2004.04136.

    The second view carries no gradient and uses the same weights, as in TACO's code; the paper has a momentum copy.
    Negatives come from all ranks, see `Objective.all_ranks`.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        feature_dim: size of z.
        augment: the image augmentation; a random shift by 4 pixels if None.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        feature_dim: int = 50,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.in_keys = ["observation"]
        self.out_keys = ["loss_curl", "curl_accuracy"]
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        self.state_projection.apply(orthogonal_init)
        self.bilinear = nn.Parameter(torch.rand(feature_dim, feature_dim))

    def project(self, observation: Tensor, offset: int | None = None) -> Tensor:
        """An augmented view of (B, C, H, W) uint8 to z, (B, feature_dim); `offset` as in `encode`."""
        return self.state_projection(self.view(observation, offset))

    def losses(self, observation: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        state = self.project(observation, offset=0)
        with torch.no_grad():
            second_view = self.project(observation)
        loss, accuracy = info_nce(state @ self.bilinear, second_view, all_ranks=self.all_ranks)
        return {"loss_curl": loss, "curl_accuracy": accuracy}
