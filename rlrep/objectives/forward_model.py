"""Forward modelling: predicts a later observation from the features now and, if known, the actions until then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
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

TARGETS = ("features", "pixels")


class ForwardModel(Objective):
    """Predicts o_t+K from (encoder(o_t), a_t:t+K-1); from video, o_t+k from (encoder(o_t), k), k in 1..K.

    - ``predict="features"``: ``loss_forward`` = mean ‖ẑ/‖ẑ‖ - z/‖z‖‖², between the prediction ẑ and z = projection(
      encoder(o_t+K)), which carries no gradient (the self-predictive loss of arXiv 2007.05929, without a momentum
      copy). Without another loss, z may collapse to a constant; a critic on the same encoder prevents that.
    - ``predict="pixels"``: ``loss_forward`` = mean squared error of the decoded newest frame, on the scale
      pixels / 255 - 0.5 (the Gaussian likelihood of arXiv 2403.13765, up to a constant).

    Args:
        encoder: the shared encoder.
        action_space: Gymnasium ``Box`` (one axis) or ``Discrete``; None for video: the gap k replaces the actions.
        horizon: K ≥ 1; for video the largest gap in the data.
        predict: "features" or "pixels"; None is pixels for video, features otherwise.
        frame_channels: channels of one frame; the newest frame is decoded.
        feature_dim: size of z.
        hidden_dim: width of the prediction head.
        latent_action_dim: size of one encoded action; int(1.25 · A) + 1 if None.
        decoder_channels: of the `PixelDecoder`.
        augment: the image augmentation; a random shift by 4 pixels if None. Pixel targets are not augmented.

    Raises:
        ValueError: for another target.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any,
        horizon: int = 3,
        predict: str | None = None,
        frame_channels: int = 3,
        feature_dim: int = 50,
        hidden_dim: int = 1024,
        latent_action_dim: int | None = None,
        decoder_channels: int = 32,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        if predict is None:
            predict = "pixels" if action_space is None else "features"
        if predict not in TARGETS:
            raise ValueError(f"predict must be one of {', '.join(TARGETS)}, got {predict!r}")
        self.horizon, self.comparable = horizon, predict == "pixels"
        self.out_keys = ["loss_forward"]
        self.frame_channels = frame_channels
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
        self.future_offset = None if action_space is None else horizon
        self.predictor = mlp(feature_dim + path_dim, [hidden_dim], feature_dim)
        self.predictor.apply(orthogonal_init)
        self.decoder: PixelDecoder | None = None
        if predict == "pixels":
            check_frame_channels(encoder, frame_channels)
            frame_shape = (frame_channels, *encoder.observation_shape[1:])
            self.decoder = PixelDecoder(feature_dim, frame_shape, decoder_channels)

    def predict(self, features: Tensor, path: Tensor) -> Tensor:
        """ẑ (B, feature_dim) from features (B, repr_dim) and action sequences, or gaps for video."""
        state = self.state_projection(features)
        return self.predictor(torch.cat([state, self.path_encoder(path)], dim=1))

    def losses(  # type: ignore[override]
        self, observation: Tensor, path: Tensor, future_observation: Tensor
    ) -> dict[str, Tensor]:
        prediction = self.predict(self.view(observation, offset=0), path)
        if self.decoder is not None:
            return {"loss_forward": self.decoder.error(prediction, future_observation[:, -self.frame_channels :])}
        with torch.no_grad():
            target = self.state_projection(self.view(future_observation, self.future_offset))
        return {"loss_forward": 2 - 2 * F.cosine_similarity(prediction, target).mean()}

    @torch.no_grad()
    def reconstruct(self, batch: TensorDict) -> Tensor:
        """The predicted newest frame of each future observation, (B, frame_channels, H, W) uint8.

        Raises:
            ValueError: if this model predicts features.
        """
        if self.decoder is None:
            raise ValueError('a forward model of features draws no pictures: build it with predict="pixels"')
        observation, path, _ = self.read(batch)
        return to_pixels(self.decoder(self.predict(self.encoder(observation), path)))
