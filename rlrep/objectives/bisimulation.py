"""Deep bisimulation for control (DBC, arXiv 2006.10742)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlrep.actions import ActionEncoder
from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import Share
from rlrep.encoders import FeatureLinear, PixelEncoder, mlp, orthogonal_init
from rlrep.objectives.base import Objective
from rlrep.window import Window

STD = (0.1, 10.0)  # of the predicted distribution


class Bisimulation(Objective):
    """Makes feature distances equal differences in future reward, so that features drop what no reward depends on.

    With z = W φ(x), a model N(μ(z, a), σ(z, a)²) of the next z, and pairs i, j of the batch's rows (equation 4 of the
    paper; z̄, μ̄ and σ̄ carry no gradient):

    - ``loss_bisimulation`` = mean (‖z_i - z_j‖₁ - |r_i - r_j| - γ W₂)², with
      W₂² = ‖μ̄_i - μ̄_j‖² + ‖σ̄_i - σ̄_j‖², the distance of the predicted distributions;
    - ``loss_bisimulation_model`` = mean (½ ((μ(z_t, a_t) - z̄_t+1) / σ)² + log σ), over rows and dimensions, the model's
      negative log-likelihood up to a constant;
    - ``loss_bisimulation_reward`` = mean (R(μ(z_t, a_t)) - r_t)².

    All three train the encoder. Row i's partner j is the previous row. At a real end the last observation replaces the
    next. Simplified for small pictures: z is linear in the shared encoder's features, and R reads the predicted mean,
    where the paper draws a sample.

    Args:
        encoder: the shared encoder.
        action_space: Gymnasium ``Box`` (one axis) or ``Discrete``.
        discount: γ in [0, 1].
        feature_dim: size of z.
        hidden_dim: width of the hidden layer of model and reward.
        latent_action_dim: size of one encoded action; int(1.25 · A) + 1 if None.
        augment: the image augmentation; a random shift by 4 pixels if None.

    Raises:
        ValueError: for numbers out of range.
    """

    needs_actions = True
    comparable = False

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any,
        discount: Share = 0.99,
        feature_dim: int = 50,
        hidden_dim: int = 256,
        latent_action_dim: int | None = None,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon, self.discount = 1, discount
        self.window = Window(observations=(1,), actions=1, rewards=1)
        self.in_keys = ["observation", "action", "future_observation", ("sequence", "reward")]
        self.out_keys = ["loss_bisimulation", "loss_bisimulation_model", "loss_bisimulation_reward"]
        self.action_encoder = ActionEncoder(action_space, latent_action_dim)
        self.state_projection = FeatureLinear(encoder.repr_dim, feature_dim)
        self.model = mlp(feature_dim + self.action_encoder.latent_dim, [hidden_dim], 2 * feature_dim)
        self.reward_head = mlp(feature_dim, [hidden_dim], 1)
        for part in (self.state_projection, self.model, self.reward_head):
            part.apply(orthogonal_init)

    def predict(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """μ and σ (B, feature_dim) of the next state from states (B, feature_dim) and actions (B, A) or (B,)."""
        mean, spread = self.model(torch.cat([state, self.action_encoder(action)], dim=1)).chunk(2, dim=1)
        return mean, STD[0] + (STD[1] - STD[0]) * spread.sigmoid()

    def losses(  # type: ignore[override]
        self, observation: Tensor, action: Tensor, future_observation: Tensor, reward: Tensor
    ) -> dict[str, Tensor]:
        """The losses of observations (B, C, H, W), actions, next observations, and rewards (B, 1, 1)."""
        reward = reward.flatten()
        state = self.state_projection(self.view(observation, offset=0))
        with torch.no_grad():
            following = self.state_projection(self.view(future_observation, offset=1))
        mean, std = self.predict(state, action)
        likelihood = (0.5 * ((mean - following) / std).square() + std.log()).mean()
        target = bisimulation_target(reward, mean.detach(), std.detach(), self.discount)
        distance = (state - state.roll(1, 0)).abs().sum(1)
        return {
            "loss_bisimulation": F.mse_loss(distance, target),
            "loss_bisimulation_model": likelihood,
            "loss_bisimulation_reward": F.mse_loss(self.reward_head(mean).flatten(), reward),
        }


def bisimulation_target(reward: Tensor, mean: Tensor, std: Tensor, discount: float) -> Tensor:
    """The target distance of each row to the previous row, (B,).

    Args:
        reward: (B,).
        mean, std: (B, D) of the next state's normal distribution.
        discount: γ.
    """
    moved = torch.cat([mean, std], dim=1)
    return (reward - reward.roll(1)).abs() + discount * (moved - moved.roll(1, 0)).norm(dim=1)
