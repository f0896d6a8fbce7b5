"""CVRL: contrast between clips of videos (arXiv 2008.03800)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.contrast import temporal_contrastive
from rlrep.encoders import PixelEncoder, mlp, orthogonal_init
from rlrep.objectives.base import Objective
from rlrep.window import Gap, Window


class CVRL(Objective):
    """Tells which two clips of T frames come from one episode, among the clips of a batch; needs no actions.

    A clip's z = MLP(mean over its T frames of φ(x)); ``loss_clip`` = symmetric InfoNCE of the two clips' z at
    temperature τ on cosine similarities (section 3.1 of the paper). The second clip begins k steps after the first, k
    in 1..K with a probability that falls linearly, P(k) ∝ K + 1 - k (section 3.2). All frames of a clip get the same
    augmentation, each clip another one (section 3.3). Simplified for small pictures: the mean of the frames' features
    replaces the paper's 3D network, and the augmentation is the random shift.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        horizon: K ≥ 1, the most steps between the beginnings of the two clips.
        clip_length: T ≥ 1 observations, one step apart.
        feature_dim: size of z.
        hidden_dim: width of the MLP's hidden layer.
        temperature: τ > 0.
        augment: the image augmentation; a random shift by 4 pixels if None.

    Raises:
        ValueError: for numbers out of range.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        horizon: int = 8,
        clip_length: int = 4,
        feature_dim: int = 50,
        hidden_dim: int = 256,
        temperature: float = 0.1,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon, self.clip_length = horizon, clip_length
        self.temperature = temperature
        first = tuple(range(1, clip_length))
        second = tuple(Gap(horizon, plus=step, linear=True) for step in range(clip_length))
        self.window = Window(observations=first + second)
        self.in_keys = ["observation", ("sequence", "observation")]
        self.out_keys = ["loss_clip", "clip_accuracy"]
        self.projection = mlp(encoder.repr_dim, [hidden_dim], feature_dim)
        self.projection.apply(orthogonal_init)

    def clip(self, frames: Tensor) -> Tensor:
        """z (B, feature_dim) of clips (B, T, C, H, W) uint8, with one augmentation per clip."""
        features = self.encoder(self.clip_view(frames).flatten(0, 1))
        return self.projection(features.unflatten(0, (-1, self.clip_length)).mean(1))

    def losses(self, observation: Tensor, others: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """The losses of the first observation (B, C, H, W) and the clips' other observations (B, 2T - 1, C, H, W)."""
        rest, second = others[:, : self.clip_length - 1], others[:, self.clip_length - 1 :]
        first = self.clip(torch.cat([observation[:, None], rest], dim=1))
        loss, accuracy = temporal_contrastive(first, self.clip(second), self.temperature, True, self.all_ranks)
        return {"loss_clip": loss, "clip_accuracy": accuracy}
