"""SepCLR over time: separates what all recordings show from what a background lacks (arXiv 2402.11928)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import NonNegative, Several
from rlrep.contrast import gather
from rlrep.encoders import PixelEncoder, orthogonal_init, projection
from rlrep.objectives.base import Objective, own_number
from rlrep.window import Gap, Window

SMALLEST = 1e-12  # mean of a kernel whose logarithm is taken


class SepCLR(Objective):
    """Separates common features c from salient ones s, which a background recording, such as noise alone, lacks.

    With c and s of length 1, projections of φ(x), the kernel k(x, y) = exp(-‖x - y‖² / τ), pairs (x_t, x_t+k) of one
    episode, k in 1..K, rows D of the data and G of the background, and a constant s̄ (section 3 of the paper):

    - ``loss_sepclr_common`` = mean ‖c_t - c_t+k‖² / τ + log mean_i≠j k(c_i, c_j), over D and G: alignment and
      uniformity;
    - ``loss_sepclr_salient`` = the same of s over D, with s̄ as one more point to stay away from;
    - ``loss_sepclr_background`` = mean ‖s_i - s̄‖² / τ, over G;
    - ``loss_sepclr_joint`` = λ log mean_i≠j k(c_i, c_j) k(s_i, s_j), over D: a kernel estimate of the negative joint
      entropy, so that c and s share no information.

    Keep both parts small: with many dimensions, each part can hold everything. If the picture shows both, only
    ``loss_sepclr_joint`` keeps background content out of s. Needs no actions. **The background is part of the
    data**: it is the episodes whose number is a multiple of `background_every`, counted from 0; with 2, every
    second recording, starting with the first. Rows of all ranks count, see `Objective.all_ranks`. With TorchRL,
    slices count as episodes, and their batches need data and background in turn.

    Simplified for small pictures: one shared encoder with a projection for each part, while the paper has an encoder
    for each; and positives are observations of one episode, while the paper uses two augmentations of one picture.
    Other differences: the paper's s has any length and its s̄ is 0; its exponents and distances have 2τ in the place of
    τ; and it weighs uniformity by 2, the background by 100 to 1,000, and the joint term, over data and background, by
    10.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        horizon: K ≥ 1, the largest gap.
        background_every: at least 2, see above.
        joint: λ ≥ 0.
        feature_dim: size of c and of s.
        temperature: τ > 0.
        augment: the image augmentation; a random shift by 4 pixels if None.

    Raises:
        ValueError: for numbers out of range.
    """

    needs_background = True

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        horizon: int = 3,
        background_every: Several = 2,
        joint: NonNegative = 1.0,
        feature_dim: int = 8,
        temperature: float = 0.5,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon, self.temperature = horizon, temperature
        self.background_every, self.joint = background_every, joint
        self.window = Window(observations=(Gap(horizon),), episode=True)
        self.in_keys = ["observation", "future_observation", "episode"]
        self.out_keys = ["loss_sepclr_common", "loss_sepclr_salient", "loss_sepclr_background", "loss_sepclr_joint"]
        self.common, self.salient = (projection(encoder.repr_dim, feature_dim) for _ in range(2))
        for part in (self.common, self.salient):
            part.apply(orthogonal_init)
        self.register_buffer("constant", F.one_hot(torch.tensor([0]), feature_dim).float())
        self.constant: Tensor

    def parts(self, view: Tensor) -> list[Tensor]:
        """c and s (B, feature_dim) from features or a feature map, of all ranks."""
        return [gather(F.normalize(part(view), dim=1), self.all_ranks)[0] for part in (self.common, self.salient)]

    def losses(  # type: ignore[override]
        self, observation: Tensor, future_observation: Tensor, episode: Tensor
    ) -> dict[str, Tensor]:
        common, salient = self.parts(self.view(observation, offset=0))
        common_later, salient_later = self.parts(self.view(future_observation))
        number = own_number(gather(episode, self.all_ranks)[0])
        background = (number % self.background_every == 0).float()
        data, everyone = 1 - background, torch.ones_like(background)
        apart = self.kernel(common)
        with_constant = torch.cat([salient, self.constant]), torch.cat([data, everyone[:1]])
        both = apart * self.kernel(salient)
        return {
            "loss_sepclr_common": self.far(common, common_later, everyone) + log_mean(apart, everyone),
            "loss_sepclr_salient": self.far(salient, salient_later, data)
            + log_mean(self.kernel(with_constant[0]), with_constant[1]),
            "loss_sepclr_background": self.far(salient, self.constant, background),
            "loss_sepclr_joint": self.joint * log_mean(both, data),
        }

    def kernel(self, points: Tensor) -> Tensor:
        """k of all pairs of points of length 1, (B, D) to (B, B)."""
        return ((2 * points @ points.T - 2) / self.temperature).exp()

    def far(self, first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
        """The mean of ‖first - second‖² / τ over the rows of weight 1; the other rows have weight 0."""
        squares = (first - second).square().sum(1)
        return (weight * squares).sum() / weight.sum().clamp(min=1) / self.temperature


def log_mean(kernel: Tensor, weight: Tensor) -> Tensor:
    """log mean_i≠j of a kernel (B, B) over the rows of weight 1, other rows have 0; 0 for fewer than two."""
    pairs = weight[:, None] * weight
    pairs = pairs - pairs.diagonal().diag()
    count = pairs.sum()
    return torch.where(count > 0, (kernel * pairs).sum() / count.clamp(min=1), 1).clamp(min=SMALLEST).log()
