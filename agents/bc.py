"""Behaviour cloning from pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from agents.base import Agent, Metrics, Space
from agents.drqv2 import Actor, add_noise
from agents.schedule import parse_schedule
from rlrep import Objective, PixelEncoder, RandomShift
from rlrep.optimizers import adam


class BC(Agent):
    """Imitates the data's actions, with any objectives on its encoder.

    One update, f = encoder(shifted pixels):

    - actor and encoder: ‖μ(f) - a‖², the mean over batch and dimensions;
    - objectives: the sum of their losses, with an Adam of its own (with `joint`, added to the actor's loss).

    Args:
        encoder: the shared encoder.
        action_space: ``Box`` of one axis with values in [-1, 1].
        objectives: representation losses built around `encoder`.
        joint: update the objectives in the actor's step, on the same encodings, rather than in a step of their own.
        feature_dim: size of the trunk's output.
        hidden_dim: width of the actor's hidden layers.
        lr: Adam's step size.
        stddev_schedule: exploration noise where it acts online, see `parse_schedule`.
        num_expl_steps: agent steps with uniformly random actions at the start, online.
        update_every_steps: agent steps per update, online.
        augment: the image augmentation; a random shift by 4 pixels if None.
    """

    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Space,
        objectives: Sequence[Objective] = (),
        *,
        joint: bool = False,
        feature_dim: int = 50,
        hidden_dim: int = 1024,
        lr: float = 1e-4,
        stddev_schedule: str | float = 0.1,
        num_expl_steps: int = 2000,
        update_every_steps: float = 2,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, action_space, objectives, joint, lr, num_expl_steps, update_every_steps, augment)
        self.stddev = parse_schedule(stddev_schedule)
        self.actor = Actor(encoder.repr_dim, self.action_dim, feature_dim, hidden_dim).to(self.device)
        objective_parameters = self.objectives.parameters() if joint else ()
        self.optimizers["actor"] = adam([*encoder.parameters(), *self.actor.parameters(), *objective_parameters], lr)

    def select_action(self, features: Tensor, step: int, eval_mode: bool) -> Tensor:
        mean = self.actor(features)
        return mean if eval_mode else add_noise(mean, self.stddev(step), clip=None)

    def update(self, batch: TensorDict, step: int) -> Metrics:
        features = self.view(batch["observation"])
        loss = F.mse_loss(self.actor(features), batch["action"])
        metrics = self.step_encoder("actor", loss, batch, features)
        return metrics | {"actor_loss": loss.detach()} | self.update_objectives(batch)
