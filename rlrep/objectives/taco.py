"""TACO: temporal action-driven contrastive learning (arXiv 2306.13229, NeurIPS 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rlrep.actions import ActionEncoder, ActionSequenceEncoder
from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.contrast import info_nce
from rlrep.encoders import PixelEncoder, mlp, orthogonal_init, projection
from rlrep.objectives.base import Objective
from rlrep.window import ANY_N_STEP, Window


class TACO(Objective):
    """Mutual information between (state, next K actions) and the state K steps later, section 3 of the paper.

    With z = projection(encoder(o)), u = the encoded action sequence and W a learned matrix:

    - ``loss_taco`` = -1/B Σ_i log( exp(g_i W z_i) / Σ_j exp(g_i W z_j) ), with g = G(z_t, u_t:t+K-1) and z = z_t+K, so
      that the other futures of the batch are negatives (InfoNCE);
    - ``loss_curl``: InfoNCE of z_t W against a second view of the same observation;
    - ``loss_reward``: squared error of the n-step reward predicted from (z_t, u_t:t+K-1).

    The future and the second view carry no gradient. Negatives come from all ranks, see `Objective.all_ranks`.

    Args:
        encoder: the shared encoder.
        action_space: Gymnasium ``Box`` (one axis) or ``Discrete``.
        horizon: K ≥ 1.
        feature_dim: size of z.
        hidden_dim: width of the heads' hidden layer.
        latent_action_dim: size of one encoded action; int(1.25 · A) + 1 if None.
        curl, reward: whether to add those two losses.
        augment: the image augmentation; a random shift by 4 pixels if None.

    Example:
        >>> taco = TACO(encoder, env.action_space, horizon=3)
        >>> losses = taco(replay.sample(256, taco.window))
        >>> sum(v for k, v in losses.items() if k.startswith("loss_")).backward()
    """

    needs_actions = True

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any,
        horizon: int = 3,
        feature_dim: int = 50,
        hidden_dim: int = 1024,
        latent_action_dim: int | None = None,
        curl: bool = True,
        reward: bool = True,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon = horizon
        self.window = Window(ANY_N_STEP if reward else 0, (horizon,), actions=horizon)
        self.curl, self.reward = curl, reward
        self.in_keys = ["observation", "action_sequence", "future_observation"]
        self.in_keys += [("next", "reward")] if reward else []
        self.out_keys = ["loss_taco", "taco_accuracy"]
        self.out_keys += ["loss_curl", "curl_accuracy"] if curl else []
        self.out_keys += ["loss_reward"] if reward else []

        self.action_encoder = ActionEncoder(action_space, latent_action_dim)
        self.sequence_encoder = ActionSequenceEncoder(self.action_encoder.latent_dim, horizon)
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        state_action_dim = feature_dim + self.sequence_encoder.out_dim
        self.state_action_projection = mlp(state_action_dim, [hidden_dim], feature_dim)
        self.reward_head = mlp(state_action_dim, [hidden_dim], 1) if reward else None
        for head in (self.state_projection, self.state_action_projection, self.reward_head):
            if head is not None:
                head.apply(orthogonal_init)
        self.bilinear = nn.Parameter(torch.rand(feature_dim, feature_dim))

    def project(self, observation: Tensor, offset: int | None = None) -> Tensor:
        """An augmented view of (B, C, H, W) uint8 to z, (B, feature_dim); `offset` as in `encode`."""
        return self.state_projection(self.view(observation, offset))

    def losses(  # type: ignore[override]
        self, observation: Tensor, action_sequence: Tensor, future_observation: Tensor, reward: Tensor | None = None
    ) -> dict[str, Tensor]:
        state = self.project(observation, offset=0)
        with torch.no_grad():
            future_state = self.project(future_observation, offset=self.horizon)
        sequence = self.sequence_encoder(self.action_encoder(action_sequence))
        state_action = torch.cat([state, sequence], dim=1)

        out: dict[str, Tensor] = {}
        query = self.state_action_projection(state_action)
        out["loss_taco"], out["taco_accuracy"] = info_nce(query @ self.bilinear, future_state, all_ranks=self.all_ranks)
        if self.curl:
            with torch.no_grad():
                second_view = self.project(observation)
            out["loss_curl"], out["curl_accuracy"] = info_nce(
                state @ self.bilinear, second_view, all_ranks=self.all_ranks
            )
        if self.reward_head is not None and reward is not None:
            out["loss_reward"] = nn.functional.mse_loss(self.reward_head(state_action).flatten(), reward.flatten())
        return out
