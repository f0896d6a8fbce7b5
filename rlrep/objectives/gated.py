"""Gated pairs: contrast over time in the subspace that the gap selects (Hydra, arXiv 2410.18200)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.contrast import gather, info_nce_of
from rlrep.encoders import PixelEncoder, orthogonal_init, projection
from rlrep.objectives.base import Objective
from rlrep.window import Gap, Window


class Gated(Objective):
    """Tells pairs (x_t, x_t+k) of one episode from others by the features that usually stay the same for k steps.

    With z = projection(φ(x)) and a learned gate g_k in (0, 1)^D for each k in 1..K:

    ``loss_gated`` = -1/B Σ_i log( exp(c_i(z_i, z'_i) / τ) / Σ_j exp(c_i(z_i, z'_j) / τ) ), with the cosine
    c_i(x, y) = cos(g_k(i) ∘ x, g_k(i) ∘ y) in the subspace of the anchor's gap; each observation is the anchor in half
    of the loss.

    Plain contrast demands that all features last K steps. Here, fast features may serve only short gaps. Needs no
    actions. Negatives come from all ranks, see `Objective.all_ranks`. Simplified for small pictures: each gap has one
    learned gate, while the paper's gates depend on the classes of the pair, and are drawn towards 0 and 1.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        horizon: K ≥ 1, the largest gap.
        feature_dim: D, size of z.
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
        horizon: int = 3,
        feature_dim: int = 50,
        temperature: float = 0.1,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon, self.temperature = horizon, temperature
        self.window = Window(observations=(Gap(horizon),))
        self.in_keys, self.out_keys = ["observation", "future_observation", "gap"], ["loss_gated", "gated_accuracy"]
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        self.state_projection.apply(orthogonal_init)
        self.gates = nn.Embedding(horizon + 1, feature_dim)

    def losses(  # type: ignore[override]
        self, observation: Tensor, future_observation: Tensor, gap: Tensor
    ) -> dict[str, Tensor]:
        gate = self.gates(gap).sigmoid()
        early = self.state_projection(self.view(observation, offset=0))
        late = self.state_projection(self.view(future_observation))
        both = [self.contrast(*pair, gate) for pair in ((early, late), (late, early))]
        loss, accuracy = (torch.stack(each).mean() for each in zip(*both, strict=True))
        return {"loss_gated": loss, "gated_accuracy": accuracy}

    def contrast(self, anchor: Tensor, other: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """InfoNCE of (B, D) and (B, D) in the subspaces of each anchor's gate (B, D), and the accuracy."""
        others, first = gather(other, self.all_ranks)
        return info_nce_of(gated_cosine(anchor, others, gate) / self.temperature, first)


def gated_cosine(query: Tensor, key: Tensor, gate: Tensor) -> Tensor:
    """cos(g_i ∘ q_i, g_i ∘ k_j) of queries (B, D), keys (N, D) and each query's gate (B, D); (B, N)."""
    weight = gate.square()
    query_length = (weight * query.square()).sum(1, keepdim=True).clamp(min=1e-12).sqrt()
    key_length = (weight @ key.square().T).clamp(min=1e-12).sqrt()
    return (weight * query) @ key.T / (query_length * key_length)
