"""Objectives beside TorchRL's loss modules, on batches of TorchRL's own replay buffer.

    replay = ReplayBuffer(storage=..., sampler=SliceSampler(slice_len=3, end_key=("next", "done")), batch_size=192)
    auxiliary = ObjectiveLoss(TACO(encoder, env.action_space, horizon=3), slice_len=3)
    batch = replay.sample()
    losses = dqn_loss(batch).update(auxiliary(batch))  # adds loss_taco, loss_curl, loss_reward and metrics
    sum(value for name, value in losses.items() if name.startswith("loss")).backward()
    optimizer.step()
    auxiliary.after_step()  # moves momentum copies

The agent's loss reads every row of the batch as a transition. The objective reads the windows in the batch's slices,
which are consecutive steps of one episode.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from rlrep.actions import ActionEncoder
from rlrep.arguments import checked_numbers
from rlrep.bounds import Share
from rlrep.objectives.base import Objective
from rlrep.window import ANY_N_STEP, Gap, Offset, Window

__all__ = ["ObjectiveLoss"]

TOLERANCE = 1e-5  # of rounding, where actions at a bound are scaled


class ObjectiveLoss(TensorDictModuleBase):
    """An objective that reads TorchRL's slices and returns its losses by the convention of TorchRL's ``LossModule``:
    entries named ``loss_*`` are scalars to minimise, the others detached metrics.

    Args:
        objective: of `rlrep`, around the encoder that the agent uses.
        slice_len: T of the `SliceSampler`, at least the span K of the objective's window. A slice gives T - K + 1
            windows, so K is the cheapest.
        pixels: key of the observations, (F·C, H, W) uint8.
        discount: γ of the reward that a window sums.
        action_space: the space of continuous actions, which are scaled to [-1, 1] for objectives: a Gymnasium ``Box``,
            or TorchRL's ``env.action_spec``. None for actions that are already in [-1, 1], or discrete.
        agent: TorchRL's loss module of the agent, to check that it holds the same encoder.

    Raises:
        ValueError: for an `agent` that does not hold the encoder's parameters, for a slice that is shorter than the
            objective's window, an objective with its own batch size, a discount out of [0, 1], or an action space
            without finite bounds.
    """

    @checked_numbers
    def __init__(
        self,
        objective: Objective,
        slice_len: int,
        pixels: NestedKey = "pixels",
        discount: Share = 0.99,
        action_space: Any = None,
        agent: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if agent is not None:
            check_shared(objective.encoder, agent)
        check_slice_len(slice_len, objective.window)
        if objective.batch_size is not None:
            raise ValueError(
                f"{type(objective).__name__} was built with batch_size={objective.batch_size}, and here TorchRL's "
                f"replay buffer draws the batch: leave batch_size out"
            )
        self.objective, self.slice_len, self.pixels, self.discount = objective, slice_len, pixels, discount
        self.scale = None if action_space is None else Scale(action_space)
        readers = [each for each in objective.modules() if isinstance(each, ActionEncoder) and each.discrete]
        self.choices = min((each.action_dim for each in readers), default=None)
        self.in_keys = [pixels, "action", *(("next", key) for key in (pixels, "reward", "done", "terminated"))]
        self.out_keys = list(objective.out_keys)

    def forward(self, tensordict: TensorDict) -> TensorDict:
        """The objective's losses and metrics, without batch dimensions.

        Args:
            tensordict: of a `ReplayBuffer` with a `SliceSampler`: batch size (B·T,) or (B, T).

        Raises:
            KeyError: for a missing entry.
            ValueError: for observations of another type or shape than the encoder's, a batch without slices, slices
                that cross an episode's end, and actions outside the action space.
        """
        shape = self.objective.encoder.observation_shape
        window, choices = self.objective.window, self.choices
        found = windows(tensordict, self.slice_len, window, self.pixels, self.discount, self.scale, choices)
        if found["observation"].shape[1:] != shape:
            raise ValueError(
                f"the encoder reads observations of shape {shape}, {self.pixels!r} holds "
                f"{tuple(found['observation'].shape[1:])}: build it with the shape of the environment's observations, "
                f"which must have the channels first (TorchRL's PermuteTransform((-1, -3, -2)) puts them there)"
            )
        return self.objective(found)

    def after_step(self) -> None:
        """Moves momentum copies; call it after each step of the optimizer."""
        self.objective.after_step()


def check_shared(encoder: nn.Module, agent: nn.Module) -> None:
    """Refuses an agent's loss that trains other parameters than the encoder's.

    Raises:
        ValueError: saying what to do.
    """
    known = set(map(id, agent.parameters()))
    if any(id(parameter) not in known for parameter in encoder.parameters()):
        raise ValueError(
            f"{type(agent).__name__} does not hold the objective's encoder. Losses with several critics, such as "
            f"SACLoss, train new copies of a critic's parameters: put the encoder into the actor as well, and give "
            f"separate_losses=True"
        )


class Scale(nn.Module):
    """Continuous actions from the bounds of their space to [-1, 1].

    Args:
        action_space: with `low` and `high`: a Gymnasium ``Box``, or TorchRL's ``Bounded``.

    Raises:
        ValueError: without finite bounds.
    """

    low: Tensor
    high: Tensor

    def __init__(self, action_space: Any) -> None:
        super().__init__()
        for name in ("low", "high"):
            bound = torch.as_tensor(getattr(action_space, name, torch.nan), dtype=torch.float32)
            if bound.ndim > 1:  # of several environments side by side
                rows = bound.flatten(0, -2)
                bound = rows[0] if (rows == rows[0]).all() else bound.new_tensor(torch.nan)
            if not bound.isfinite().all():
                raise ValueError(
                    f"actions are scaled from a space with finite bounds, equal in all environments, got {action_space}"
                )
            self.register_buffer(name, bound, persistent=False)
        if not (self.low < self.high).all():
            raise ValueError(f"actions are scaled from a space whose bounds differ, got {action_space}")

    def forward(self, action: Tensor) -> Tensor:
        if self.low.ndim and action.shape[-1] != self.low.shape[-1]:
            raise ValueError(f"an action has {action.shape[-1]} numbers, and one of action_space {self.low.shape[-1]}")
        low, high = self.low.to(action.device), self.high.to(action.device)
        return 2 * (action - low) / (high - low) - 1


def windows(
    tensordict: TensorDict,
    slice_len: int,
    window: Window,
    pixels: NestedKey = "pixels",
    discount: float = 0.99,
    scale: Scale | None = None,
    choices: int | None = None,
) -> TensorDict:
    """All windows in slices of consecutive steps, under `rlrep`'s keys.

    Args:
        tensordict: of batch size (B·T,) or (B, T), with T = `slice_len`.
        window: the objective's window; with `ANY_N_STEP`, the reward is summed over the whole window.
        slice_len, pixels, discount: see `ObjectiveLoss`.
        scale: scales continuous actions to [-1, 1]; None for actions that are already there.
        choices: the number of discrete actions, if known.

    Returns:
        A TensorDict of batch size (B·(T - K + 1),) for a window that spans K steps, with the entries that
        `rlrep.Window` lists but `index`, and observations by their offset, see `rlrep.ReplayBuffer.sample`.

    Raises:
        KeyError, ValueError: see `ObjectiveLoss.forward`.
    """
    check_slice_len(slice_len, window)
    steps = max(window.span, 1)
    slices = as_slices(tensordict, slice_len)
    observation, after = (pick(slices, key) for key in (pixels, ("next", pixels)))
    reward, terminated = (pick(slices, ("next", key)) for key in ("reward", "terminated"))
    action = as_choices(pick(slices, "action"))
    if reward[0, 0].numel() != 1:
        raise ValueError(f"a step has one reward, got {tuple(reward.shape[2:])}: sum them, or choose one")
    if observation.dtype != torch.uint8 or observation.ndim != 5:
        raise ValueError(
            f"{pixels!r} must hold uint8 of shape (F·C, H, W) a step, got {observation.dtype} of shape "
            f"{tuple(observation.shape[2:])}: keep pixels as they are in the replay, without ToTensorImage's floats"
        )
    if scale is not None and action.is_floating_point():
        action = scale(action)
    check_slices(slices, observation, after, action, window, scale is not None, choices)
    reward, terminated = (value.view(*slices.shape, -1)[..., 0] for value in (reward, terminated))
    first = torch.arange(window.lookback, slice_len - steps + 1, device=observation.device)
    inside = first[:, None] + torch.arange(steps, device=observation.device)  # (windows of a slice, K)
    size = len(slices) * len(first)
    out: dict[str, Any] = {"observation": observation[:, first].flatten(0, 1), "action": action[:, first].flatten(0, 1)}
    if window.episode:  # the batch does not say which slices belong to one episode
        out["episode"] = torch.arange(len(slices), device=first.device).repeat_interleave(len(first))
    if window.actions:
        out["action_sequence"] = action[:, inside[:, : window.actions]].flatten(0, 1)
    if window.rewards:
        at = inside[:, : window.rewards]
        out["sequence"] = {
            "reward": reward[:, at].flatten(0, 1)[..., None],
            "terminated": terminated[:, at].flatten(0, 1)[..., None],
            "valid": torch.ones(size, window.rewards, 1, dtype=torch.bool, device=reward.device),
        }
    if window.n_step:
        n_step = steps if window.n_step == ANY_N_STEP else window.n_step
        weights = discount ** torch.arange(n_step, device=reward.device, dtype=reward.dtype)
        last = inside[:, n_step - 1]
        ended = terminated[:, last].reshape(-1, 1)
        out["discount"] = torch.where(ended, 0.0, discount**n_step)
        out["next"] = {
            "observation": after[:, last].flatten(0, 1),
            "reward": (reward[:, inside[:, :n_step]] * weights).sum(-1).reshape(-1, 1),
            "terminated": ended,
        }
    return TensorDict(out | _further(observation, after, first, window), batch_size=[size])


def check_slices(
    slices: TensorDict,
    observation: Tensor,
    after: Tensor,
    action: Tensor,
    window: Window,
    scaled: bool,
    choices: int | None,
) -> None:
    """Refuses slices whose rows are not consecutive steps of one episode, and invalid numbers.

    Args:
        slices: (B, T).
        observation, after: (B, T, F·C, H, W), before each step and after it.
        action: (B, T, A) or (B, T), as for the objectives.
        window: the objectives' window.
        scaled: whether the actions were scaled to [-1, 1].
        choices: the number of discrete actions; None if unknown.

    Raises:
        ValueError: saying what is wrong, and what to give TorchRL.
    """
    goes_on = ~pick(slices, ("next", "done")).view(*slices.shape, -1)[:, :-1, 0]
    # A quarter of the rows is enough, and takes a third of the time.
    same = (observation[:, 1:, ..., ::4, :] == after[:, :-1, ..., ::4, :]).flatten(2).all(-1)
    # Windows of more than one step cover their whole slices.
    whole = goes_on.all() if max(window.span, 1) + window.lookback > 1 else goes_on[:, :0].all()
    consecutive = (same | ~goes_on).all()
    is_choice = not action.is_floating_point()
    low, high = (0, math.inf if choices is None else choices - 1) if is_choice else (-1 - TOLERANCE, 1 + TOLERANCE)
    in_range = ((action >= low) & (action <= high)).all()
    # All at once: on CUDA each answer that Python reads waits for the device.
    whole, consecutive, in_range, finite = torch.stack(
        [whole, consecutive, in_range, slices["next", "reward"].isfinite().all()]
    ).tolist()
    if not whole:
        raise ValueError(
            "slices cross an episode's end: give the SliceSampler the key that ends episodes, "
            'end_key=("next", "done"), or the one that names them, traj_key'
        )
    if not consecutive:
        raise ValueError(
            f"the batch's rows are not slices of {slices.shape[1]} consecutive steps: give the ReplayBuffer a "
            f"SliceSampler(slice_len={slices.shape[1]}, end_key=('next', 'done')), with strict_length=True"
        )
    if not finite:
        raise ValueError("rewards must be finite, and this batch has others")
    if not in_range and is_choice:
        expected = "from 0 on" if choices is None else f"in 0..{high}"
        raise ValueError(f"discrete actions must be choices {expected}, got {action.min()} to {action.max()}")
    if not in_range:
        raise ValueError(
            f"objectives read actions in [-1, 1], got {action.min():g} to {action.max():g}"
            + (" after scaling them" if scaled else ": give ObjectiveLoss(..., action_space=env.action_spec)")
        )


def _further(observation: Tensor, after: Tensor, first: Tensor, window: Window) -> dict[str, Any]:
    """The entries of the window's further observations, by their offset; for a single one its plain name too."""
    shape = len(observation), len(first)
    drawn = {gap: _draw(gap, shape, observation.device) for gap in window.gaps}
    ahead = {
        offset: drawn[offset.drawn] + offset.plus
        if isinstance(offset, Gap)
        else torch.full(shape, offset, device=observation.device)
        for offset in window.observations
    }
    if not ahead:
        return {}
    seen = {offset: _observations(observation, after, first, offset, steps) for offset, steps in ahead.items()}
    out: dict[str, Any] = {
        "at": {str(offset): value for offset, value in seen.items()},
        "steps": {str(offset): value.flatten() for offset, value in ahead.items()},
    }
    if len(seen) == 1:
        (out["future_observation"],), (out["gap"],) = seen.values(), out["steps"].values()
    return out


