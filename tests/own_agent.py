"""A user-defined agent, which the package does not know: its import path is `tests.own_agent:Own`."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from rlrep import Objective, PixelEncoder, Window
from rlrep.agents import MRQ
from rlrep.agents.base import Agent, Metrics, Space
from rlrep.encoders import flat, mlp
from rlrep.optimizers import adam


class Own(Agent):
    """Predicts the actions that it has taken, and repeats them."""

    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Space,
        objectives: tuple[Objective, ...] = (),
        *,
        widths: list[int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(encoder, action_space, objectives, **options)
        self.policy = mlp(encoder.repr_dim, widths or [8], self.action_dim)
        self.optimizers["policy"] = adam(self.trained_with_encoder(self.policy), self.lr)

    def own_window(self, n_step: int) -> Window:
        return Window(actions=2, rewards=2)

    def select_action(self, features: Tensor, step: int, eval_mode: bool) -> Tensor:
        return self.policy(features).tanh()

    def learn(self, batch: TensorDict, step: int) -> Metrics:
        features = self.view(batch["observation"])
        error = F.mse_loss(self.policy(flat(features)).tanh(), batch["action_sequence"][:, 1])
        metrics = self.step_encoder("policy", error * batch["sequence", "valid"].float().mean(), batch, features)
        return metrics | {"policy_loss": error.detach()}


class OwnMRQ(MRQ):
    """One that waits for its exploration."""
