"""Temporal contrast, equally hard in every recording (arXiv 2111.14820, with the penalty of V-REx, 2003.00688)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import Count, NonNegative
from rlrep.contrast import info_nce
from rlrep.encoders import PixelEncoder, orthogonal_init, projection
from rlrep.objectives.base import Objective, own_number
from rlrep.window import Gap, Window


class Invariance(Objective):
    """Tells pairs (x_t, x_t+k), k in 1..K, of one episode from others, by features that help equally in every
    recording.

    With z = projection(φ(x)), each row's InfoNCE ℓ_i of cosines at temperature τ, the mean of both directions, and the
    risk R_e, the mean of ℓ_i over the rows of recording e:

    ``loss_invariance`` = mean_e R_e + β Var_e R_e, over the recordings in the batch, with equal weights.

    A feature that identifies pairs only in some recordings, such as persistent noise, makes the risks differ. Needs no
    actions. A recording is an episode. With `groups`, a recording is all episodes with the same number modulo `groups`,
    for data recorded under so many conditions in turn; each risk should average several rows. Negatives
    come from all ranks, see `Objective.all_ranks`, recordings from each rank's own batch. With TorchRL, each slice
    counts as an episode.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        horizon: K ≥ 1, the largest gap.
        penalty: β ≥ 0; with 0, recordings only have equal weights.
        groups: number of recordings, to which episodes belong in turn; 0 makes each episode a recording.
        feature_dim: size of z.
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
        horizon: int = 3,
        penalty: NonNegative = 1.0,
        groups: Count = 0,
        feature_dim: int = 50,
        temperature: float = 0.1,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon, self.temperature = horizon, temperature
        self.penalty, self.groups = penalty, groups
        self.window = Window(observations=(Gap(horizon),), episode=True)
        self.in_keys = ["observation", "future_observation", "episode"]
        self.out_keys = ["loss_invariance", "invariance_variance", "invariance_accuracy"]
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        self.state_projection.apply(orthogonal_init)

    def losses(  # type: ignore[override]
        self, observation: Tensor, future_observation: Tensor, episode: Tensor
    ) -> dict[str, Tensor]:
        early = F.normalize(self.state_projection(self.view(observation, offset=0)), dim=1)
        late = F.normalize(self.state_projection(self.view(future_observation)), dim=1)
        pairs = ((early, late), (late, early))
        both = [info_nce(*pair, self.temperature, self.all_ranks, reduction="none") for pair in pairs]
        each, accuracy = (torch.stack(values).mean(0) for values in zip(*both, strict=True))
        mean, variance = risk_over(own_number(episode) % self.groups if self.groups else episode, each)
        return {
            "loss_invariance": mean + self.penalty * variance,
            "invariance_variance": variance.detach(),
            "invariance_accuracy": accuracy,
        }


def risk_over(recording: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the variance of the recordings' mean losses.

    Args:
        recording: (B,) int64, the number of each row's recording.
        loss: (B,) of each row.
    """
    same = (recording[:, None] == recording).to(loss.dtype)
    risk = same @ loss / same.sum(1)  # of each row's recording
    weight = 1 / same.sum(1)
    weight = weight / weight.sum()
    mean = (weight * risk).sum()
    return mean, (weight * (risk - mean).square()).sum()