def _draw(gap: Gap, shape: tuple[int, int], device: torch.device) -> Tensor:
    """(B, windows) in 1..`gap.most`, see `Gap.draw`."""
    weights = torch.arange(gap.most, 0, -1.0, device=device) if gap.linear else torch.ones(gap.most, device=device)
    return torch.multinomial(weights, shape[0] * shape[1], replacement=True).view(shape) + 1


def _observations(observation: Tensor, after: Tensor, first: Tensor, offset: Offset, ahead: Tensor) -> Tensor:
    """(B·windows, F·C, H, W): what the slices hold `ahead` steps from each window's first step."""
    if isinstance(offset, Gap):
        slices = torch.arange(len(after), device=after.device)[:, None]
        return after[slices, first + ahead - 1].flatten(0, 1)
    found = observation[:, first + offset] if offset < 0 else after[:, first + offset - 1]
    return found.flatten(0, 1)


def check_slice_len(slice_len: int, window: Window) -> None:
    steps = max(window.span + window.lookback, 1)
    if slice_len < steps:
        raise ValueError(
            f"slices of {slice_len} steps are shorter than the objective's window of {steps}: "
            f"SliceSampler(slice_len={steps}) or longer"
        )


def as_slices(tensordict: TensorDict, slice_len: int) -> TensorDict:
    """The batch as (B, T)."""
    if tensordict.ndim == 2 and tensordict.shape[1] == slice_len:
        return tensordict
    if tensordict.ndim != 1 or not len(tensordict) or len(tensordict) % slice_len:
        raise ValueError(
            f"a batch of slices has size (B·{slice_len},) or (B, {slice_len}), got {tuple(tensordict.shape)}: sample "
            f"with SliceSampler(slice_len={slice_len}) and a batch_size that {slice_len} divides"
        )
    return tensordict.view(-1, slice_len)


def pick(tensordict: TensorDict, key: NestedKey) -> Tensor:
    value = tensordict.get(key, None)
    if value is None:
        known = sorted(map(str, tensordict.keys(include_nested=True, leaves_only=True)))
        raise KeyError(f"this batch has no {key!r}, only {', '.join(known)}: name the observations with pixels=KEY")
    return value


def as_choices(action: Tensor) -> Tensor:
    """Converts one-hot actions (B, T, n), TorchRL's default, to (B, T) int64; other actions do not change."""
    if action.is_floating_point() or action.ndim == 2:
        return action
    if (action.long().sum(-1) != 1).any():
        raise ValueError(
            f"discrete actions must be one choice a step, as a number or one-hot, got {tuple(action.shape[2:])} "
            f"values of {action.dtype} that do not sum to 1"
        )
    return action.long().argmax(-1)
