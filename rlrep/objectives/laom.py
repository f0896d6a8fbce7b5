"""LAOM: latent actions despite distractors, by predicting features (arXiv 2502.00379)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlrep.actions import action_spec
from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import Momentum, NonNegative, Share
from rlrep.encoders import PixelEncoder, mlp, orthogonal_init, projection
from rlrep.objectives.base import Objective
from rlrep.window import Gap, Window

SPREAD = 2654435769  # 2³² over the golden ratio: multiples of it, modulo 2³², are spread evenly
RANGE = 2**32


class LAOM(Objective):
    """Predicts the momentum encoder's features of the next observation from the current one and a latent action. The
    latent action is computed from the current observation and one k steps later.

    With s = projection(φ(x)), the latent action u_t = I(s_t, s_t+k), k in 1..K, the forward model F and the momentum
    copy s̄ (section 4 of the paper, a labelled action's head W included):

    - ``loss_laom`` = mean ‖F(s_t, u_t) - s̄_t+1‖², a mean over dimensions too;
    - ``loss_laom_labels`` = ω · the squared error of W u_t against a_t, or the cross-entropy of a discrete action, the
      mean over the rows that have a label; only with `labelled`, which needs data with actions.

    A row has a label if the fractional part of its `index` (the row's place in the store) times the golden ratio is
    below `labelled`. So every run labels the same rows of the same data, and about the same share of any stretch of
    rows. Rows with an index below 0 (a mixture's data) have no label.

    Simplified for small pictures: s is a vector rather than a map, I and F are MLPs with one hidden layer, and u has
    1,024 dimensions, where the paper has 8,192.

    Args:
        encoder: the shared encoder.
        action_space: Gymnasium ``Box`` (one axis) or ``Discrete``; used only with `labelled`.
        horizon: K ≥ 1.
        latent_action_dim: size of u.
        feature_dim: size of s.
        hidden_dim: width of both models' hidden layer.
        momentum: m in [0, 1) of the copy: copy ← m copy + (1 - m) online, after each step.
        labelled: share of the rows whose actions are read, in [0, 1]; 0 reads none, and serves video.
        label_weight: ω ≥ 0.
        augment: the image augmentation; a random shift by 4 pixels if None. Every observation has its own.

    Raises:
        ValueError: for numbers out of range, and for `labelled` without an action space.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        horizon: int = 10,
        latent_action_dim: int = 1024,
        feature_dim: int = 256,
        hidden_dim: int = 256,
        momentum: Momentum = 0.999,
        labelled: Share = 0.0,
        label_weight: NonNegative = 0.01,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        if labelled and action_space is None:
            raise ValueError("labelled actions need data recorded with actions: leave out labelled for video alone")
        self.horizon, self.labelled, self.label_weight = horizon, labelled, label_weight
        self.window = Window(observations=(1, Gap(horizon)), actions=1 if labelled else 0)
        self.in_keys = ["observation", ("sequence", "observation"), *(["action", "index"] if labelled else [])]
        self.out_keys = ["loss_laom", *(["loss_laom_labels"] if labelled else [])]
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        self.inverse = mlp(2 * feature_dim, [hidden_dim], latent_action_dim)
        self.predictor = mlp(feature_dim + latent_action_dim, [hidden_dim], feature_dim)
        action_dim, self.discrete = action_spec(action_space) if labelled else (0, False)
        self.action_head = mlp(latent_action_dim, [], action_dim) if labelled else None
        for part in (self.state_projection, self.inverse, self.predictor, self.action_head):
            if part is not None:
                part.apply(orthogonal_init)
        self.target_encoder = self.momentum_copy(encoder, momentum)
        self.target_projection = self.momentum_copy(self.state_projection, momentum)

    @classmethod
    def reads_actions(cls, options: Mapping[str, Any]) -> bool:
        return bool(options.get("labelled"))

    def latent_action(self, state: Tensor, later: Tensor) -> Tensor:
        """u (B, latent_action_dim) from states (B, feature_dim) now and some steps later."""
        return self.inverse(torch.cat([state, later], dim=1))

    def losses(  # type: ignore[override]
        self, observation: Tensor, others: Tensor, action: Tensor | None = None, index: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Of observations (B, C, H, W), the next and a later one (B, 2, C, H, W), and of each row its action, (B, A) or
        (B,), and its place in the store (B,)."""
        following, later = others.unbind(1)
        with torch.no_grad():
            target = self.target_projection(self.view(following, encoder=self.target_encoder))
        state = self.state_projection(self.view(observation, offset=0))
        latent = self.latent_action(state, self.state_projection(self.view(later)))
        prediction = self.predictor(torch.cat([state, latent], dim=1))
        out = {"loss_laom": F.mse_loss(prediction, target)}
        if self.action_head is not None and action is not None and index is not None:
            error = self.action_error(self.action_head(latent), action)
            has_label = labelled_rows(index, self.labelled)
            mean = torch.where(has_label, error, 0).sum() / has_label.sum().clamp(min=1)
            out["loss_laom_labels"] = self.label_weight * mean
        return out

    def action_error(self, prediction: Tensor, action: Tensor) -> Tensor:
        """Of each row, (B,)."""
        if self.discrete:
            return F.cross_entropy(prediction, action.long(), reduction="none")
        return (prediction - action).square().mean(1)


def labelled_rows(index: Tensor, share: float) -> Tensor:
    """(B,) bool of rows by their place in the store, (B,) int64: which of them have a label, see `LAOM`."""
    return (index >= 0) & (index * SPREAD % RANGE < share * RANGE)
