"""Soft actor-critic (arXiv 1801.01290, 1812.05905) from pixels, regularised as in DrQ (arXiv 2004.13649)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor, nn

from rlrep import Objective, PixelEncoder
from rlrep.agents.base import Agent, Metrics, Space
from rlrep.agents.networks import Critic, critic_metrics
from rlrep.arguments import checked_numbers
from rlrep.bounds import Rate
from rlrep.encoders import mlp, orthogonal_init, projection
from rlrep.momentum import ema_, momentum_copy
from rlrep.optimizers import adam

LOG_STDDEV_RANGE = (-10.0, 2.0)


class Actor(nn.Module):
    """Squashed Gaussian policy: features (B, repr_dim) to an action (B, A) in (-1, 1) and its log-density (B, 1)."""

    def __init__(self, repr_dim: int, action_dim: int, feature_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.trunk = projection(repr_dim, feature_dim)
        self.policy = mlp(feature_dim, [hidden_dim, hidden_dim], 2 * action_dim)
        self.apply(orthogonal_init)

    def parameters_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before squashing, (B, A) each."""
        mean, log_stddev = self.policy(self.trunk(features)).chunk(2, dim=1)
        low, high = LOG_STDDEV_RANGE
        return mean, low + (high - low) * (torch.tanh(log_stddev) + 1) / 2

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_stddev = self.parameters_of(features)
        return squash(mean, log_stddev)

    def sample(self, features: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """`count` actions for each row, (count, B, A), and their log-densities (count, B, 1)."""
        mean, log_stddev = self.parameters_of(features)
        return squash(mean.expand(count, -1, -1), log_stddev)


def squash(mean: Tensor, log_stddev: Tensor) -> tuple[Tensor, Tensor]:
    """tanh of samples from the Gaussian, and their log-densities, summed over the last axis."""
    noise = torch.randn_like(mean)
    raw = mean + log_stddev.exp() * noise
    gaussian = -0.5 * noise.square() - log_stddev - 0.5 * math.log(2 * math.pi)
    # log(1 - tanh(x)²), in a form that does not overflow
    squashing = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
    return torch.tanh(raw), (gaussian - squashing).sum(-1, keepdim=True)


class SAC(Agent):
    """SAC from pixels, with any objectives on its encoder.

    One update, with f = encoder(shifted pixels):

    - critic and encoder: (Q_k(f, a) - y)² for k = 1, 2,
      with y = r + γ (min_k Q̄_k(f', a') - α log π(a'|f')), a' ~ π(f'); with `n_step` above 1, y = Σ γⁱ r + γⁿ (…);
    - actor: α log π(a|f) - min_k Q_k(f, a), a ~ π(f), f detached;
    - temperature: α (-log π(a|f) - H̄), H̄ = -A;
    - target: Q̄ ← (1 - τ) Q̄ + τ Q;
    - objectives: the sum of their losses, with a separate Adam (with `joint`, added to the critic's loss).

    Args:
        encoder: the shared encoder.
        action_space: ``Box`` of one axis with values in [-1, 1].
        objectives: representation losses built around `encoder`.
        feature_dim: size of the trunks' output.
        hidden_dim: width of the actor's and critic's hidden layers.
        critic_target_tau: τ.
        init_temperature: α at the start.
        n_step: n ≥ 1.
        options: of `Agent`.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Space,
        objectives: Sequence[Objective] = (),
        *,
        feature_dim: int = 50,
        hidden_dim: int = 1024,
        critic_target_tau: Rate = 0.01,
        init_temperature: float = 0.1,
        n_step: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(encoder, action_space, objectives, n_step=n_step, **options)
        self.critic_target_tau = critic_target_tau
        self.target_entropy = -float(self.action_dim)

        device = self.device
        self.actor = Actor(encoder.repr_dim, self.action_dim, feature_dim, hidden_dim).to(device)
        self.critic = Critic(encoder.repr_dim, self.action_dim, feature_dim, hidden_dim).to(device)
        self.critic_target = momentum_copy(self.critic)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(init_temperature), device=device))

        self.optimizers["critic"] = adam(self.trained_with_encoder(self.critic), self.lr)
        self.optimizers["actor"] = adam(self.actor.parameters(), self.lr)
        self.optimizers["temperature"] = adam([self.log_temperature], self.lr)

    def select_action(self, features: Tensor, step: int, eval_mode: bool) -> Tensor:
        if eval_mode:
            return torch.tanh(self.actor.parameters_of(features)[0])
        return self.actor(features)[0]

    def learn(self, batch: TensorDict, step: int) -> Metrics:
        features = self.view(batch["observation"])
        with torch.no_grad():
            next_features = self.view(batch["next", "observation"])
        metrics = self.update_critic(batch, features, next_features)
        metrics |= self.update_actor_and_temperature(features.detach())
        ema_(self.critic_target, self.critic, self.critic_target_tau)
        return metrics

    def update_critic(self, batch: TensorDict, features: Tensor, next_features: Tensor) -> Metrics:
        """One step of critic and encoder."""
        with torch.no_grad():
            next_action, log_density = self.actor(next_features)
            target_q1, target_q2 = self.critic_target(next_features, next_action)
            value = torch.min(target_q1, target_q2) - self.log_temperature.exp() * log_density
            target_q = batch["next", "reward"] + batch["discount"] * value
        q1, q2 = self.critic(features, batch["action"])
        loss = F.mse_loss(q1, target_q) + F.mse_loss(q2, target_q)
        objective_metrics = self.step_encoder("critic", loss, batch, features, next_features)
        return objective_metrics | critic_metrics(loss, q1, q2, target_q, batch)

    def update_actor_and_temperature(self, features: Tensor) -> Metrics:
        """One step of the actor on detached features, and one of α."""
        action, log_density = self.actor(features)
        q1, q2 = self.critic(features, action)
        loss = (self.log_temperature.exp().detach() * log_density - torch.min(q1, q2)).mean()
        self.step("actor", loss)
        entropy = -log_density.detach().mean()
        self.step("temperature", self.log_temperature.exp() * (entropy - self.target_entropy))
        return {
            "actor_loss": loss.detach(),
            "entropy": entropy,
            "temperature": self.log_temperature.detach().exp(),
        }
