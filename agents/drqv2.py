"""DrQ-v2 (arXiv 2107.09645), and TACO on top of it (arXiv 2306.13229)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor, nn

from rlrep import TACO, ActionEncoder, Objective, PixelEncoder
from rlrep.agents.base import Agent, Metrics, Space
from rlrep.agents.networks import Critic, critic_metrics
from rlrep.agents.schedule import parse_schedule
from rlrep.arguments import checked_numbers
from rlrep.bounds import NonNegative, Rate
from rlrep.encoders import mlp, orthogonal_init, projection
from rlrep.momentum import ema_, momentum_copy
from rlrep.optimizers import adam

ACTION_MARGIN = 1e-6


class Actor(nn.Module):
    """Deterministic policy μ(features): (B, repr_dim) to (B, A) in (-1, 1)."""

    def __init__(self, repr_dim: int, action_dim: int, feature_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.trunk = projection(repr_dim, feature_dim)
        self.policy = mlp(feature_dim, [hidden_dim, hidden_dim], action_dim)
        self.apply(orthogonal_init)

    def pre_activation(self, features: Tensor) -> Tensor:
        return self.policy(self.trunk(features))

    def forward(self, features: Tensor) -> Tensor:
        return torch.tanh(self.pre_activation(features))


def add_noise(mean: Tensor, stddev: float, clip: float | None) -> Tensor:
    """μ + ε, ε ~ N(0, stddev²) clipped to ±clip; the sum is clipped to (-1, 1), with the gradient of the unclipped
    sum."""
    noise = torch.randn_like(mean) * stddev
    action = mean + (noise if clip is None else noise.clamp(-clip, clip))
    return action + (action.clamp(-1 + ACTION_MARGIN, 1 - ACTION_MARGIN) - action).detach()


class DrQV2(Agent):
    """DrQ-v2, with any objectives on its encoder.

    One update, equations (1) to (3) of the paper; for TACO, the latent action u(a) replaces a in the critic:

    - critic and encoder: (Q_k(f, a) - y)² for k = 1, 2, with y = Σ γⁱ r + γⁿ min_k Q̄_k(f', a'), a' = μ(f') + ε;
    - actor: -min_k Q_k(f, μ(f) + ε), f detached;
    - target: Q̄ ← (1 - τ) Q̄ + τ Q;
    - objectives: the sum of their losses, with a separate Adam (with `joint`, added to the critic's loss).

    Args:
        encoder: the shared encoder.
        action_space: ``Box`` of one axis with values in [-1, 1].
        objectives: representation losses built around `encoder`.
        latent_actions: the critic reads actions through the action encoder of the objective TACO.
        feature_dim: size of the trunks' output.
        hidden_dim: width of the actor's and critic's hidden layers.
        critic_target_tau: τ.
        stddev_schedule: exploration noise, see `parse_schedule`.
        stddev_clip: bound of the noise in updates.
        pre_activation_weight: λ of a penalty λ x² on the actor's output x before its tanh, as in MR.Q (arXiv
            2501.16142); 0 in DrQ-v2. It prevents a small network with a large step size from saturating while its
            critic is still poor.
        options: of `Agent`.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Space,
        objectives: Sequence[Objective] = (),
        *,
        latent_actions: bool = False,
        feature_dim: int = 50,
        hidden_dim: int = 1024,
        critic_target_tau: Rate = 0.01,
        stddev_schedule: str | float = "linear(1.0,0.1,100000)",
        stddev_clip: NonNegative = 0.3,
        pre_activation_weight: NonNegative = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(encoder, action_space, objectives, **options)
        self.critic_target_tau, self.stddev_clip = critic_target_tau, stddev_clip
        self.pre_activation_weight = pre_activation_weight
        self.stddev = parse_schedule(stddev_schedule)

        device = self.device
        self.action_encoder = _latent_actions(objectives) if latent_actions else None
        action_dim = self.action_encoder.latent_dim if self.action_encoder else self.action_dim
        self.actor = Actor(encoder.repr_dim, self.action_dim, feature_dim, hidden_dim).to(device)
        self.critic = Critic(encoder.repr_dim, action_dim, feature_dim, hidden_dim).to(device)
        self.critic_target = momentum_copy(self.critic)

        critic_parts = [self.critic] if self.action_encoder is None else [self.action_encoder, self.critic]
        self.optimizers["critic"] = adam(self.trained_with_encoder(*critic_parts), self.lr)
        self.optimizers["actor"] = adam(self.actor.parameters(), self.lr)

    def encode_action(self, action: Tensor) -> Tensor:
        """The critic's input for actions (B, A): latent actions (B, U) with `latent_actions`."""
        return action if self.action_encoder is None else self.action_encoder(action)

    def select_action(self, features: Tensor, step: int, eval_mode: bool) -> Tensor:
        mean = self.actor(features)
        return mean if eval_mode else add_noise(mean, self.stddev(step), clip=None)

    def learn(self, batch: TensorDict, step: int) -> Metrics:
        stddev = self.stddev(step)
        features = self.view(batch["observation"])
        with torch.no_grad():
            next_features = self.view(batch["next", "observation"])
            next_action = add_noise(self.actor(next_features), stddev, self.stddev_clip)
        metrics = self.update_critic(batch, features, next_features, next_action)
        metrics |= self.update_actor(batch, features.detach(), stddev)
        ema_(self.critic_target, self.critic, self.critic_target_tau)
        return metrics

    def update_critic(self, batch: TensorDict, features: Tensor, next_features: Tensor, next_action: Tensor) -> Metrics:
        """One step of critic and encoder."""
        with torch.no_grad():
            target_q1, target_q2 = self.critic_target(next_features, self.encode_action(next_action))
            target_q = batch["next", "reward"] + batch["discount"] * torch.min(target_q1, target_q2)
        q1, q2 = self.critic(features, self.encode_action(batch["action"]))
        loss = F.mse_loss(q1, target_q) + F.mse_loss(q2, target_q)
        objective_metrics = self.step_encoder("critic", loss, batch, features, next_features)
        return objective_metrics | critic_metrics(loss, q1, q2, target_q, batch)

    def update_actor(self, batch: TensorDict, features: Tensor, stddev: float) -> Metrics:
        """One step of the actor on detached features."""
        pre_activation = self.actor.pre_activation(features)
        mean = torch.tanh(pre_activation)
        q1, q2 = self.critic(features, self.encode_action(add_noise(mean, stddev, self.stddev_clip)))
        loss, metrics = self.actor_loss(batch, mean, q1, q2)
        if self.pre_activation_weight:
            loss = loss + self.pre_activation_weight * pre_activation.square().mean()
        self.step("actor", loss)
        return metrics | {"actor_loss": loss.detach(), "actor_mean_abs": mean.detach().abs().mean()}

    def actor_loss(self, batch: TensorDict, mean: Tensor, q1: Tensor, q2: Tensor) -> tuple[Tensor, Metrics]:
        """The actor's loss, from its μ (B, A) and their values q1 and q2 (B, 1), with metrics."""
        return -torch.min(q1, q2).mean(), {}


def _latent_actions(objectives: Sequence[Objective]) -> ActionEncoder:
    for objective in objectives:
        if isinstance(objective, TACO):
            return objective.action_encoder
    raise ValueError("latent_actions=true needs TACO among the objectives: objectives=[taco]")
