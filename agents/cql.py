"""Conservative Q-learning (arXiv 2006.04779) on SAC, from pixels."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from rlrep import PixelEncoder
from rlrep.agents.base import Metrics, Space
from rlrep.agents.networks import critic_metrics
from rlrep.agents.sac import SAC
from rlrep.arguments import checked_numbers
from rlrep.bounds import NonNegative


class CQL(SAC):
    """CQL(H): SAC with a penalty that lowers the critic on actions that are not in the data.

    `SAC`, except for the critic's loss, equation 4 of the paper with its importance samples (appendix F):

    - critic and encoder: Σ_k (Q_k(f, a) - y)² + cql_weight · (log Σ_a' exp Q_k(f, a') - Q_k(f, a)),
      with y = Σ γⁱ r + γⁿ min_k Q̄_k(f', a'), a' ~ π(f'), without SAC's entropy in the target.

    The sum over actions is estimated from `num_samples` uniform ones, as many of π(f) and as many of π(f'), each
    weighted by its density.

    Args:
        encoder, action_space, objectives: see `SAC`.
        cql_weight: weight of the penalty, ≥ 0; 5 in the paper, 10 in V-D4RL's experiments from pixels.
        num_samples: actions of each kind, ≥ 1; the penalty evaluates three times as many per row of the batch.
        init_temperature: α at the start, > 0. The penalty makes Q very steep around the data's actions: with SAC's 0.1
            the policy saturates at once, and never follows the data.
        options: of `SAC`.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Space,
        objectives: Any = (),
        *,
        cql_weight: NonNegative = 1.0,
        num_samples: int = 10,
        init_temperature: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(encoder, action_space, objectives, init_temperature=init_temperature, **options)
        self.cql_weight, self.num_samples = cql_weight, num_samples

    def update_critic(self, batch: TensorDict, features: Tensor, next_features: Tensor) -> Metrics:
        """One step of critic and encoder, with the penalty."""
        with torch.no_grad():
            next_action, _ = self.actor(next_features)
            target_q = batch["next", "reward"] + batch["discount"] * torch.min(
                *self.critic_target(next_features, next_action)
            )
        state = self.critic.trunk(features)
        q1, q2 = self.critic.values(state, batch["action"])
        bellman = F.mse_loss(q1, target_q) + F.mse_loss(q2, target_q)
        action, log_density = self.sample_actions(features.detach(), next_features)
        values = self.critic.values(state.expand(len(action), -1, -1), action)
        penalty = conservative(values[0], log_density, q1) + conservative(values[1], log_density, q2)
        loss = bellman + self.cql_weight * penalty
        objective_metrics = self.step_encoder("critic", loss, batch, features, next_features)
        return objective_metrics | critic_metrics(bellman, q1, q2, target_q, batch) | {"cql_penalty": penalty.detach()}

    @torch.no_grad()
    def sample_actions(self, features: Tensor, next_features: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (N, B, A), N = 3·num_samples, uniform, of π(f) and of π(f'), with log-densities (N, B, 1)."""
        shape = (self.num_samples, len(features))
        uniform = torch.empty(*shape, self.action_dim, device=features.device).uniform_(-1, 1)
        densities = [torch.full((*shape, 1), -self.action_dim * math.log(2), device=features.device)]
        actions = [uniform]
        for where in (features, next_features):
            action, log_density = self.actor.sample(where, self.num_samples)
            actions.append(action)
            densities.append(log_density)
        return torch.cat(actions), torch.cat(densities)


def conservative(values: Tensor, log_density: Tensor, data_q: Tensor) -> Tensor:
    """log of the importance-sampled ∫ exp Q(f, a) da, minus Q(f, a) of the data's action; the mean over the batch.

    Args:
        values: (N, B, 1) Q of the sampled actions.
        log_density: (N, B, 1) of the actions under what they were drawn from.
        data_q: (B, 1) Q of the data's actions.
    """
    return (torch.logsumexp(values - log_density, 0) - math.log(len(values)) - data_q).mean()
