"""The replay buffer: environments write to it, in memory or on disk, and a killed run resumes from it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rlrep.actions import action_spec
from rlrep.arguments import as_path, checked_numbers
from rlrep.bounds import Count, Rate, Share
from rlrep.replay.episodes import Episodes, host
from rlrep.replay.storage import Field, Files, ReplayError, frame_device, frame_memory
from rlrep.window import Window

__all__ = ["ReplayBuffer", "ReplayError"]

# The first calls of `add`, whose observation must equal the previous `next_observation`.
COMPARED_AT_FIRST = 64
# How many frames are read from files at once.
COPIED_AT_ONCE = 4096
NO_FILES = "this replay has no files: build it with path=FOLDER, that of the replay to be continued"


class ReplayBuffer(Episodes):
    """A replay that one or several environments write to, each into its own ring.

    One row holds one frame, the action taken at it and its outcome; an episode of T transitions takes T + 1 rows.
    `Episodes` explains samples.

    Args:
        observation_shape: (F·C, H, W) of the stacked observations, oldest frame first; before an episode's first frame,
            that frame is repeated.
        action_space: Gymnasium ``Box`` (one axis, values in [-1, 1]) or ``Discrete``.
        capacity: rows, over all environments. 100,000 rows of (9, 84, 84) with F = 3 take 2.12 GB.
        frame_stack: F ≥ 1.
        n_step: steps summed in the reward, ≥ 1.
        discount: γ in [0, 1].
        horizon: K ≥ 0; with K ≥ 1 samples hold `action_sequence`, `future_observation` and `gap`.
        num_envs: environments that write at once.
        reset_steps: whether a vector environment may reset in a step of its own (Gymnasium's AutoresetMode.NEXT_STEP).
            Such steps are recognised by their pictures and not stored. False if it resets in the same step: then every
            transition is stored, whatever it looks like.
        prioritized: draw rows with a probability proportional to their priority, see `update_priority`; a new row gets
            the largest priority so far.
        fade: with `prioritized`, a row's priority is multiplied by max(0.1, fadeⁿ) after n further rows of its
            environment.
        storage: where the frames are stored: "memory" (host), "disk" (memory-mapped files in `path`), or a torch device
            such as "cuda".
        path: folder of the files. Needed for "disk"; with the others, `flush` copies new rows there. If it holds an
            earlier replay, `load_state_dict` continues that one and `empty` overwrites it; before one of them, `add` is
            refused.
        reserve: additional rows per environment, which are not sampled. After a `flush`, fewer rows than this can be
            written and flushed without overwriting the flushed state. To resume after a kill, a run needs one more than
            the rows between two checkpoints.
        device: of the samples; the frames' device if None.
        seed: of the sampler.

    Raises:
        ValueError: for impossible sizes.
        ReplayError: when there is no room, or `path` holds another replay.
    """

    @checked_numbers
    def __init__(
        self,
        observation_shape: Sequence[int],
        action_space: Any,
        capacity: int,
        *,
        frame_stack: int = 3,
        n_step: int = 3,
        discount: Share = 0.99,
        horizon: Count = 0,
        num_envs: int = 1,
        reset_steps: bool = True,
        prioritized: bool = False,
        fade: Rate = 1.0,
        storage: str = "memory",
        path: str | Path | None = None,
        reserve: Count = 0,
        device: torch.device | str | None = None,
        seed: Count = 0,
    ) -> None:
        if len(observation_shape) != 3 or min(observation_shape) < 1 or observation_shape[0] % frame_stack:
            raise ValueError(
                f"observation_shape must be (frame_stack · channels, height, width), got {tuple(observation_shape)} "
                f"with frame_stack={frame_stack}"
            )
        if storage == "disk" and path is None:
            raise ValueError("storage='disk' needs a path: the folder that the replay's files go to")
        where = frame_device(storage)
        frame_shape = (observation_shape[0] // frame_stack, *observation_shape[1:])
        self.action_dim, self.discrete = action_spec(action_space)
        _check_bounds(action_space)
        self.capacity, self.horizon = capacity, horizon
        kept = capacity // num_envs
        _check_capacity(capacity, num_envs, max(n_step, horizon) + frame_stack)

        length = kept + reserve
        action: Field = ((), "int64") if self.discrete else ((self.action_dim,), "float32")
        fields: dict[str, Field] = {
            "frame": (frame_shape, "uint8"),
            "action": action,
            "reward": ((), "float32"),
            "terminated": ((), "bool"),
            "step": ((), "int32"),  # within the episode
            "episode": ((), "int64"),  # within the environment
        }
        self.files = None if path is None else Files(as_path(path), fields, num_envs, length)
        self.holds_another = self.files is not None and self.files.written
        self.mapped = storage == "disk"
        if self.mapped:
            assert self.files is not None
            self.frames = self.files.frames
        else:
            self.frames = frame_memory((num_envs, length, *frame_shape), where)
        rows = {
            name: np.zeros((num_envs, length, *shape), dtype)
            for name, (shape, dtype) in fields.items()
            if name != "frame"
        }
        super().__init__(
            self.frames,
            rows,
            Window.ahead(n_step, horizon),
            frame_stack=frame_stack,
            discount=discount,
            device=device,
            seed=seed,
            prioritized=prioritized,
            fade=fade,
        )
        self.kept, self.reset_steps = kept, reset_steps
        self.head = np.zeros(num_envs, np.int64)
        self.flushed = np.zeros(num_envs, np.int64)
        self.episodes = np.zeros(num_envs, np.int64)
        self.running = np.zeros(num_envs, bool)
        self.ended = np.zeros(num_envs, bool)  # by the last call of `add`
        self.compared = 0
        self.resets_are_steps = self.told_of_ends = False  # whether a warning was given

    @property
    def longest_episode(self) -> int | None:
        """None: longer episodes may come."""
        return None

    @property
    def most_transitions(self) -> int:
        """One less than the rows of each environment."""
        return self.num_envs * (self.kept - 1)

    def check(self, window: Window, learner: str, source: str = "this replay", batch_size: int = 1) -> None:
        """Refuses a window that this replay can never serve, before the first batch.

        Raises:
            ValueError: as `Episodes.check`, and for a window that is longer than the ring.
        """
        super().check(window, learner, source, batch_size)
        window = self.resolve(window)
        rows = window.span + window.lookback + self.frame_stack
        _check_capacity(
            self.capacity, self.num_envs, rows, f"{learner} reads {window.reach}, and {source} is too short: "
        )

    def add(
        self,
        *,
        observation: np.ndarray | Tensor,
        action: ArrayLike | Tensor,
        reward: ArrayLike | Tensor,
        next_observation: np.ndarray | Tensor,
        terminated: ArrayLike | Tensor,
        truncated: ArrayLike | Tensor,
    ) -> None:
        """Adds one transition of each environment. A single environment may leave out the leading axis everywhere.

        Args:
            observation: (num_envs, F·C, H, W) uint8. Its newest frame is stored at the start of an episode; later the
                previous call has stored it as `next_observation`.
            action: (num_envs, A) float in [-1, 1], or (num_envs,) integers.
            reward: (num_envs,) float.
            next_observation: (num_envs, F·C, H, W) uint8: the observation after the action. At an episode's end it is
                the episode's last observation, not the first of the next episode.
            terminated, truncated: (num_envs,) bool: whether the episode ended there for good, or by a time limit.

        By default, Gymnasium's vector environments reset in a separate step (``AutoresetMode.NEXT_STEP``): after an
        end, this step leads from the last observation to the first of the next episode. It is not a transition. This
        method recognises it by its observation and its reward of 0, and does not store it. With
        ``SAME_STEP``, `next_observation` must come from ``infos["final_obs"]`` at an end.

        Raises:
            ValueError: for other shapes or types, actions out of range, values that are not finite, an observation
                that does not continue the last `next_observation` (checked in the first calls only), and a
                `next_observation` that belongs to the next episode; nothing is added.
            ReplayError: if `path` holds an earlier replay, which this would overwrite.
        """
        if self.holds_another:
            assert self.files is not None
            raise ReplayError(
                f"{self.files.folder} holds an earlier replay: load_state_dict(…) continues it, empty() overwrites it"
            )
        vector = np.ndim(reward) > 0
        observation, next_observation = self._checked(observation), self._checked(next_observation)
        action, reward = self._checked_action(action), _numbers("reward", reward).astype(np.float32).reshape(-1)
        terminated, truncated = _flags("terminated", terminated), _flags("truncated", truncated)
        if not len(reward) == len(terminated) == len(truncated) == self.num_envs:
            raise ValueError(f"reward, terminated and truncated must hold {self.num_envs} values, one an environment")
        if not np.isfinite(reward).all():
            raise ValueError(f"rewards must be finite, got {reward}")
        if self.compared < COMPARED_AT_FIRST:
            self._check_continuity(observation)
        resets = np.zeros(self.num_envs, bool)
        if vector and self.reset_steps:
            resets = self._resets(observation, next_observation, reward, terminated | truncated)
        self._check_last_observations(observation, next_observation, (terminated | truncated) & ~resets)
        self._priority_sums = None
        for lane in map(int, np.flatnonzero(~resets)):
            if not self.running[lane]:
                self._append(lane, observation[lane], step=0)
                self.running[lane] = True
            at = (lane, (self.head[lane] - 1) % self.length)
            self.rows["action"][at] = action[lane]
            self.rows["reward"][at] = reward[lane]
            self.rows["terminated"][at] = terminated[lane]
            if self.prioritized:
                self.rows["priority"][at] = self.largest_priority
            self._append(lane, next_observation[lane], step=int(self.rows["step"][at]) + 1)
            self.ended[lane] = terminated[lane] or truncated[lane]
            if self.ended[lane]:
                self._end_episode(lane)
        self.ended &= ~resets

    def end_episodes(self) -> None:
        """Ends the running episodes as by a time limit, because the environments start new ones, as after a kill."""
        for lane in np.flatnonzero(self.running):
            self._end_episode(int(lane))
        self.ended[:] = False

    def empty(self) -> None:
        """Begins anew, without a row; the files' rows, if any, will be overwritten."""
        for counter in (self.head, self.flushed, self.episodes, self.running, self.ended):
            counter[:] = 0
        if self.prioritized:
            self.rows["priority"][:] = 0
            self._priority_sums, self.largest_priority = None, 1.0
        self.compared = 0
        self.holds_another = False

    def flush(self) -> None:
        """Copies rows that are new since the last call to the files of `path`, and waits until the disk has them.

        Raises:
            ReplayError: if there are no files.
        """
        if self.files is None:
            raise ReplayError(NO_FILES)
        for lane in range(self.num_envs):
            # The last flushed row may now have its action.
            first = max(self.flushed[lane] - 1, self.head[lane] - self.length, 0)
            at = np.arange(first, self.head[lane]) % self.length
            for name, array in self.rows.items():
                if name in self.files.arrays:
                    self.files.arrays[name][lane, at] = array[lane, at]
            if not self.mapped:
                for part in np.array_split(at, len(at) // COPIED_AT_ONCE + 1):
                    index = torch.from_numpy(part).to(self.frames.device)
                    self.files.arrays["frame"][lane, part] = self.frames[lane][index].cpu().numpy()
            if self.length > self.kept or self.head[lane] < self.length:
                # The files may contain rows of a killed run that resumed from an earlier state.
                self.files.forget_row(lane, self.head[lane] % self.length)
        self.files.flush()
        self.flushed = self.head.copy()

    def state_dict(self) -> dict[str, Any]:
        """Counters and the sampler's state; with the flushed files, they restore this replay.

        Raises:
            ReplayError: if the files lack rows.
        """
        if self.files is not None and (self.flushed != self.head).any():
            raise ReplayError("the files lack rows that this state counts: call flush() before state_dict()")
        return super().state_dict() | {
            "head": self.head.tolist(),
            "episodes": self.episodes.tolist(),
            "running": self.running.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a flushed state, and discards rows that were written later.

        Raises:
            ReplayError: if there are no files, or they lack the rows that `state` counts.
        """
        if self.files is None:
            raise ReplayError(NO_FILES)
        self._check_files(self.files, state)
        for name, array in self.rows.items():
            if name in self.files.arrays:
                array[:] = self.files.arrays[name]
        super().load_state_dict(state)
        self.head = np.array(state["head"], np.int64)
        self.flushed = self.head.copy()
        self.episodes = np.array(state["episodes"], np.int64)
        self.running = np.array(state["running"], bool)
        self.holds_another = False
        # The files may hold the outcome of the newest row, which came after this state.
        playing = np.flatnonzero(self.running)
        for name in ("action", "reward", "terminated"):
            self.rows[name][playing, (self.head[playing] - 1) % self.length] = 0
        if not self.mapped:
            for lane in range(self.num_envs):
                held = self._held(lane) % self.length
                for at in np.array_split(held, len(held) // COPIED_AT_ONCE + 1):
                    index = torch.from_numpy(at).to(self.frames.device)
                    self.frames[lane, index] = torch.from_numpy(self.files.arrays["frame"][lane, at]).to(index.device)

    def _check_files(self, files: Files, state: dict[str, Any]) -> None:
        """Refuses files whose rows are not the unbroken episodes that `state` counts."""
        whole = len(state["head"]) == self.num_envs
        for lane, head in enumerate(state["head"] if whole else []):
            held = np.arange(max(0, head - self.kept), head) % self.length
            episode, step = files.arrays["episode"][lane, held], files.arrays["step"][lane, held]
            new = np.diff(episode)
            whole &= bool(np.where(new == 0, np.diff(step) == 1, (new == 1) & (step[1:] == 0)).all())
            whole &= not len(held) or bool(episode[-1] == state["episodes"][lane] - (not state["running"][lane]))
        if not whole:
            raise ReplayError(
                f"the files in {files.folder} are not those of the saved replay: restore that folder from a copy, or "
                f"begin anew in another one"
            )

    def _check_continuity(self, observation: Tensor) -> None:
        """Refuses stacks that samples could not reproduce, such as single pictures."""
        last = self.head - 1
        whole = self.running & (self._row("step", np.arange(self.num_envs), last) >= self.frame_stack - 1)
        lanes = np.flatnonzero(whole)  # other code may pad an episode's first stacks differently
        if not len(lanes):
            return
        self.compared += 1
        if not torch.equal(self._stack(lanes, last[lanes]).cpu(), observation[lanes].cpu()):
            channels = self.frame_shape[0]
            raise ValueError(
                f"this observation is not the last next_observation: with frame_stack={self.frame_stack}, "
                f"{tuple(self.observation_shape)} is read as {self.frame_stack} frames of {channels} "
                f"channel{'s' * (channels > 1)}, the newest last. Single pictures need frame_stack=1; stacks must be "
                f"oldest first; and after an episode's end, terminated or truncated must have said so"
            )

    def _resets(
        self, observation: Tensor, next_observation: Tensor, reward: np.ndarray, ended: np.ndarray
    ) -> np.ndarray:
        """(num_envs,) bool: which transitions are separate reset steps of a vector environment.

        Such a step leads from the last observation of the previous episode to another picture, with reward 0.
        """
        lanes = np.flatnonzero(self.ended)
        resets = np.zeros(self.num_envs, bool)
        if len(lanes):
            newest = -self.frame_shape[0]
            last = self._stack(lanes, self.head[lanes] - 1)[:, newest:].cpu()
            first, second = observation[lanes, newest:].cpu(), next_observation[lanes, newest:].cpu()
            same, moves = (last == first).flatten(1).all(1), (first != second).flatten(1).any(1)
            resets[lanes] = (same & moves).numpy()
        transitions = resets & ((reward != 0) | ended)
        if transitions.any() and not self.told_of_ends:
            self.told_of_ends = True
            warnings.warn(
                "an episode begins with the observation that the one before ended with: if the environments reset in "
                'the same step, next_observation must come from infos["final_obs"] at an end',
                stacklevel=3,
            )
        resets &= ~transitions
        if resets.any() and not self.resets_are_steps:
            self.resets_are_steps = True
            warnings.warn(
                "the environments reset in a step of their own (AutoresetMode.NEXT_STEP); these steps are not stored",
                stacklevel=3,
            )
        return resets

    def _check_last_observations(self, observation: Tensor, next_observation: Tensor, ended: np.ndarray) -> None:
        """Refuses a stack at an end that does not continue the previous one: it belongs to the next episode."""
        channels = self.frame_shape[0]
        lanes = np.flatnonzero(ended)
        if self.frame_stack == 1 or not len(lanes):
            return
        if not torch.equal(next_observation[lanes, :-channels].cpu(), observation[lanes, channels:].cpu()):
            raise ValueError(
                "at an episode's end, next_observation does not continue observation: it must be the last observation "
                'of that episode (infos["final_obs"] of a vector environment that resets in the same step), not the '
                "first of the next one"
            )

    def _checked(self, observation: np.ndarray | Tensor) -> Tensor:
        if not isinstance(observation, Tensor):
            observation = np.ascontiguousarray(observation)  # torch cannot read negative strides
        if self.num_envs == 1 and observation.ndim == len(self.observation_shape):
            observation = observation[None]
        kind = str(observation.dtype).removeprefix("torch.")
        if kind != "uint8" or observation.shape != (self.num_envs, *self.observation_shape):
            raise ValueError(
                f"observations must be uint8 of shape {(self.num_envs, *self.observation_shape)}, got {kind} of shape "
                f"{tuple(observation.shape)}"
            )
        return torch.as_tensor(observation)

    def _checked_action(self, action: ArrayLike | Tensor) -> np.ndarray:
        values = host(action)
        if values.dtype.kind not in "biuf":
            raise ValueError(f"actions must be numbers, got {action!r}")
        if self.num_envs == 1 and values.ndim == (0 if self.discrete else 1):
            values = values[None]
        expected = (self.num_envs,) if self.discrete else (self.num_envs, self.action_dim)
        if values.shape != expected:
            raise ValueError(f"actions must have shape {expected}, got {values.shape}")
        if self.discrete and not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"actions must be integers, got {values.dtype}")
        low, high = (0, self.action_dim - 1) if self.discrete else (-1 - 1e-6, 1 + 1e-6)
        if not ((values >= low) & (values <= high)).all():
            bounds = f"0..{high}" if self.discrete else "[-1, 1]"
            raise ValueError(
                f"actions must be finite and lie in {bounds}, got {values.min()} to {values.max()}: rescale them "
                f"to the action space before adding"
            )
        return values

    def _append(self, lane: int, observation: Tensor, step: int) -> None:
        at = (lane, self.head[lane] % self.length)
        if self.mapped:
            assert self.files is not None
            self.files.forget_row(*at)
        self.frames[at] = observation[-self.frame_shape[0] :].to(self.frames.device)
        self.rows["step"][at] = step
        self.rows["episode"][at] = self.episodes[lane]
        self.rows["action"][at] = 0
        self.rows["reward"][at] = 0
        self.rows["terminated"][at] = False
        if self.prioritized:
            self.rows["priority"][at] = 0
            self.rows["priority"][lane, (self.head[lane] - self.kept) % self.length] = 0  # leaves the ring
        self.head[lane] += 1

    def _end_episode(self, lane: int) -> None:
        self.running[lane] = False
        self.episodes[lane] += 1

    def _held(self, lane: int) -> np.ndarray:
        """Positions of the rows of an environment that are within `capacity`."""
        return np.arange(max(0, self.head[lane] - self.kept), self.head[lane])


def _numbers(name: str, values: Any) -> np.ndarray:
    array = host(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be a number for each environment, got {values!r}")
    return array


def _flags(name: str, values: Any) -> np.ndarray:
    """Converts booleans, or 0 and 1, to (num_envs,) bool."""
    array = _numbers(name, values)
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must be true or false for each environment, got {values!r}")
    return array.astype(bool).reshape(-1)


def _check_capacity(capacity: int, num_envs: int, rows: int, why: str = "") -> None:
    kept = capacity // num_envs
    if kept < rows:
        raise ValueError(
            f"{why}capacity={capacity} leaves {kept} rows for each of {num_envs} environments, one sample spans "
            f"{rows}: make it larger"
        )


def _check_bounds(action_space: Any) -> None:
    """Refuses a ``Box`` with bounds other than [-1, 1], because `add` would refuse its actions."""
    low, high = getattr(action_space, "low", -1), getattr(action_space, "high", 1)
    if not (np.all(np.equal(low, -1)) and np.all(np.equal(high, 1))):
        raise ValueError(
            f"actions must lie in [-1, 1], and the action space is {action_space}: wrap the environment in "
            f"gymnasium.wrappers.RescaleAction(env, -1, 1)"
        )
