"""Implicit Q-learning (arXiv 2110.06169) from pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor, nn

from rlrep import Objective, PixelEncoder
from rlrep.agents.base import Agent, Metrics, Space
from rlrep.agents.drqv2 import Actor as MeanActor
from rlrep.agents.networks import Critic, critic_metrics
from rlrep.arguments import checked_numbers
from rlrep.bounds import Between, NonNegative, Rate
from rlrep.encoders import mlp, orthogonal_init, projection
from rlrep.momentum import ema_, momentum_copy
from rlrep.optimizers import adam

LOG_STDDEV_RANGE = (-5.0, 2.0)
MAX_WEIGHT = 100.0


class Actor(MeanActor):
    """Gaussian policy: a mean in (-1, 1), (B, A), and one standard deviation for all states."""

    def __init__(self, repr_dim: int, action_dim: int, feature_dim: int, hidden_dim: int) -> None:
        super().__init__(repr_dim, action_dim, feature_dim, hidden_dim)
        self.log_stddev = nn.Parameter(torch.zeros(action_dim))

    @property
    def stddev(self) -> Tensor:
        return self.log_stddev.clamp(*LOG_STDDEV_RANGE).exp()

    def log_density(self, features: Tensor, action: Tensor) -> Tensor:
        """(B, 1), up to a constant."""
        error = (action - self(features)) / self.stddev
        return -(0.5 * error.square() + self.stddev.log()).sum(1, keepdim=True)


class Value(nn.Module):
    """V(features): (B, repr_dim) to (B, 1)."""

    def __init__(self, repr_dim: int, feature_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(projection(repr_dim, feature_dim), mlp(feature_dim, [hidden_dim, hidden_dim], 1))
        self.apply(orthogonal_init)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """Mean |τ - 1(u < 0)| u² (equation 4 of the paper), whose minimum is the expectile τ; 0.5 is half the mean square.

    Args:
        error: u, target minus prediction, any shape.
        expectile: τ in (0, 1).
    """
    weight = torch.where(error < 0, 1 - expectile, expectile)
    return (weight * error.square()).mean()


class IQL(Agent):
    """IQL, with any objectives on its encoder. The critic never evaluates an action that is not in the data.

    One update, f = encoder(shifted pixels), equations 5 to 7 of the paper:

    - value: expectile loss of min_k Q̄_k(f, a) - V(f), f detached;
    - critic and encoder: (Q_k(f, a) - y)² for k = 1, 2, with y = Σ γⁱ r + γⁿ V(f');
    - actor: -min(exp(β (min_k Q̄_k(f, a) - V(f))), 100) · log π(a|f), f detached;
    - target: Q̄ ← (1 - τ) Q̄ + τ Q;
    - objectives: the sum of their losses, with a separate Adam (with `joint`, added to the critic's loss).

    Args:
        encoder: the shared encoder.
        action_space: ``Box`` of one axis with values in [-1, 1].
        objectives: representation losses built around `encoder`.
        expectile: τ of the value, in (0, 1); 0.5 evaluates the data's policy, values near 1 its best actions.
        inverse_temperature: β ≥ 0; 0 is behaviour cloning.
        feature_dim: size of the trunks' output.
        hidden_dim: width of the hidden layers.
        critic_target_tau: τ of the target.
        options: of `Agent`.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Space,
        objectives: Sequence[Objective] = (),
        *,
        expectile: Between = 0.7,
        inverse_temperature: NonNegative = 3.0,
        feature_dim: int = 50,
        hidden_dim: int = 1024,
        critic_target_tau: Rate = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(encoder, action_space, objectives, **options)
        self.expectile, self.inverse_temperature = expectile, inverse_temperature
        self.critic_target_tau = critic_target_tau

        device = self.device
        self.actor = Actor(encoder.repr_dim, self.action_dim, feature_dim, hidden_dim).to(device)
        self.critic = Critic(encoder.repr_dim, self.action_dim, feature_dim, hidden_dim).to(device)
        self.critic_target = momentum_copy(self.critic)
        self.value = Value(encoder.repr_dim, feature_dim, hidden_dim).to(device)

        self.optimizers["critic"] = adam(self.trained_with_encoder(self.critic), self.lr)
        self.optimizers["value"] = adam(self.value.parameters(), self.lr)
        self.optimizers["actor"] = adam(self.actor.parameters(), self.lr)

    def select_action(self, features: Tensor, step: int, eval_mode: bool) -> Tensor:
        mean = self.actor(features)
        return mean if eval_mode else (mean + self.actor.stddev * torch.randn_like(mean)).clamp(-1, 1)

    def learn(self, batch: TensorDict, step: int) -> Metrics:
        features = self.view(batch["observation"])
        with torch.no_grad():
            next_features = self.view(batch["next", "observation"])
            data_q = torch.min(*self.critic_target(features, batch["action"]))
        metrics = self.update_value(data_q, features.detach())
        metrics |= self.update_actor(batch, data_q, features.detach())
        metrics |= self.update_critic(batch, features, next_features)
        ema_(self.critic_target, self.critic, self.critic_target_tau)
        return metrics

    def update_value(self, data_q: Tensor, features: Tensor) -> Metrics:
        """One step of the value on detached features; `data_q` (B, 1) is min_k Q̄_k of the data's actions."""
        value = self.value(features)
        loss = expectile_loss(data_q - value, self.expectile)
        self.step("value", loss)
        return {"value_loss": loss.detach(), "value": value.detach().mean()}

    def update_actor(self, batch: TensorDict, data_q: Tensor, features: Tensor) -> Metrics:
        """One step of the actor on detached features."""
        with torch.no_grad():
            advantage = data_q - self.value(features)
            weight = (self.inverse_temperature * advantage).exp().clamp(max=MAX_WEIGHT)
        loss = -(weight * self.actor.log_density(features, batch["action"])).mean()
        self.step("actor", loss)
        return {"actor_loss": loss.detach(), "advantage": advantage.mean(), "advantage_weight": weight.mean()}

    def update_critic(self, batch: TensorDict, features: Tensor, next_features: Tensor) -> Metrics:
        """One step of critic and encoder."""
        with torch.no_grad():
            target_q = batch["next", "reward"] + batch["discount"] * self.value(next_features)
        q1, q2 = self.critic(features, batch["action"])
        loss = F.mse_loss(q1, target_q) + F.mse_loss(q2, target_q)
        objective_metrics = self.step_encoder("critic", loss, batch, features, next_features)
        return objective_metrics | critic_metrics(loss, q1, q2, target_q, batch)
