"""Masked autoencoder of clips, whose features agree with those of one frame (arXiv 2203.12602, 2502.07811)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import Share
from rlrep.contrast import info_nce
from rlrep.encoders import PixelDecoder, PixelEncoder, mlp, orthogonal_init, projection, to_unit_scale
from rlrep.objectives.base import Objective, check_frame_channels
from rlrep.window import Window

HIDDEN = 128  # the grey that the encoder scales to about 0


class MaskedAutoencoder(Objective):
    """Draws the hidden patches of a clip from the visible ones, and tells which clip a frame is from; needs no actions.

    A clip is T observations, one step apart. In x̃_t most patches are hidden, the same places in the whole clip
    (section 3.2 of arXiv 2203.12602). With s_t = projection(φ(x̃_t)) and their mean s̄:

    - ``loss_masked_pixels`` = mean ‖decoder(P(s_t, s̄)) - x_t‖² over the hidden pixels of the newest frame of every
      observation, on the scale pixels / 255 - 0.5;
    - ``loss_masked_agreement`` = InfoNCE of g(s̄) and g'(projection(φ(x_0))), of cosines at temperature τ, the mean of
      both directions: a clip with hidden patches and a whole frame of it (arXiv 2502.07811).

    Simplified for small pictures: convolutions see hidden patches as grey, while the papers' transformers leave them
    out; the targets are plain pixels, and the papers' are normalised in each patch; the frame is the clip's first.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        clip_length: T ≥ 1 observations.
        hidden_share: of the patches; at least one patch is hidden and one visible.
        patch: side of a patch in pixels.
        feature_dim: size of s, g and g'.
        hidden_dim: width of the hidden layers of P, g and g'.
        temperature: τ > 0.
        frame_channels: channels of one frame (None: 3, or 1 if the observation's are not a multiple of 3).
        decoder_channels: of the `PixelDecoder`.
        augment: the image augmentation, one for a whole clip; a random shift by 4 pixels if None.

    Raises:
        ValueError: for numbers out of range, and patches so large that the picture has only one.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        clip_length: int = 4,
        hidden_share: Share = 0.75,
        patch: int = 8,
        feature_dim: int = 256,
        hidden_dim: int = 256,
        temperature: float = 0.1,
        frame_channels: int | None = None,
        decoder_channels: int = 32,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.hidden_share, self.patch, self.temperature = hidden_share, patch, temperature
        self.frame_channels = check_frame_channels(encoder, frame_channels)
        height, width = encoder.observation_shape[1:]
        if patch >= max(height, width):
            raise ValueError(f"patch must be less than the picture's side, got {patch} for {height}×{width} pixels")
        self.window = Window(observations=tuple(range(1, clip_length)))
        self.in_keys: list[Any] = ["observation", *([("sequence", "observation")] if clip_length > 1 else [])]
        self.out_keys = ["loss_masked_pixels", "loss_masked_agreement", "masked_accuracy"]
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        self.predictor = mlp(2 * feature_dim, [hidden_dim], feature_dim)
        self.clip_head = mlp(feature_dim, [hidden_dim], feature_dim)
        self.frame_head = mlp(feature_dim, [hidden_dim], feature_dim)
        for part in (self.state_projection, self.predictor, self.clip_head, self.frame_head):
            part.apply(orthogonal_init)
        self.decoder = PixelDecoder(feature_dim, (self.frame_channels, height, width), decoder_channels)

    def losses(self, observation: Tensor, *others: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """The losses of clips: the first observation (B, C, H, W) and the others (B, T - 1, C, H, W)."""
        clip = self.clip_view(torch.cat([observation[:, None], *others], dim=1))
        hidden = hidden_patches(clip, self.patch, self.hidden_share)[:, None]
        seen = clip.masked_fill(hidden, HIDDEN).flatten(0, 1)
        state = self.state_projection(self.encoder(seen)).unflatten(0, clip.shape[:2])
        mean = state.mean(1)
        drawn = self.decoder(self.predictor(torch.cat([state, mean[:, None].expand_as(state)], 2)).flatten(0, 1))
        newest = to_unit_scale(clip[:, :, -self.frame_channels :])
        error = (drawn.unflatten(0, clip.shape[:2]) - newest).square().mean(2, keepdim=True)
        shown = self.frame_head(self.state_projection(self.view(observation, offset=0)))
        told, frame = (F.normalize(each, dim=1) for each in (self.clip_head(mean), shown))
        both = [info_nce(*pair, self.temperature, self.all_ranks) for pair in ((told, frame), (frame, told))]
        agreement, accuracy = (torch.stack(each).mean() for each in zip(*both, strict=True))
        return {
            "loss_masked_pixels": (error * hidden).sum() / (hidden.sum() * clip.shape[1]),
            "loss_masked_agreement": agreement,
            "masked_accuracy": accuracy,
        }


def hidden_patches(clip: Tensor, patch: int, share: float) -> Tensor:
    """Which pixels of each clip (B, …, H, W) are hidden, (B, 1, H, W) bool: random patches, as many in each clip."""
    height, width = clip.shape[-2:]
    grid = -(-height // patch), -(-width // patch)
    patches = grid[0] * grid[1]
    hide = min(max(round(share * patches), 1), patches - 1)
    order = torch.rand(len(clip), patches, device=clip.device).argsort(1)
    hidden = (order < hide).unflatten(1, (1, *grid))
    return hidden.repeat_interleave(patch, 2).repeat_interleave(patch, 3)[..., :height, :width]
