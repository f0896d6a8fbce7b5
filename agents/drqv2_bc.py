"""DrQ-v2+BC, the offline DrQ-v2 of V-D4RL (arXiv 2206.04779)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from rlrep import PixelEncoder
from rlrep.agents.base import Metrics, Space
from rlrep.agents.drqv2 import DrQV2
from rlrep.arguments import checked_numbers


def bc_weighted(q: Tensor, action: Tensor, data_action: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """-λ mean Q + ‖π - a‖² with λ = α / mean |Q|, which carries no gradient (equations 3 and 5 of arXiv 2106.06860).

    Args:
        q: (B, 1) values of `action`.
        action: (B, A) of the policy.
        data_action: (B, A) of the data.
        alpha: α > 0; a larger value means less imitation.

    Returns:
        The loss, and its imitation part.
    """
    imitation = F.mse_loss(action, data_action)
    weight = alpha / q.detach().abs().mean().clamp_min(1e-6)
    return imitation - weight * q.mean(), imitation


class DrQV2BC(DrQV2):
    """DrQ-v2 whose actor also imitates the data: `DrQV2`, except for the actor's loss.

    - actor: -λ min_k Q_k(f, μ(f) + ε) + ‖μ(f) - a‖², λ = α / mean |min_k Q_k|, f detached. V-D4RL's code compares the
      noisy action with the data's instead.

    Args:
        encoder, action_space, objectives: see `DrQV2`.
        alpha: α > 0; a larger value means less imitation.
        options: of `DrQV2`.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Space,
        objectives: Any = (),
        *,
        alpha: float = 2.5,
        **options: Any,
    ) -> None:
        super().__init__(encoder, action_space, objectives, **options)
        self.alpha = alpha

    def actor_loss(self, batch: TensorDict, mean: Tensor, q1: Tensor, q2: Tensor) -> tuple[Tensor, Metrics]:
        loss, imitation = bc_weighted(torch.min(q1, q2), mean, batch["action"], self.alpha)
        return loss, {"bc_loss": imitation.detach()}
