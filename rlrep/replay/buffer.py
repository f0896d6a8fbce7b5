"""The one replay buffer: every frame is stored once; stacks, n-step targets and sequences are formed when sampling."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rlrep.actions import action_spec
from rlrep.replay.storage import Field, Files, ReplayError, frame_memory

if TYPE_CHECKING:
    from tensordict import TensorDict

__all__ = ["ReplayBuffer", "ReplayError"]

# Below this many rows a sample is drawn from the list of all that can be drawn; above, by rejection.
ENUMERATE_BELOW = 4096
# Calls of `add` whose observation is compared with what the call before led to.
COMPARED_AT_FIRST = 64
# Frames that are read from files in one piece.
COPIED_AT_ONCE = 4096


class ReplayBuffer:
    """A ring of frames for one or several environments that write at once.

    One row holds one frame, the action taken at it and what followed; an episode of T transitions takes T + 1 rows.
    Each environment has a ring ("lane") of its own. A sample never crosses an episode's end or the ring's write
    position:

    - a window of max(n_step, horizon) steps lies within one episode. At a real end (`terminated`) it may be shorter:
      the reward sum stops there, `discount` is 0, the last observation stands for all that would follow and the actions
      that were not taken are 0 (an absorbing state); `gap` tells how many steps there were.
    - a time limit (`truncated`) ends a window without being learned as an end.

    Args:
        observation_shape: (F·C, H, W) of the stacked observations, oldest frame first, the first frame of an episode
            repeated before it.
        action_space: Gymnasium ``Box`` (one axis, values in [-1, 1]) or ``Discrete``.
        capacity: rows kept, over all lanes. 100,000 rows of (9, 84, 84) with F = 3 take 2.12 GB.
        frame_stack: F ≥ 1.
        n_step: steps summed in the reward, ≥ 1.
        discount: γ in [0, 1].
        horizon: K ≥ 0; with K ≥ 1 samples hold `action_sequence`, `future_observation` and `gap`.
        num_envs: lanes.
        storage: where the frames are: "memory" (host), "disk" (memory-mapped files in `path`), or a torch device such
            as "cuda".
        path: folder of the files. Needed for "disk"; with the others, `flush` copies new rows there.
        reserve: rows a lane beyond `capacity` that are not sampled, so that as many can be written after a `flush`
            without touching what the flushed state holds. A run that resumes from a kill needs one checkpoint's worth.
        read_only: of the replay in `path`, which is full; nothing can be added. It may be shorter than a ring must be.
        device: where samples are put; the frames' device if None.
        seed: of the sampler.

    Raises:
        ValueError: for impossible sizes.
        ReplayError: when there is no room, or `path` holds another replay.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        action_space: Any,
        capacity: int,
        *,
        frame_stack: int = 3,
        n_step: int = 3,
        discount: float = 0.99,
        horizon: int = 0,
        num_envs: int = 1,
        storage: str = "memory",
        path: str | Path | None = None,
        reserve: int = 0,
        read_only: bool = False,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        at_least = dict(capacity=(capacity, 1), frame_stack=(frame_stack, 1), n_step=(n_step, 1), horizon=(horizon, 0))
        for name, (value, least) in (at_least | dict(num_envs=(num_envs, 1), reserve=(reserve, 0))).items():
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 <= discount <= 1:
            raise ValueError(f"discount must lie in [0, 1], got {discount}")
        if len(observation_shape) != 3 or observation_shape[0] % frame_stack:
            raise ValueError(
                f"observation_shape must be (frame_stack · channels, height, width), got {tuple(observation_shape)} "
                f"with frame_stack={frame_stack}"
            )
        if storage == "disk" and path is None:
            raise ValueError("storage='disk' needs a path: the folder that the replay's files go to")
        where = _device(storage)
        self.window = capacity // num_envs
        shortest = max(n_step, horizon) + frame_stack
        if self.window < shortest and not read_only:
            raise ValueError(
                f"capacity={capacity} leaves {self.window} rows for each of {num_envs} environments, one sample spans "
                f"{shortest}: make it larger"
            )
        self.observation_shape = tuple(observation_shape)
        self.frame_shape = (observation_shape[0] // frame_stack, *observation_shape[1:])
        self.action_dim, self.discrete = action_spec(action_space)
        self.capacity, self.frame_stack, self.num_envs = capacity, frame_stack, num_envs
        self.n_step, self.discount, self.horizon = n_step, discount, horizon

        self.length = self.window + reserve
        action: Field = ((), "int64") if self.discrete else ((self.action_dim,), "float32")
        fields: dict[str, Field] = {
            "frame": (self.frame_shape, "uint8"),
            "action": action,
            "reward": ((), "float32"),
            "terminated": ((), "bool"),
            "step": ((), "int32"),  # within the episode
            "episode": ((), "int64"),  # within the lane
        }
        self.files = None if path is None else Files(Path(path), fields, num_envs, self.length, read_only)
        self.mapped = storage == "disk"
        if self.mapped:
            assert self.files is not None
            self.frames = self.files.frames
        else:
            self.frames = frame_memory((num_envs, self.length, *self.frame_shape), where)
        self.device = self.frames.device if device is None else torch.device(device)
        self.rows: dict[str, np.ndarray] = {
            name: np.zeros((num_envs, self.length, *shape), dtype)
            for name, (shape, dtype) in fields.items()
            if name != "frame"
        }
        # A row's position counts all rows ever written to its lane; it lies at position % length.
        self.head = np.zeros(num_envs, np.int64)
        self.flushed = np.zeros(num_envs, np.int64)
        self.episodes = np.zeros(num_envs, np.int64)
        self.running = np.zeros(num_envs, bool)
        self.rng = np.random.default_rng(seed)
        self.compared = 0

    def __len__(self) -> int:
        """Transitions held."""
        lanes = np.flatnonzero(self.head)
        held = np.minimum(self.head, self.window)[lanes]
        first, last = (self._row("episode", lanes, self.head[lanes] - back) for back in (held, 1))
        return int((held - (last - first + 1)).sum())  # an episode has a row more than transitions

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take, frames included."""
        return self.frames.numel() + sum(array.nbytes for array in self.rows.values())

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
            observation: (num_envs, F·C, H, W) uint8. Its newest frame is stored at the start of an episode; later on it
                is already there as the `next_observation` of the call before.
            action: (num_envs, A) float in [-1, 1], or (num_envs,) integers.
            reward: (num_envs,) float.
            next_observation: (num_envs, F·C, H, W) uint8: what the action led to, at an episode's end its last
                observation, not the first of the next one.
            terminated, truncated: (num_envs,) bool: whether the episode ended there for good, or by a time limit.

        Raises:
            ValueError: for other shapes or types, actions out of range, values that are not finite, and, looked at in
                the first calls only, an observation that does not go on from the last `next_observation`; nothing is
                added.
            ReplayError: if the replay is read only.
        """
        if self.files is not None and self.files.read_only:
            raise ReplayError("this replay is read only: collect new transitions into a ReplayBuffer of their own")
        observation, next_observation = self._checked(observation), self._checked(next_observation)
        action, reward = self._checked_action(action), _array(reward).astype(np.float32).reshape(-1)
        terminated, truncated = (_array(ended).astype(bool).reshape(-1) for ended in (terminated, truncated))
        if not len(reward) == len(terminated) == len(truncated) == self.num_envs:
            raise ValueError(f"reward, terminated and truncated must hold {self.num_envs} values, one an environment")
        if not np.isfinite(reward).all():
            raise ValueError(f"rewards must be finite, got {reward}")
        if self.compared < COMPARED_AT_FIRST:
            self._check_continuity(observation)
        for lane in range(self.num_envs):
            if not self.running[lane]:
                self._append(lane, observation[lane], step=0)
                self.running[lane] = True
            at = (lane, (self.head[lane] - 1) % self.length)
            self.rows["action"][at] = action[lane]
            self.rows["reward"][at] = reward[lane]
            self.rows["terminated"][at] = terminated[lane]
            self._append(lane, next_observation[lane], step=int(self.rows["step"][at]) + 1)
            if terminated[lane] or truncated[lane]:
                self._end_episode(lane)

    def end_episodes(self) -> None:
        """Ends the running episodes as by a time limit: the environments start new ones, as after a kill."""
        for lane in np.flatnonzero(self.running):
            self._end_episode(int(lane))

    def sample(self, batch_size: int) -> TensorDict:
        """`batch_size` windows, drawn uniformly with replacement from all that can be drawn.

        Returns:
            A TensorDict of batch size (B,) on `device`: `observation`, `action`, (`next`, `observation`), (`next`,
            `reward`) (B, 1), (`next`, `terminated`) (B, 1), `discount` (B, 1), and with a horizon `action_sequence`,
            `future_observation`, `gap`.

        Raises:
            ReplayError: before there are `batch_size` transitions, or when no episode is as long as a window.
        """
        from tensordict import TensorDict  # takes over a second to import

        lane, start = self._draw(batch_size)
        steps, _ = self._window(lane, start)
        n_step = np.minimum(self.n_step, steps)
        rewards = self._row("reward", lane[:, None], start[:, None] + np.arange(self.n_step))
        taken = np.arange(self.n_step) < n_step[:, None]
        weights = (self.discount ** np.arange(self.n_step) * taken).astype(np.float32)
        terminated = self._row("terminated", lane, start + n_step - 1)
        discount = np.where(terminated, 0, self.discount**n_step).astype(np.float32)

        observation = self._stack(lane, start)
        next_observation = self._stack(lane, start + n_step)
        out: dict[str, Any] = {
            "observation": observation,
            "action": self._tensor(self._row("action", lane, start)),
            "discount": self._tensor(discount[:, None]),
            "next": {
                "observation": next_observation,
                "reward": self._tensor((rewards * weights).sum(1, keepdims=True)),
                "terminated": self._tensor(terminated[:, None]),
            },
        }
        if self.horizon:
            gap = np.minimum(self.horizon, steps)
            sequence = self._row("action", lane[:, None], start[:, None] + np.arange(self.horizon))
            sequence[np.arange(self.horizon) >= gap[:, None]] = 0
            out["action_sequence"] = self._tensor(sequence)
            same = self.horizon == self.n_step
            out["future_observation"] = next_observation if same else self._stack(lane, start + gap)
            out["gap"] = self._tensor(gap)
        return TensorDict(out, batch_size=[batch_size], device=self.device)

    def flush(self) -> None:
        """Copies what is new since the last call to the files of `path` and waits until the disk has it."""
        if self.files is None or self.files.read_only:
            return
        for lane in range(self.num_envs):
            # The last flushed row may have got its action since.
            first = max(self.flushed[lane] - 1, self.head[lane] - self.length, 0)
            at = np.arange(first, self.head[lane]) % self.length
            for name, array in self.rows.items():
                self.files.arrays[name][lane, at] = array[lane, at]
            if not self.mapped:
                index = torch.from_numpy(at).to(self.frames.device)
                self.files.arrays["frame"][lane, at] = self.frames[lane][index].cpu().numpy()
            if self.length > self.window or self.head[lane] < self.length:
                # There may be what a run wrote that was killed; this one went on from before it.
                self.files.forget_row(lane, self.head[lane] % self.length)
        self.files.flush()
        self.flushed = self.head.copy()

    def state_dict(self) -> dict[str, Any]:
        """What, together with the flushed files, restores this replay: counters and the sampler's random state."""
        return {
            "head": self.head.tolist(),
            "episodes": self.episodes.tolist(),
            "running": self.running.tolist(),
            "rng": json.dumps(self.rng.bit_generator.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a flushed state; what was written later is forgotten.

        Raises:
            ReplayError: if there are no files to read from, or they do not hold what `state` counts.
        """
        if self.files is None:
            raise ReplayError("this replay has no files: build it with the path that the saved one was flushed to")
        self._check_files(self.files, state)
        self.head = np.array(state["head"], np.int64)
        self.flushed = self.head.copy()
        self.episodes = np.array(state["episodes"], np.int64)
        self.running = np.array(state["running"], bool)
        self.rng.bit_generator.state = json.loads(state["rng"])
        for name, array in self.rows.items():
            array[:] = self.files.arrays[name]
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
            held = np.arange(max(0, head - self.window), head) % self.length
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
        """Refuses stacks that are not those which a sample would give, as of pictures that are no stacks."""
        last = self.head - 1
        whole = self.running & (self._row("step", np.arange(self.num_envs), last) >= self.frame_stack - 1)
        lanes = np.flatnonzero(whole)  # an episode's first stacks may be padded otherwise
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

    def _checked(self, observation: np.ndarray | Tensor) -> Tensor:
        frames = torch.as_tensor(observation)
        if self.num_envs == 1 and frames.ndim == len(self.observation_shape):
            frames = frames[None]
        if frames.dtype != torch.uint8 or frames.shape != (self.num_envs, *self.observation_shape):
            raise ValueError(
                f"observations must be uint8 of shape {(self.num_envs, *self.observation_shape)}, got "
                f"{str(frames.dtype).removeprefix('torch.')} of shape {tuple(frames.shape)}"
            )
        return frames

    def _checked_action(self, action: ArrayLike | Tensor) -> np.ndarray:
        values = _array(action)
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
        self.head[lane] += 1

    def _end_episode(self, lane: int) -> None:
        self.running[lane] = False
        self.episodes[lane] += 1

    def _row(self, name: str, lane: Any, position: Any) -> np.ndarray:
        return self.rows[name][lane, position % self.length]

    def _held(self, lane: int) -> np.ndarray:
        """Positions of the rows of a lane that are within `capacity`."""
        return np.arange(max(0, self.head[lane] - self.window), self.head[lane])

    def _window(self, lane: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each position, how many steps of a window follow, and whether a sample may start there."""
        offsets = np.arange(max(self.n_step, self.horizon) + 1)
        position = start[:, None] + offsets
        same = self._row("episode", lane[:, None], position) == self._row("episode", lane, start)[:, None]
        steps = (same & (position < self.head[lane][:, None])).sum(1) - 1
        ended = (steps > 0) & self._row("terminated", lane, start + steps - 1)
        oldest = np.maximum(self.head[lane] - self.window, 0)
        first_frame = start - np.minimum(self.frame_stack - 1, self._row("step", lane, start))
        return steps, (first_frame >= oldest) & (ended | (steps == offsets[-1]))

    def _draw(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        held = np.minimum(self.head, self.window)
        if held.sum() <= max(ENUMERATE_BELOW, batch_size):
            if len(self) < batch_size:
                raise ReplayError(
                    f"a batch of {batch_size} needs as many transitions, the replay holds {len(self)}: "
                    f"collect more before sampling, or make the batch smaller"
                )
            return self._draw_enumerated(batch_size)
        lanes, starts, missing = [], [], batch_size
        for _ in range(8):
            index = self.rng.integers(held.sum(), size=missing + missing // 4 + 8)
            lane = np.searchsorted(np.cumsum(held), index, side="right")
            start = index - (np.cumsum(held) - held)[lane] + (self.head - held)[lane]
            kept = np.flatnonzero(self._window(lane, start)[1])[:missing]
            lanes.append(lane[kept])
            starts.append(start[kept])
            missing -= len(kept)
            if not missing:
                return np.concatenate(lanes), np.concatenate(starts)
        return self._draw_enumerated(batch_size)

    def _draw_enumerated(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        start = np.concatenate([self._held(lane) for lane in range(self.num_envs)])
        lane = np.repeat(np.arange(self.num_envs), np.minimum(self.head, self.window))
        can_start = np.flatnonzero(self._window(lane, start)[1])
        if not len(can_start):
            raise ReplayError(
                f"no episode in the replay is as long as a sample, max(n_step={self.n_step}, horizon={self.horizon}) "
                f"steps: collect more, or make n_step and horizon smaller"
            )
        chosen = self.rng.choice(can_start, batch_size)
        return lane[chosen], start[chosen]

    def _stack(self, lane: np.ndarray, position: np.ndarray) -> Tensor:
        """The stacked observation at each position, (B, F·C, H, W) on the samples' device."""
        back = np.minimum(np.arange(self.frame_stack)[::-1], self._row("step", lane, position)[:, None])
        flat = lane[:, None] * self.length + (position[:, None] - back) % self.length
        index = self._tensor(flat.reshape(-1), self.frames.device)
        frames = self.frames.flatten(0, 1).index_select(0, index)
        return frames.view(len(lane), *self.observation_shape).to(self.device)

    def _tensor(self, array: np.ndarray, device: torch.device | None = None) -> Tensor:
        device = self.device if device is None else device
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _array(values: Any) -> np.ndarray:
    """In host memory; a tensor may be anywhere, and part of a graph."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _device(storage: str) -> torch.device:
    """Where frames are kept; files are mapped into the host's memory."""
    try:
        return torch.device("cpu" if storage in ("memory", "disk") else storage)
    except RuntimeError:
        raise ValueError(
            f"storage must be 'memory', 'disk' or a torch device such as 'cuda', got {storage!r}"
        ) from None
