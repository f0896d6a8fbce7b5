"""What all agents are: an encoder, objectives on it, and the protocol `act`, `update`, `state_dict`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from rlrep import Objective, PixelEncoder, RandomShift

Metrics = dict[str, Tensor]


class Space(Protocol):
    """The part of a Gymnasium ``Box`` that agents read."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Adam:
    """Adam, fused into one kernel where there is one."""
    parameters = list(parameters)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    return torch.optim.Adam(parameters, lr=lr, fused=fused)


def soft_update(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target ← (1 - τ) target + τ online."""
    with torch.no_grad():
        torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)


class Agent(nn.Module):
    """Base of the agents: owns the encoder and the objectives, and steps the objectives.

    The objectives have an Adam of their own over the encoder and their heads: the encoder is stepped by two optimizers,
    as in TACO's reference.

    Args:
        encoder: the shared encoder.
        action_space: ``Box`` of one axis with values in [-1, 1].
        objectives: representation losses built around `encoder`.
        lr: Adam's step size for the objectives.
        num_expl_steps: agent steps with uniformly random actions at the start.
        update_every_steps: agent steps per update.
        augment: the image augmentation; a random shift by 4 pixels if None.
    """

    encoder: PixelEncoder

    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Space,
        objectives: Sequence[Objective],
        lr: float,
        num_expl_steps: int,
        update_every_steps: float,
        augment: RandomShift | None,
    ) -> None:
        super().__init__()
        if len(action_space.shape) != 1:
            raise ValueError(f"{type(self).__name__} needs continuous actions in one axis, got {action_space}")
        bounds = [getattr(action_space, name, bound) for name, bound in (("low", -1), ("high", 1))]
        if not (np.all(bounds[0] == -1) and np.all(bounds[1] == 1)):
            raise ValueError(
                f"{type(self).__name__} acts in [-1, 1], got {action_space}: wrap the environment in "
                f"gymnasium.wrappers.RescaleAction(env, -1, 1)"
            )
        for name, value in dict(lr=lr, update_every_steps=update_every_steps).items():
            if value <= 0:
                raise ValueError(f"{name} must be greater than 0, got {value}")
        horizons = {objective.horizon for objective in objectives if objective.horizon}
        if len(horizons) > 1:
            raise ValueError(f"all objectives read one batch and need one horizon, got {sorted(horizons)}")
        if any(objective.encoder is not encoder for objective in objectives):
            raise ValueError("every objective must be built around the agent's own encoder")
        names = Counter(name for objective in objectives for name in objective.out_keys)
        shared = sorted(name for name, count in names.items() if count > 1)
        if shared:
            raise ValueError(
                f"two objectives return {' and '.join(shared)}: leave one of them out (TACO holds CURL unless built "
                f"with curl=False)"
            )
        self.encoder = encoder
        self.objectives = nn.ModuleList(objectives)
        self.horizon = max(horizons, default=0)
        self.action_dim = action_space.shape[0]
        self.augment = RandomShift(4) if augment is None else augment
        self.num_expl_steps, self.update_every_steps = num_expl_steps, update_every_steps
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        if objectives:
            self.optimizers["objectives"] = adam(self.objectives.parameters(), lr)

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    @torch.no_grad()
    def act(self, observation: np.ndarray, step: int, eval_mode: bool = False) -> np.ndarray:
        """Actions for a batch of observations.

        Args:
            observation: (N, F·C, H, W) uint8.
            step: agent steps taken so far; schedules follow it.
            eval_mode: the best action rather than an exploring one.

        Returns:
            (N, A) float32 in [-1, 1].
        """
        if step < self.num_expl_steps and not eval_mode:
            return torch.empty(len(observation), self.action_dim).uniform_(-1, 1).numpy()
        features = self.encoder(torch.from_numpy(observation).to(self.device))
        return self.select_action(features, step, eval_mode).cpu().numpy()

    def select_action(self, features: Tensor, step: int, eval_mode: bool) -> Tensor:
        """(N, repr_dim) features to (N, A) actions in [-1, 1]."""
        raise NotImplementedError

    def update(self, batch: TensorDict, step: int) -> Metrics:
        """One gradient step of everything, on a batch of the replay; the metrics stay tensors on the device."""
        raise NotImplementedError

    def update_objectives(self, batch: TensorDict) -> Metrics:
        """One step on the unweighted sum of the objectives' losses."""
        metrics: Metrics = {}
        for objective in self.objectives:
            metrics.update(objective(batch).items())
        losses = [value for name, value in metrics.items() if name.startswith("loss_")]
        if losses:
            self.step("objectives", torch.stack(losses).sum())
        return {name: value.detach() for name, value in metrics.items()}

    def step(self, name: str, loss: Tensor) -> None:
        """One step of the optimizer `name` down the gradient of `loss`."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def get_extra_state(self) -> dict[str, Any]:
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])
