"""The base of all agents: an encoder, objectives on it, and the protocol `act`, `update`, `state_dict`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed
from tensordict import TensorDict
from torch import Tensor, nn

from rlrep import Objective, Objectives, PixelEncoder, RandomShift, Window
from rlrep.actions import action_spec
from rlrep.arguments import checked_numbers
from rlrep.bounds import Count
from rlrep.contrast import is_distributed
from rlrep.optimizers import adam

Metrics = dict[str, Tensor]


class Space(Protocol):
    """The part of a Gymnasium ``Box`` or ``Discrete`` that agents read."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class Replay(Protocol):
    """The data that agents learn from: a `rlrep.ReplayBuffer`, finished data, or a `rlrep.replay.Mixture` of both."""

    @property
    def prioritized(self) -> bool: ...

    def sample(self, batch_size: int, window: Window | None = None) -> TensorDict: ...

    def update_priority(self, index: Tensor, priority: Tensor) -> None: ...

    def mean_absolute_reward(self) -> float: ...


def mean_over_ranks(value: float, device: torch.device) -> float:
    """The mean of a number over all ranks of torch.distributed; itself without it."""
    if not is_distributed():
        return value
    mean = torch.tensor(value, device=device)
    torch.distributed.all_reduce(mean)
    return mean.item() / torch.distributed.get_world_size()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Averages gradients over all ranks of torch.distributed, in one message; without it, does nothing."""
    if not is_distributed():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


class Agent(nn.Module):
    """Base of the agents: owns the encoder and the objectives, and steps the objectives.

    A subclass says in `own_window` what it reads around a step, and computes one update of everything except the
    objectives in `learn`. The objectives have a separate Adam for the encoder and their heads: two optimizers step the
    encoder, as in TACO's reference. With `joint`, the objectives are part of the critic's step: one encoding of the
    observation, one backward pass, one Adam.

    Under torch.distributed, each rank draws its own batch, and steps along the mean of the ranks' gradients.

    Args:
        encoder: the shared encoder.
        action_space: ``Box`` of one axis with values in [-1, 1].
        objectives: representation losses built around `encoder`.
        joint: update the objectives in the critic's step, on the same encodings, rather than in a separate step.
        lr: Adam's step size.
        batch_size: rows of a batch, on each rank.
        n_step: n of the critic's n-step target.
        num_expl_steps: agent steps with uniformly random actions at the start.
        update_every_steps: agent steps per update.
        augment: the image augmentation; a random shift by 4 pixels if None.

    Attributes:
        window: what `learn` and the objectives that share its batch read around a step.
        own_batches: the windows of the separate batches of objectives, by batch size.
        bodies: the methods that update on batches; a CUDA graph can replay each of them.
        same_every_update: whether each call of a body runs the same operations, so that one graph replays all calls.
        takes_choices: whether its actions may be ``Discrete``.
        own_objectives: names of the objectives that it always needs.
        initial_weights: initialises a new encoder, for ``Module.apply``; None leaves it unchanged.
        waits_for_exploration: whether the first update comes after `num_expl_steps`.
        prioritized: whether it samples by priority, and so needs a prioritized replay.

    Raises:
        ValueError: for an invalid action space or number, and objectives that cannot be combined.
    """

    bodies: tuple[str, ...] = ("learn", "step_objectives")
    same_every_update = True
    takes_choices = False
    own_objectives: tuple[str, ...] = ()
    initial_weights: Callable[[nn.Module], None] | None = None
    prioritized = False
    waits_for_exploration = False
    encoder: PixelEncoder

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Space,
        objectives: Sequence[Objective] = (),
        *,
        joint: bool = False,
        lr: float = 1e-4,
        batch_size: int = 256,
        n_step: int = 3,
        num_expl_steps: Count = 2000,
        update_every_steps: float = 2,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__()
        self.discrete = hasattr(action_space, "n") and self.takes_choices
        if len(action_space.shape) != 1 and not self.discrete:
            choices = " or a Discrete space" * self.takes_choices
            raise ValueError(f"{type(self).__name__} needs continuous actions in one axis{choices}, got {action_space}")
        bounds = [getattr(action_space, name, bound) for name, bound in (("low", -1), ("high", 1))]
        if not (np.all(bounds[0] == -1) and np.all(bounds[1] == 1)):
            raise ValueError(
                f"{type(self).__name__} acts in [-1, 1], got {action_space}: wrap the environment in "
                f"gymnasium.wrappers.RescaleAction(env, -1, 1)"
            )
        if any(objective.encoder is not encoder for objective in objectives):
            raise ValueError("every objective must be built around the agent's own encoder")
        self.encoder = encoder
        self.objectives = Objectives(objectives)
        if joint and self.objectives.own_batches:
            own = [each for each in self.objectives if each.batch_size]
            named = ", ".join(f"{type(each).__name__} of {each.batch_size}" for each in own)
            raise ValueError(
                f"update=joint shares one batch, and objectives have a batch_size of their own ({named}): give "
                f"update=separate (joint=False in Python), or leave batch_size out"
            )
        self.window = self.own_window(n_step).join(self.objectives.window).with_n_step(n_step)
        self.own_batches = {size: window.with_n_step(n_step) for size, window in self.objectives.own_batches.items()}
        self.action_dim, _ = action_spec(action_space)
        self.augment = RandomShift(4) if augment is None else augment
        self.joint, self.lr, self.batch_size, self.n_step = joint, lr, batch_size, n_step
        self.num_expl_steps, self.update_every_steps = num_expl_steps, update_every_steps
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        if objectives and not joint:
            self.optimizers["objectives"] = adam(self.objectives.parameters(), lr)

    def own_window(self, n_step: int) -> Window:
        """What the agent itself reads around a step, without its objectives."""
        return Window(n_step)

    def check(self, replay: Any, source: str = "this replay") -> None:
        """Refuses a replay that can't serve the agent or one of its objectives, before the first batch.

        Args:
            replay: a `rlrep.ReplayBuffer`, finished data, or a `rlrep.replay.Mixture`.
            source: a name for the replay, for the message.

        Raises:
            ValueError: naming the reader, the window and the missing entry.
        """
        if self.prioritized and not replay.prioritized:
            raise ValueError(
                f"{type(self).__name__} draws by priorities, and {source} draws uniformly: build a ReplayBuffer with "
                f"prioritized=True, or the agent with prioritized=False (agent.prioritized=false)"
            )
        for name, window, size in self.learners:
            replay.check(window, name, source, size)

    @property
    def learners(self) -> list[tuple[str, Window, int]]:
        """Each reader with its window and batch size: first each alone, then those that share a batch."""
        name = type(self).__name__
        found = [(name, self.own_window(self.n_step), self.batch_size)]
        for objective in self.objectives:
            size = objective.batch_size or self.batch_size
            found.append((type(objective).__name__, objective.window.with_n_step(self.n_step), size))
        found.append((f"the batch that {name} and its objectives share", self.window, self.batch_size))
        own = self.own_batches.items()
        return found + [(f"the objectives' batch of {size} rows", window, size) for size, window in own]

    @property
    def replay_options(self) -> dict[str, Any]:
        """Keyword arguments of the `rlrep.ReplayBuffer` that it needs."""
        return {}

    @property
    def device(self) -> torch.device:
        """The encoder's device."""
        return next(self.encoder.parameters()).device

    @torch.no_grad()
    def act(self, observation: np.ndarray, step: int, eval_mode: bool = False) -> np.ndarray:
        """Actions for a batch of observations.

        Args:
            observation: (N, F·C, H, W) uint8.
            step: agent steps taken so far; schedules follow it.
            eval_mode: take the best action, without exploration.

        Returns:
            (N, A) float32 in [-1, 1], or (N,) int64.

        Raises:
            ValueError: for observations that are not uint8, or not a batch.
        """
        if observation.dtype != np.uint8:
            raise ValueError(
                f"observations must be uint8 pixels in 0..255, got {observation.dtype}: multiply floats in [0, 1] by "
                f"255, round them and convert them"
            )
        if observation.ndim != 4:
            raise ValueError(
                f"observations must be a batch (N, F·C, H, W), got {observation.shape}: of a single one, give "
                f"observation[None]"
            )
        if step < self.num_expl_steps and not eval_mode:
            if self.discrete:
                return torch.randint(self.action_dim, (len(observation),)).numpy()
            return torch.empty(len(observation), self.action_dim).uniform_(-1, 1).numpy()
        features = self.encoder(torch.from_numpy(observation).to(self.device))
        return self.select_action(features, step, eval_mode).cpu().numpy()

    def select_action(self, features: Tensor, step: int, eval_mode: bool) -> Tensor:
        """Actions (N, A) in [-1, 1], or discrete ones (N,), from features (N, repr_dim)."""
        raise NotImplementedError

    def update(self, replay: Replay, step: int) -> Metrics:
        """One gradient step of all parts, on batches from the replay.

        Args:
            replay: the data to learn from, on the agent's device.
            step: agent steps taken so far; schedules follow it.

        Returns:
            Losses and metrics, which stay tensors on the device.
        """
        batch = replay.sample(self.batch_size, self.window)
        metrics = self.learn(batch, step)
        if self.joint or not self.objectives:
            return metrics
        return metrics | self.step_objectives(self.objectives_batches(batch, replay), step)

    def objectives_batches(self, shared: TensorDict, replay: Replay) -> TensorDict:
        """The batches of `step_objectives`: the shared batch, and a separate one for each size in `own_batches`."""
        own = {str(size): replay.sample(size, window) for size, window in self.own_batches.items()}
        return TensorDict({"shared": shared, **own})

    def learn(self, batch: TensorDict, step: int) -> Metrics:
        """One step of all parts except the objectives (with `joint`, including them) on a batch of `window`."""
        raise NotImplementedError

    def step_objectives(self, batches: TensorDict, step: int) -> Metrics:
        """One step on the sum of the objectives' losses.

        Args:
            batches: the agent's batch as `shared`, and the separate batches of objectives, by batch size.
            step: not used; all bodies of an update have these two arguments.
        """
        own = {size: batches[str(size)] for size in self.own_batches}
        loss, metrics = self.objectives(batches["shared"], own=own)
        self.step("objectives", loss)
        self.objectives.after_step()
        return metrics

    def view(self, observation: Tensor) -> Tensor:
        """Features of an augmented view of (B, F·C, H, W) uint8, for a `projection`: (B, repr_dim) float32, or the
        encoder's feature map."""
        return self.encoder.encode_view(observation, self.augment)

    def step_encoder(
        self, name: str, loss: Tensor, batch: TensorDict, features: Tensor, next_features: Tensor | None = None
    ) -> Metrics:
        """One step of the optimizer `name`, which trains the encoder; with `joint` on the sum of `loss` and the
        objectives' losses, which share the encodings of `observation` and `next`."""
        if not (self.joint and self.objectives):
            self.step(name, loss)
            return {}
        encoded = {0: features} | ({} if next_features is None else {self.n_step: next_features})
        objective_loss, metrics = self.objectives(batch, encoded)
        self.step(name, loss + objective_loss)
        self.objectives.after_step()
        return metrics

    def step(self, name: str, loss: Tensor, max_norm: float = 0.0) -> None:
        """One step of the optimizer `name` on `loss`. Its gradient is averaged over all ranks, and its norm is clipped
        to `max_norm` unless that is 0."""
        optimizer = self.optimizers[name]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for parameter in parameters:
            parameter.grad = None
        loss.backward(inputs=parameters)  # only these parameters: the actor's loss reaches the critic too
        average_gradients(parameters)
        if max_norm:
            nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()

    def trained_with_encoder(self, *parts: nn.Module) -> list[nn.Parameter]:
        """The modules that the encoder's optimizer steps: the encoder, `parts`, and with `joint` the objectives."""
        modules = [self.encoder, *parts, *(self.objectives if self.joint else ())]
        return [parameter for module in modules for parameter in module.parameters()]

    def get_extra_state(self) -> dict[str, Any]:
        """The entries of ``state_dict`` besides parameters: the optimizers' states."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restores the optimizers' states in ``load_state_dict``."""
        for name, optimizer in self.optimizers.items():
            # Adam's implementation depends on the device and the path, which may differ from the saved agent's.
            own = {flag: optimizer.defaults[flag] for flag in ("foreach", "fused", "capturable")}
            groups = [group | own for group in state[name]["param_groups"]]
            optimizer.load_state_dict(state[name] | {"param_groups": groups})
