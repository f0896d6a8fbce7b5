"""SPR: self-predictive representations (arXiv 2007.05929)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlrep.actions import ActionEncoder
from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import Momentum
from rlrep.encoders import PixelEncoder, mlp, orthogonal_init, projection
from rlrep.objectives.base import Objective
from rlrep.window import Window


class SPR(Objective):
    """Predicts the momentum encoder's features of the next K observations from the current one and the actions.

    With ẑ_t = z_t = projection(φ(x_t)), ẑ_t+k = h(ẑ_t+k-1, u_t+k-1), a prediction head q∘g on the online side, and the
    momentum copies φ̄, ḡ on the target side, equation 3 of the paper:

    ``loss_spr`` = -1/K Σ_k cos(q(g(ẑ_t+k)), ḡ(φ̄(x_t+k))), the mean over the batch.

    Without actions (video), h reads ẑ alone: BYOL over time. At a real end the last observation replaces all later
    ones, and later actions are 0. Simplified for small pictures: z is a vector rather than a map, and h an MLP rather
    than convolutions. The paper sums over k = 1..5, and with augmentation its targets are the online encoder's
    (`momentum=0`); 0.99 is its value without augmentation.

    Args:
        encoder: the shared encoder.
        action_space: Gymnasium ``Box`` (one axis) or ``Discrete``; None for video.
        horizon: K ≥ 1.
        feature_dim: size of z and of the projections.
        hidden_dim: width of the transition's hidden layer.
        latent_action_dim: size of one encoded action u; int(1.25 · A) + 1 if None.
        momentum: m in [0, 1) of the copies: copy ← m copy + (1 - m) online, after each step.
        augment: the image augmentation; a random shift by 4 pixels if None.

    Raises:
        ValueError: for numbers out of range.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        horizon: int = 3,
        feature_dim: int = 50,
        hidden_dim: int = 256,
        latent_action_dim: int | None = None,
        momentum: Momentum = 0.99,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon = horizon
        acts = action_space is not None
        self.window = Window(observations=tuple(range(1, horizon + 1)), actions=horizon if acts else 0)
        self.in_keys = ["observation", ("sequence", "observation"), *(["action_sequence"] if acts else [])]
        self.out_keys = ["loss_spr"]
        self.action_encoder = ActionEncoder(action_space, latent_action_dim) if acts else None
        action_dim = self.action_encoder.latent_dim if self.action_encoder else 0
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        self.transition = mlp(feature_dim + action_dim, [hidden_dim], feature_dim)
        self.head = nn.Linear(feature_dim, feature_dim)
        self.predictor = nn.Linear(feature_dim, feature_dim)
        for part in (self.state_projection, self.transition, self.head, self.predictor):
            part.apply(orthogonal_init)
        self.target_encoder = self.momentum_copy(encoder, momentum)
        self.target_head = self.momentum_copy(nn.Sequential(self.state_projection, self.head), momentum)

    def losses(  # type: ignore[override]
        self, observation: Tensor, following: Tensor, action_sequence: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The losses of observations (B, C, H, W), the K next ones (B, K, C, H, W), and actions (B, K, A) or (B, K)."""
        with torch.no_grad():
            features = self.view(following.flatten(0, 1), encoder=self.target_encoder)
            targets = self.target_head(features).view(*following.shape[:2], -1)
        latent_actions = None if self.action_encoder is None else self.action_encoder(action_sequence)
        state = self.state_projection(self.view(observation, offset=0))
        agreement = []
        for k in range(self.horizon):
            given = [state] if latent_actions is None else [state, latent_actions[:, k]]
            state = self.transition(torch.cat(given, dim=1))
            prediction = self.predictor(self.head(state))
            agreement.append(F.cosine_similarity(prediction, targets[:, k]).mean())
        return {"loss_spr": -torch.stack(agreement).mean()}
