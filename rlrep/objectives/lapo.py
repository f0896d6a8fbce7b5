"""LAPO: latent actions from video (arXiv 2312.10812)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.encoders import PixelDecoder, PixelEncoder, mlp, orthogonal_init, projection
from rlrep.objectives.base import Objective, check_frame_channels
from rlrep.window import Window


class LAPO(Objective):
    """Predicts the next frame's pixels from the current one and a latent action, computed from both; needs no actions.

    With s = projection(φ(x)), the inverse model u_t = I(s_t, s_t+1) and the forward model F (section 3.1 of the paper):

    ``loss_lapo`` = mean ‖decoder(F(s_t, u_t)) - x_t+1‖², on the scale pixels / 255 - 0.5, of the newest frame.

    The latent action must explain how the two observations differ: by an action, or by changing noise. Simplified for
    small pictures: both models read the shared encoder's features, while the paper's networks read raw pixels; past
    frames are those of the encoder's stack; and u is continuous, while the paper quantises it (users report that its
    codes collapse).

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        latent_action_dim: size of u.
        feature_dim: size of s.
        hidden_dim: width of both models' hidden layer.
        frame_channels: channels of one frame (None: 3, or 1 if the observation's are not a multiple of 3); the newest
            frame is decoded.
        decoder_channels: of the `PixelDecoder`.
        augment: the image augmentation; a random shift by 4 pixels if None. The target is not augmented.

    Raises:
        ValueError: for numbers out of range.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        latent_action_dim: int = 128,
        feature_dim: int = 256,
        hidden_dim: int = 256,
        frame_channels: int | None = None,
        decoder_channels: int = 32,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon, self.window = 1, Window(observations=(1,))
        self.in_keys, self.out_keys = ["observation", "future_observation"], ["loss_lapo"]
        self.frame_channels = check_frame_channels(encoder, frame_channels)
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        self.inverse = mlp(2 * feature_dim, [hidden_dim], latent_action_dim)
        self.predictor = mlp(feature_dim + latent_action_dim, [hidden_dim], feature_dim)
        for part in (self.state_projection, self.inverse, self.predictor):
            part.apply(orthogonal_init)
        self.decoder = PixelDecoder(
            feature_dim, (self.frame_channels, *encoder.observation_shape[1:]), decoder_channels
        )

    def latent_action(self, state: Tensor, following: Tensor) -> Tensor:
        """u (B, latent_action_dim) between states (B, feature_dim) one step apart."""
        return self.inverse(torch.cat([state, following], dim=1))

    def losses(self, observation: Tensor, future_observation: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        state = self.state_projection(self.view(observation, offset=0))
        following = self.state_projection(self.view(future_observation, offset=1))
        given = torch.cat([state, self.latent_action(state, following)], dim=1)
        newest = future_observation[:, -self.frame_channels :]
        return {"loss_lapo": self.decoder.error(self.predictor(given), newest)}
