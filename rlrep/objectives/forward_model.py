"""Forward modelling: predicts a later frame from the features now and, if known, the actions until then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlrep.actions import ActionEncoder, ActionSequenceEncoder
from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.encoders import (
    PixelDecoder,
    PixelEncoder,
    mlp,
    orthogonal_init,
    projection,
    to_pixels,
)
from rlrep.objectives.base import Objective, check_frame_channels
from rlrep.window import Gap, Window

if TYPE_CHECKING:
    from tensordict import TensorDict


class ForwardModel(Objective):
    """Predicts o_t+K from (encoder(o_t), a_t:t+K-1); from video, o_t+k from (encoder(o_t), k), k in 1..K.

    ``loss_forward`` = mean squared error of the decoded newest frame, on the scale pixels / 255 - 0.5 (the Gaussian
    likelihood of arXiv 2403.13765, up to a constant). `SPR` predicts features instead.

    Args:
        encoder: the shared encoder.
        action_space: Gymnasium ``Box`` (one axis) or ``Discrete``; None for video: the gap k replaces the actions.
        horizon: K ≥ 1; for video the largest gap in the data.
        frame_channels: channels of one frame (None: 3, or 1 if the observation's are not a multiple of 3); the newest
            frame is predicted.
        feature_dim: size of the projected features, and of what the frame is decoded from.
        hidden_dim: width of the prediction head.
        latent_action_dim: size of one encoded action; int(1.25 · A) + 1 if None.
        decoder_channels: of the `PixelDecoder`.
        augment: the image augmentation; a random shift by 4 pixels if None. The predicted frame is not augmented.

    Raises:
        ValueError: for an encoder without `observation_shape`, and for `frame_channels` that don't divide its channels.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any,
        horizon: int = 3,
        frame_channels: int | None = None,
        feature_dim: int = 50,
        hidden_dim: int = 1024,
        latent_action_dim: int | None = None,
        decoder_channels: int = 32,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon, self.out_keys = horizon, ["loss_forward"]
        self.frame_channels = check_frame_channels(encoder, frame_channels)
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        self.state_projection.apply(orthogonal_init)
        self.path_encoder: nn.Module
        if action_space is None:
            self.window = Window(observations=(Gap(horizon),))
            self.in_keys = ["observation", "gap", "future_observation"]
            path_dim = feature_dim
            self.path_encoder = nn.Embedding(horizon + 1, path_dim)
        else:
            self.window = Window(observations=(horizon,), actions=horizon)
            self.in_keys = ["observation", "action_sequence", "future_observation"]
            action_encoder = ActionEncoder(action_space, latent_action_dim)
            sequence_encoder = ActionSequenceEncoder(action_encoder.latent_dim, horizon)
            path_dim = sequence_encoder.out_dim
            self.path_encoder = nn.Sequential(action_encoder, sequence_encoder)
        self.predictor = mlp(feature_dim + path_dim, [hidden_dim], feature_dim)
        self.predictor.apply(orthogonal_init)
        frame_shape = (self.frame_channels, *encoder.observation_shape[1:])
        self.decoder = PixelDecoder(feature_dim, frame_shape, decoder_channels)

    def predict(self, features: Tensor, path: Tensor) -> Tensor:
        """What the frame is decoded from, (B, feature_dim), of features (B, repr_dim) and action sequences, or gaps."""
        state = self.state_projection(features)
        return self.predictor(torch.cat([state, self.path_encoder(path)], dim=1))

    def losses(  # type: ignore[override]
        self, observation: Tensor, path: Tensor, future_observation: Tensor
    ) -> dict[str, Tensor]:
        prediction = self.predict(self.view(observation, offset=0), path)
        return {"loss_forward": self.decoder.error(prediction, future_observation[:, -self.frame_channels :])}

    @torch.no_grad()
    def reconstruct(self, batch: TensorDict) -> Tensor:
        """The predicted newest frame of each future observation, (B, frame_channels, H, W) uint8."""
        observation, path, _ = self.read(batch)
        return to_pixels(self.decoder(self.predict(self.encoder(observation), path)))
