"""Networks that several agents share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlrep.encoders import mlp, orthogonal_init, projection


class Critic(nn.Module):
    """Two Q functions of (features, action) on one trunk (arXiv 2107.09645, section 3).

    Input: features (B, repr_dim), action (B, A) or its encoding. Output: Q₁ and Q₂, (B, 1) each.
    """

    def __init__(self, repr_dim: int, action_dim: int, feature_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.trunk = projection(repr_dim, feature_dim)
        self.q1 = mlp(feature_dim + action_dim, [hidden_dim, hidden_dim], 1)
        self.q2 = mlp(feature_dim + action_dim, [hidden_dim, hidden_dim], 1)
        self.apply(orthogonal_init)

    def forward(self, features: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.values(self.trunk(features), action)

    def values(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Q₁ and Q₂, (…, 1) each, of the trunk's output (…, feature_dim) and actions (…, A)."""
        state_action = torch.cat([state, action], dim=-1)
        return self.q1(state_action), self.q2(state_action)
