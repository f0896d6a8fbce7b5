"""Behaviour cloning from pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from rlrep import Objective, PixelEncoder, Window
from rlrep.agents.base import Agent, Metrics, Space
from rlrep.agents.drqv2 import Actor, add_noise
from rlrep.agents.schedule import parse_schedule
from rlrep.arguments import checked_numbers
from rlrep.optimizers import adam


class BC(Agent):
    """Imitates the data's actions, with any objectives on its encoder.

    One update, f = encoder(shifted pixels):

    - actor and encoder: ‖μ(f) - a‖², the mean over batch and dimensions;
    - objectives: the sum of their losses, with a separate Adam (with `joint`, added to the actor's loss).

    Args:
        encoder: the shared encoder.
        action_space: ``Box`` of one axis with values in [-1, 1].
        objectives: representation losses built around `encoder`.
        feature_dim: size of the trunk's output.
        hidden_dim: width of the actor's hidden layers.
        stddev_schedule: exploration noise if it acts online, see `parse_schedule`.
        options: of `Agent`.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Space,
        objectives: Sequence[Objective] = (),
        *,
        feature_dim: int = 50,
        hidden_dim: int = 1024,
        stddev_schedule: str | float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(encoder, action_space, objectives, **options)
        self.stddev = parse_schedule(stddev_schedule)
        self.actor = Actor(encoder.repr_dim, self.action_dim, feature_dim, hidden_dim).to(self.device)
        self.optimizers["actor"] = adam(self.trained_with_encoder(self.actor), self.lr)

    def own_window(self, n_step: int) -> Window:
        """The observation and its action."""
        return Window(actions=1)

    def select_action(self, features: Tensor, step: int, eval_mode: bool) -> Tensor:
        mean = self.actor(features)
        return mean if eval_mode else add_noise(mean, self.stddev(step), clip=None)

    def learn(self, batch: TensorDict, step: int) -> Metrics:
        features = self.view(batch["observation"])
        loss = F.mse_loss(self.actor(features), batch["action"])
        metrics = self.step_encoder("actor", loss, batch, features)
        return metrics | {"actor_loss": loss.detach()}
