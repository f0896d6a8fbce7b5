"""A user-defined objective, which the package does not know: its import path is `tests.own_objective:Own`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlrep import Gap, Objective, PixelEncoder, RandomShift, Window
from rlrep.encoders import mlp


class Own(Objective):
    """Predicts a momentum encoder's features of the next observation and of a random one."""

    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        horizon: int = 2,
        widths: list[int] | None = None,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.horizon = horizon
        self.window = Window(observations=(1, Gap(horizon)))
        self.in_keys, self.out_keys = ["observation", ("sequence", "observation")], ["loss_own", "own_steps"]
        self.target = self.momentum_copy(encoder, 0.9)
        self.predictor = mlp(encoder.repr_dim, widths or [8], encoder.repr_dim)
        self.register_buffer("steps", torch.zeros(()))

    def losses(self, observation: Tensor, others: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        with torch.no_grad():
            targets = [self.encode(others[:, i], encoder=self.target) for i in range(2)]
        prediction = self.predictor(self.encode(observation, offset=0))
        loss = sum(F.mse_loss(prediction, target) for target in targets)
        assert isinstance(loss, Tensor)
        return {"loss_own": loss, "own_steps": self.steps.clone()}

    def after_step(self) -> None:
        super().after_step()
        self.steps += 1
