"""Temporal contrastive learning from video (arXiv 2403.13765, ICLR 2024)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.contrast import temporal_contrastive
from rlrep.encoders import PixelEncoder, orthogonal_init, projection
from rlrep.objectives.base import Objective
from rlrep.window import Gap, Window


class TemporalContrastive(Objective):
    """Tells pairs (x_t, x_t+k) of one episode, k in 1..K, from the other pairs of a batch; needs no actions.

    With z = projection(φ(x)) and the 2B features v of a batch of pairs, v_j' being the other one of v_j's pair:

    ``loss_temporal`` = -1/2B Σ_j log( exp(v_j·v_j' / τ) / Σ_l≠j exp(v_j·v_l / τ) ).

    This is the practical form of the classifier of pairs in arXiv 2403.13765. Everything that stays visible for k steps
    identifies a pair, also exogenous noise. Negatives come from all ranks, see `Objective.all_ranks`.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        horizon: K ≥ 1, the largest gap in the data.
        feature_dim: size of z.
        temperature: τ > 0.
        normalize: compare directions of z (cosine similarity) rather than z as it is.
        augment: the image augmentation; a random shift by 4 pixels if None.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        horizon: int = 3,
        feature_dim: int = 50,
        temperature: float = 0.1,
        normalize: bool = True,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon = horizon
        self.window = Window(observations=(Gap(horizon),))
        self.temperature, self.normalize = temperature, normalize
        self.in_keys = ["observation", "future_observation"]
        self.out_keys = ["loss_temporal", "temporal_accuracy"]
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        self.state_projection.apply(orthogonal_init)

    def losses(self, observation: Tensor, future_observation: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        early = self.state_projection(self.view(observation, offset=0))
        late = self.state_projection(self.view(future_observation))
        loss, accuracy = temporal_contrastive(early, late, self.temperature, self.normalize, self.all_ranks)
        return {"loss_temporal": loss, "temporal_accuracy": accuracy}
