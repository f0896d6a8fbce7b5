"""SwAV over time: prototypes that two observations of one episode agree on (arXiv 2006.09882, 2102.11271)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.contrast import gather
from rlrep.encoders import FeatureLinear, PixelEncoder, orthogonal_init
from rlrep.objectives.base import Objective
from rlrep.window import Gap, Window

ROUNDS = 3  # of Sinkhorn's algorithm


class SwAV(Objective):
    """Predicts from x_t which prototypes x_t+k is assigned to, k in 1..K, and back; needs no actions and no negatives.

    With z = MLP(φ(x)) of length 1, prototypes c_1..c_P of length 1, p = softmax(z · c / τ) and assignments q, which
    Sinkhorn's algorithm computes from the batch's z · c / ε so that each prototype gets the same share of the batch
    (equations 2, 3 and 5 of SwAV's paper):

    ``loss_swav`` = -½ mean (Σ_p q_t+k log p_t + Σ_p q_t log p_t+k).

    No gradient goes through q. After each step, prototypes are scaled to length 1. Batches of all ranks are assigned
    together, see `Objective.all_ranks`. Simplified for small pictures: two views, no smaller crops, no queue of earlier
    batches, layer normalisation, and prototypes that learn from the first step on. The second view is another
    observation of the episode, as in Proto-RL. Proto-RL predicts in one direction, with a separate head, and takes
    assignments from a momentum encoder.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        horizon: K ≥ 1, the largest gap.
        prototypes: P ≥ 1.
        feature_dim: size of z.
        hidden_dim: width of the MLP's hidden layer.
        temperature: τ > 0.
        epsilon: ε > 0; a smaller value brings an assignment closer to a single prototype.
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
        prototypes: int = 512,
        feature_dim: int = 128,
        hidden_dim: int = 256,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon, self.temperature, self.epsilon = horizon, temperature, epsilon
        self.window = Window(observations=(Gap(horizon),))
        self.in_keys, self.out_keys = ["observation", "future_observation"], ["loss_swav", "swav_agreement"]
        self.projection = nn.Sequential(
            FeatureLinear(encoder.repr_dim, hidden_dim),
            nn.LayerNorm(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, feature_dim),
        )
        self.projection.apply(orthogonal_init)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, feature_dim), dim=1))

    def after_step(self) -> None:
        super().after_step()
        with torch.no_grad():
            self.prototypes.copy_(F.normalize(self.prototypes, dim=1))

    def scores(self, view: Tensor) -> Tensor:
        """z · c of each prototype, (B, P), from features or a feature map."""
        return F.normalize(self.projection(view), dim=1) @ self.prototypes.T

    def losses(self, observation: Tensor, future_observation: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        scores = [self.scores(self.view(observation, offset=0)), self.scores(self.view(future_observation))]
        assigned = [self.assign(each.detach()) for each in scores]
        predicted = [(each / self.temperature).log_softmax(1) for each in scores]
        loss = -((assigned[1] * predicted[0]).sum(1) + (assigned[0] * predicted[1]).sum(1)).mean() / 2
        agreement = (assigned[1].argmax(1) == predicted[0].argmax(1)).float().mean()
        return {"loss_swav": loss, "swav_agreement": agreement}

    def assign(self, scores: Tensor) -> Tensor:
        """q (B, P) of scores (B, P), computed over all ranks."""
        everyone, first = gather(scores, self.all_ranks)
        return sinkhorn(everyone / self.epsilon)[first : first + len(scores)]


@torch.no_grad()
def sinkhorn(logits: Tensor) -> Tensor:
    """Assignments (B, P) near softmax(logits), whose rows sum to 1 and whose columns sum to about B / P."""
    log_q = logits
    for _ in range(ROUNDS):
        log_q = log_q - log_q.logsumexp(0, keepdim=True)
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
    return log_q.exp()
