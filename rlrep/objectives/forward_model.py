"""Forward modelling: what will be seen K steps on, from the features now and the actions until then."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlrep.actions import ActionEncoder, ActionSequenceEncoder
from rlrep.augment import RandomShift
from rlrep.encoders import PixelDecoder, PixelEncoder, mlp, orthogonal_init, projection
from rlrep.objectives.base import Objective, check_horizon

TARGETS = ("features", "pixels")


class ForwardModel(Objective):
    """Predicts o_t+K from (encoder(o_t), a_t:t+K-1).

    - ``predict="features"``: ``loss_forward`` = mean ‖ẑ/‖ẑ‖ - z/‖z‖‖², between the prediction ẑ and z = projection(
      encoder(o_t+K)), which carries no gradient (the self-predictive loss of arXiv 2007.05929, without a momentum
      copy). With nothing else to learn from, z may collapse to a constant; a critic on the same encoder keeps it apart.
    - ``predict="pixels"``: ``loss_forward`` = mean squared error of the decoded newest frame of o_t+K, on the scale
      pixels / 255 - 0.5 (the Gaussian likelihood of arXiv 2403.13765, up to a constant).

    Args:
        encoder: the shared encoder.
        action_space: Gymnasium ``Box`` (one axis) or ``Discrete``.
        horizon: K ≥ 1.
        predict: "features" or "pixels".
        frame_channels: channels of one frame, of which the newest is decoded.
        feature_dim: size of z.
        hidden_dim: width of the prediction head.
        latent_action_dim: size of one encoded action; int(1.25 · A) + 1 if None.
        augment: the image augmentation; a random shift by 4 pixels if None. Pixel targets are not augmented.
    """

    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any,
        horizon: int = 3,
        predict: str = "features",
        frame_channels: int = 3,
        feature_dim: int = 50,
        hidden_dim: int = 1024,
        latent_action_dim: int | None = None,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        if predict not in TARGETS:
            raise ValueError(f"predict must be one of {', '.join(TARGETS)}, got {predict!r}")
        if not 1 <= frame_channels <= encoder.observation_shape[0]:
            raise ValueError(
                f"frame_channels must lie in 1..{encoder.observation_shape[0]}, the observation's channels, "
                f"got {frame_channels}"
            )
        self.horizon = check_horizon(horizon)
        self.in_keys = ["observation", "action_sequence", "future_observation"]
        self.out_keys = ["loss_forward"]
        self.frame_channels = frame_channels
        self.action_encoder = ActionEncoder(action_space, latent_action_dim)
        self.sequence_encoder = ActionSequenceEncoder(self.action_encoder.latent_dim, horizon)
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        self.predictor = mlp(feature_dim + self.sequence_encoder.out_dim, [hidden_dim], feature_dim)
        self.state_projection.apply(orthogonal_init)
        self.predictor.apply(orthogonal_init)
        frame_shape = (frame_channels, *encoder.observation_shape[1:])
        self.decoder = PixelDecoder(feature_dim, frame_shape) if predict == "pixels" else None

    def losses(  # type: ignore[override]
        self, observation: Tensor, action_sequence: Tensor, future_observation: Tensor
    ) -> dict[str, Tensor]:
        state = self.state_projection(self.encode(observation))
        sequence = self.sequence_encoder(self.action_encoder(action_sequence))
        prediction = self.predictor(torch.cat([state, sequence], dim=1))
        if self.decoder is not None:
            frame = future_observation[:, -self.frame_channels :].float().div(255).sub(0.5)
            return {"loss_forward": F.mse_loss(self.decoder(prediction), frame)}
        with torch.no_grad():
            target = self.state_projection(self.encode(future_observation))
        return {"loss_forward": 2 - 2 * F.cosine_similarity(prediction, target).mean()}
