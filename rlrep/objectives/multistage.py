"""Multistage contrast over time, against suppressed features (arXiv 2402.11816)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import Several
from rlrep.contrast import gather, info_nce
from rlrep.encoders import PixelEncoder, orthogonal_init, projection
from rlrep.objectives.base import Objective
from rlrep.window import Gap, Window

ROUNDS = 5  # of k-means


class Multistage(Objective):
    """Tells pairs (x_t, x_t+k) of one episode, k in 1..K, from pairs that look alike to the previous stages.

    Plain contrast learns the feature that identifies a pair most easily, and ignores the others. With stages
    s = 1..S, each with a part z_s = projection_s(φ(x)), and the cluster c_s(i) that k-means finds for row i in z_s
    (section 3 of the paper):

    ``loss_stage_s`` = -1/B Σ_i log( exp(cos(z_s,i, z'_s,i) / τ) / Σ_j exp(cos(z_s,i, z'_s,j) / τ) ), over those j with
    c_r(j) = c_r(i) for all r < s.

    Each observation is the anchor in half of the loss; the clusters are those of x_t, without a gradient. So features
    of the previous stages no longer help. The first stage is plain contrast. The features are all stages concatenated;
    each stage reads φ(x).

    Simplified for small pictures and a shared encoder: the stages are trained together, while the paper trains one
    encoder after the other; and k-means clusters the batch, while the paper clusters the data.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        horizon: K ≥ 1, the largest gap.
        stages: S ≥ 1.
        clusters: of each stage but the last, at least 2. A batch should have many more rows than all stages' clusters
            combined, clusters^(S - 1): a row that is alone in its cluster teaches nothing.
        feature_dim: size of each z_s.
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
        stages: int = 2,
        clusters: Several = 8,
        feature_dim: int = 50,
        temperature: float = 0.1,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon, self.temperature, self.clusters = horizon, temperature, clusters
        self.window = Window(observations=(Gap(horizon),))
        self.in_keys = ["observation", "future_observation"]
        self.out_keys = [
            name.format(s) for s in range(1, stages + 1) for name in ("loss_stage_{}", "stage_{}_accuracy")
        ]
        self.projections = nn.ModuleList(projection(encoder.repr_dim, feature_dim) for _ in range(stages))
        self.projections.apply(orthogonal_init)

    def losses(self, observation: Tensor, future_observation: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        features = self.view(observation, offset=0), self.view(future_observation)
        out: dict[str, Tensor] = {}
        group = torch.zeros(len(observation), dtype=torch.int64, device=observation.device)
        for stage, part in enumerate(self.projections, start=1):
            early, late = (F.normalize(part(each), dim=1) for each in features)
            pairs = ((early, late), (late, early))
            both = [info_nce(*pair, self.temperature, self.all_ranks, group=group) for pair in pairs]
            out[f"loss_stage_{stage}"] = (both[0][0] + both[1][0]) / 2
            out[f"stage_{stage}_accuracy"] = (both[0][1] + both[1][1]) / 2
            if stage < len(self.projections):
                everyone, first = gather(early.detach(), self.all_ranks)
                group = group * self.clusters + k_means(everyone, self.clusters)[first : first + len(early)]
        return out


@torch.no_grad()
def k_means(features: Tensor, clusters: int) -> Tensor:
    """The cluster of each row, (B, D) to (B,) int64, after a few rounds from distant centres.

    The first centre is the first row; each further centre is the row that is furthest from the previous centres.
    """
    centres = features[:1]
    for _ in range(clusters - 1):
        furthest = torch.cdist(features, centres).amin(1).argmax(0, keepdim=True)
        centres = torch.cat([centres, features[furthest]])
    for _ in range(ROUNDS):
        members = F.one_hot(torch.cdist(features, centres).argmin(1), clusters).to(features.dtype)
        counts = members.sum(0)[:, None]
        centres = torch.where(counts > 0, members.T @ features / counts.clamp(min=1), centres)
    return torch.cdist(features, centres).argmin(1)
