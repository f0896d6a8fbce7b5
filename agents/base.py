"""What all agents are: an encoder, objectives on it, and the protocol `act`, `update`, `state_dict`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed
from tensordict import TensorDict
from torch import Tensor, nn

from rlrep import Objective, PixelEncoder, RandomShift
from rlrep.optimizers import adam

Metrics = dict[str, Tensor]


class Space(Protocol):
    """The part of a Gymnasium ``Box`` that agents read."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def soft_update(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target ← (1 - τ) target + τ online."""
    with torch.no_grad():
        torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """The mean over all ranks of torch.distributed, in one message; nothing without it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


class Agent(nn.Module):
    """Base of the agents: owns the encoder and the objectives, and steps the objectives.

    The objectives have an Adam of their own over the encoder and their heads: the encoder is stepped by two optimizers,
    as in TACO's reference. With `joint` they are a part of the critic's step instead: one encoding of the observation,
    one backward pass, one Adam.

    Under torch.distributed each rank updates on a batch of its own, and steps down the mean of the ranks' gradients.

    Args:
        encoder: the shared encoder.
        action_space: ``Box`` of one axis with values in [-1, 1].
        objectives: representation losses built around `encoder`.
        joint: update the objectives in the critic's step.
        lr: Adam's step size for the objectives.
        num_expl_steps: agent steps with uniformly random actions at the start.
        update_every_steps: agent steps per update.
        augment: the image augmentation; a random shift by 4 pixels if None.
    """

    encoder: PixelEncoder
    same_every_update = True  # the same operations, so that one CUDA graph stands for all updates

    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Space,
        objectives: Sequence[Objective],
        joint: bool,
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
        self.joint = joint
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        if objectives and not joint:
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

    def view(self, observation: Tensor) -> Tensor:
        """Features (B, repr_dim) of an augmented view of (B, F·C, H, W) uint8."""
        return self.encoder.encode_view(observation, self.augment)

    def step_encoder(
        self, name: str, loss: Tensor, batch: TensorDict, features: Tensor, next_features: Tensor | None = None
    ) -> Metrics:
        """One step of the optimizer `name`, which trains the encoder; with `joint` on the sum of `loss` and the
        objectives' losses, which share the encodings of `observation` and `next`."""
        metrics: Metrics = {}
        if self.joint and self.objectives:
            encoded = [(batch["observation"], features)]
            if next_features is not None:
                encoded.append((batch["next", "observation"], next_features))
            objective_loss, metrics = self.objective_loss(batch, encoded)
            loss = loss + objective_loss
        self.step(name, loss)
        return metrics

    def update_objectives(self, batch: TensorDict) -> Metrics:
        """One step on the unweighted sum of the objectives' losses, unless that is a part of the critic's."""
        if self.joint or not self.objectives:
            return {}
        loss, metrics = self.objective_loss(batch)
        self.step("objectives", loss)
        return metrics

    def objective_loss(
        self, batch: TensorDict, encoded: Sequence[tuple[Tensor, Tensor]] = ()
    ) -> tuple[Tensor, Metrics]:
        """The unweighted sum of the objectives' losses, and all they return, detached."""
        metrics: Metrics = {}
        for objective in self.objectives:
            metrics.update((objective(batch, encoded) if encoded else objective(batch)).items())
        loss = torch.stack([value for name, value in metrics.items() if name.startswith("loss_")]).sum()
        return loss, {name: value.detach() for name, value in metrics.items()}

    def step(self, name: str, loss: Tensor) -> None:
        """One step of the optimizer `name` down the gradient of `loss`, the mean over all ranks."""
        optimizer = self.optimizers[name]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=parameters)  # no others: the actor's loss reaches the critic too
        average_gradients(parameters)
        optimizer.step()

    def get_extra_state(self) -> dict[str, Any]:
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, optimizer in self.optimizers.items():
            # How Adam computes depends on the device and the path, which may be others than the saved agent's.
            own = {flag: optimizer.defaults[flag] for flag in ("foreach", "fused", "capturable")}
            groups = [group | own for group in state[name]["param_groups"]]
            optimizer.load_state_dict(state[name] | {"param_groups": groups})
