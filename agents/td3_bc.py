"""TD3+BC (arXiv 2106.06860) from pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from rlrep import PixelEncoder
from rlrep.agents.base import Metrics, Space
from rlrep.agents.drqv2 import add_noise
from rlrep.agents.drqv2_bc import DrQV2BC, bc_weighted
from rlrep.arguments import checked_numbers
from rlrep.bounds import NonNegative
from rlrep.momentum import ema_, momentum_copy


class TD3BC(DrQV2BC):
    """TD3 whose actor also imitates the data, on DrQ-v2's networks and augmented views.

    One update, f = encoder(shifted pixels):

    - critic and encoder: (Q_k(f, a) - y)² for k = 1, 2, with y = Σ γⁱ r + γⁿ min_k Q̄_k(f', a'),
      a' = μ̄(f') + ε, ε ~ N(0, policy_noise²) clipped to ±stddev_clip;
    - every `policy_delay` updates, the actor: -λ Q₁(f, μ(f)) + ‖μ(f) - a‖², λ = α / mean |Q₁|, f detached; and the
      targets: Q̄ ← (1 - τ) Q̄ + τ Q, μ̄ ← (1 - τ) μ̄ + τ μ;
    - objectives: the sum of their losses, with a separate Adam (with `joint`, added to the critic's loss).

    The paper standardises states; pixels are already on one scale. It has τ = 0.005, single steps and a step size of
    3e-4; the defaults here are DrQ-v2's.

    Args:
        encoder, action_space, objectives: see `DrQV2`.
        policy_noise, stddev_clip: noise of the smoothed target, and its bound.
        policy_delay: updates of the critic per update of the actor, ≥ 1.
        stddev_schedule: exploration noise if it acts online, see `parse_schedule`.
        options: of `DrQV2BC`, α among them.
    """

    same_every_update = False

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Space,
        objectives: Any = (),
        *,
        policy_noise: NonNegative = 0.2,
        stddev_clip: NonNegative = 0.5,
        policy_delay: int = 2,
        stddev_schedule: str | float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(
            encoder, action_space, objectives, stddev_clip=stddev_clip, stddev_schedule=stddev_schedule, **options
        )
        self.policy_noise, self.policy_delay = policy_noise, policy_delay
        self.actor_target = momentum_copy(self.actor)
        self.updates = 0
        self.actor_metrics: Metrics = {}

    def learn(self, batch: TensorDict, step: int) -> Metrics:
        features = self.view(batch["observation"])
        with torch.no_grad():
            next_features = self.view(batch["next", "observation"])
            next_action = add_noise(self.actor_target(next_features), self.policy_noise, self.stddev_clip)
        metrics = self.update_critic(batch, features, next_features, next_action)
        if self.updates % self.policy_delay == 0:
            self.actor_metrics = self.update_actor(batch, features.detach(), stddev=0.0)
            ema_(self.critic_target, self.critic, self.critic_target_tau)
            ema_(self.actor_target, self.actor, self.critic_target_tau)
        self.updates += 1
        return metrics | self.actor_metrics

    def actor_loss(self, batch: TensorDict, mean: Tensor, q1: Tensor, q2: Tensor) -> tuple[Tensor, Metrics]:
        loss, imitation = bc_weighted(q1, mean, batch["action"], self.alpha)
        return loss, {"bc_loss": imitation.detach()}

    def get_extra_state(self) -> dict[str, Any]:
        return super().get_extra_state() | {"updates": self.updates, "actor_metrics": self.actor_metrics}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        super().set_extra_state(state)
        self.updates, self.actor_metrics = state["updates"], state["actor_metrics"]
