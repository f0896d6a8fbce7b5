"""VIP: value-implicit pre-training (arXiv 2210.00030)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import Momentum, Several
from rlrep.contrast import gather
from rlrep.encoders import FeatureLinear, PixelEncoder, orthogonal_init
from rlrep.objectives.base import Objective
from rlrep.window import Gap, Window


class VIP(Objective):
    """Makes feature distances equal the discounted steps from one observation to another; needs no actions.

    With z = W φ(x), the value V(x, g) = -‖z(x) - z(g)‖, the goal g = x_t+K, k in 0..K-1, and the reward r(x) = 0 at the
    goal, -1 elsewhere (equation 5 of the paper):

    ``loss_vip`` = (1 - γ) mean(-V(x_t, g)) + log( (1 - γᴷ) mean exp(V(x_t+k, g) - r(x_t+k) - γ V(x_t+k+1, g)) + γᴷ ).

    The first term pulls beginnings to their goals. The second, a step's temporal difference, pushes neighbours apart
    until a step costs 1: at the optimum, -V is 1 + γ + … + γ^(steps - 1). The mean in the second term is over all k and
    the rows of all ranks, see `Objective.all_ranks`; of each row it reads the first step, k = 0, and one later step,
    which counts for the K - 1 of them.

    Simplified for small pictures: all parts of an episode, from x_t to the goal, have K steps (if an episode really
    ends earlier, its last observation is the goal). Because K is small, the loss includes the steps at the goal,
    with exponent 0 and their share γᴷ of the discounted steps: without them nothing bounds the distances.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        horizon: K ≥ 2.
        feature_dim: size of z.
        discount: γ in [0, 1).
        augment: the image augmentation; a random shift by 4 pixels if None. Every observation has its own.

    Raises:
        ValueError: for numbers out of range.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        horizon: Several = 10,
        feature_dim: int = 50,
        discount: Momentum = 0.98,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon, self.discount = horizon, discount
        self.window = Window(observations=(1, Gap(horizon - 1), Gap(horizon - 1, plus=1), horizon))
        self.in_keys, self.out_keys = ["observation", ("sequence", "observation")], ["loss_vip"]
        self.state_projection = FeatureLinear(encoder.repr_dim, feature_dim, bias=False)
        self.state_projection.apply(orthogonal_init)

    def losses(self, observation: Tensor, others: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """The losses of beginnings (B, C, H, W), and of what follows each (B, 4, C, H, W): the next observation, two
        consecutive later ones, and the goal."""
        start = self.state_projection(self.view(observation, offset=0))
        first, before, after, goal = (self.state_projection(self.view(each)) for each in others.unbind(1))

        def difference(here: Tensor, there: Tensor, pixels: Tensor) -> Tensor:
            under_way = (pixels != others[:, 3]).flatten(1).any(1).float()
            return value(here, goal) + under_way - self.discount * value(there, goal)

        both = torch.stack([difference(start, first, observation), difference(before, after, others[:, 1])], 1)
        both, _ = gather(both, self.all_ranks)
        stays = self.discount**self.horizon
        whole = (1 - stays) / self.horizon / len(both)
        # Python's numbers, because a tensor of them would be copied from the host at each update.
        shares = [math.log(part * whole) if part * whole else -math.inf for part in (1, self.horizon - 1)]
        steps = [column.logsumexp(0) + share for column, share in zip(both.unbind(1), shares, strict=True)]
        at_goal = torch.full_like(steps[0], math.log(stays) if stays else -math.inf)
        apart = torch.stack([*steps, at_goal]).logsumexp(0)
        return {"loss_vip": -(1 - self.discount) * value(start, goal).mean() + apart}


def value(state: Tensor, goal: Tensor) -> Tensor:
    """-‖state - goal‖ of each row, (B, D) to (B,)."""
    return -torch.linalg.vector_norm(state - goal, dim=1)
