"""The critic of several agents, and what they log of it."""

from __future__ import annotations

import torch
from tensordict import TensorDict
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


def critic_metrics(loss: Tensor, q1: Tensor, q2: Tensor, target_q: Tensor, batch: TensorDict) -> dict[str, Tensor]:
    """What agents log of a critic's step, each a scalar without a gradient."""
    return {
        "critic_loss": loss.detach(),
        "critic_q1": q1.detach().mean(),
        "critic_q2": q2.detach().mean(),
        "critic_target_q": target_q.mean(),
        "batch_reward": batch["next", "reward"].mean(),
    }
