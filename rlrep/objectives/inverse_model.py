"""Multi-step inverse dynamics: predicts an action from its result (ACRO, arXiv 2211.00164)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlrep.actions import action_spec
from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.encoders import PixelEncoder, mlp, orthogonal_init, projection
from rlrep.objectives.base import Objective
from rlrep.window import Gap, Window


class InverseModel(Objective):
    """Predicts a_t from (φ(x_t), φ(x_t+k), k), k in 1..K: the agent-controller state, whatever the exogenous noise.

    ``loss_inverse`` = -log p(a_t | φ(x_t), φ(x_t+k), k), the mean over the batch: the cross-entropy of a discrete
    action; of a continuous one |a_t - h(φ(x_t), φ(x_t+k), k)|² / A (a Gaussian likelihood, up to a constant). Needs
    data with actions; it is the reference for video-only methods.

    Args:
        encoder: the shared encoder.
        action_space: Gymnasium ``Box`` (one axis) or ``Discrete``.
        horizon: K ≥ 1, the largest gap in the data.
        hidden_dim: width of the head's hidden layer.
        feature_dim: size of a projection of φ for the head, as in contrastive methods; None: the head reads φ.
        augment: the image augmentation; a random shift by 4 pixels if None.

    Raises:
        ValueError: without an action space.
    """

    needs_actions = True

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any,
        horizon: int = 3,
        hidden_dim: int = 256,
        feature_dim: int | None = None,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        if action_space is None:
            raise ValueError(
                "inverse_model predicts actions and was given no action space: use data recorded with actions, "
                "or temporal_contrastive, forward_model or autoencoder for video alone"
            )
        action_dim, self.discrete = action_spec(action_space)
        self.horizon = horizon
        self.window = Window(observations=(Gap(horizon),), actions=1)
        self.in_keys = ["observation", "action", "future_observation", "gap"]
        self.out_keys = ["loss_inverse", *(["inverse_accuracy"] if self.discrete else [])]
        self.gap_embedding = nn.Embedding(horizon + 1, hidden_dim // 8 + 1)
        self.state_projection: nn.Module = nn.Identity()
        if feature_dim is not None:
            self.state_projection = projection(encoder.repr_dim, feature_dim).apply(orthogonal_init)
        state_dim = encoder.repr_dim if feature_dim is None else feature_dim
        self.predictor = mlp(2 * state_dim + self.gap_embedding.embedding_dim, [hidden_dim], action_dim)
        self.predictor.apply(orthogonal_init)

    def losses(  # type: ignore[override]
        self, observation: Tensor, action: Tensor, future_observation: Tensor, gap: Tensor
    ) -> dict[str, Tensor]:
        views = [self.encode(observation, offset=0), self.encode(future_observation)]
        states = [self.state_projection(view) for view in views]
        prediction = self.predictor(torch.cat([*states, self.gap_embedding(gap)], dim=1))
        if not self.discrete:
            return {"loss_inverse": F.mse_loss(prediction, action.to(prediction.dtype))}
        accuracy = (prediction.detach().argmax(1) == action).float().mean()
        return {"loss_inverse": F.cross_entropy(prediction, action.long()), "inverse_accuracy": accuracy}
