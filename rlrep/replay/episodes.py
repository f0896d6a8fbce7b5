"""The store of episodes: it stores every frame once, and forms stacks, targets and sequences when sampling."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlrep.arguments import checked_numbers
from rlrep.bounds import Count, Rate, Share
from rlrep.replay.storage import ReplayError
from rlrep.window import Gap, Offset, Window

if TYPE_CHECKING:
    from tensordict import TensorDict

# Up to this many rows, a sample is drawn from a list of all valid rows; above, by rejection.
ENUMERATE_BELOW = 4096
# The least factor of a fading priority.
LEAST_FADED = 0.1
# Rounds of rejection before the list is used instead.
ROUNDS = 16
WHO_HAS = {
    "action": "data recorded with actions (a replay buffer, offline RL data)",
    "reward": "a replay buffer or offline RL data",
}


class Episodes:
    """Rows of episodes in rings ("lanes"), with a sampler for any `Window`.

    One row holds one frame, the action taken at it and its outcome; an episode of T transitions takes T + 1 rows. A
    row's position counts all rows ever written to its lane; the row is stored at position % length. `ReplayBuffer`
    writes such rows, `rlrep.data` opens finished ones.

    A sample never crosses an episode's end or the ring's write position. At a real end (`terminated`) a window may be
    cut short: the reward sum stops there, `discount` is 0, the last observation replaces all later ones, and later
    actions are 0 (an absorbing state; of discrete actions that is the first choice). At a time limit, which is no real
    end, no window is cut short: those that would reach beyond it are not drawn.

    Args:
        frames: (lanes, length, C, H, W) uint8, single frames.
        rows: columns (lanes, length, …) by name: `step`, `episode`, and, if the data have them, `action`, `reward` and
            `terminated`.
        window: the default window of `sample`.
        frame_stack: F ≥ 1 frames in an observation, oldest first; before an episode's first frame, that frame is
            repeated.
        discount: γ in [0, 1].
        device: of the samples; the frames' device if None.
        seed: of the sampler.
        prioritized: draw rows with a probability proportional to the column `priority` rather than uniformly.
        fade: with `prioritized`, a row's priority is multiplied by max(0.1, fadeⁿ) after n further rows.

    Raises:
        ValueError: for `fade` without `prioritized`.
    """

    @checked_numbers
    def __init__(
        self,
        frames: Tensor,
        rows: dict[str, np.ndarray],
        window: Window,
        *,
        frame_stack: int = 1,
        discount: Share = 0.99,
        device: torch.device | str | None = None,
        seed: Count = 0,
        prioritized: bool = False,
        fade: Rate = 1.0,
    ) -> None:
        if fade < 1 and not prioritized:
            raise ValueError("fade is a part of the priorities: it needs prioritized=True")
        self._frames, self.rows, self.window = frames, rows, window
        self.frame_shape: tuple[int, ...] = tuple(frames.shape[2:])
        self.frame_stack, self.discount, self.prioritized = frame_stack, discount, prioritized
        self.device = frames.device if device is None else torch.device(device)
        self.num_envs, self.length = frames.shape[:2]
        self.kept = self.length  # rows of a lane that can be sampled
        self.black_before = False  # Stable-Baselines3's VecFrameStack puts black frames before an episode
        self.head = np.full(self.num_envs, self.length, np.int64)
        self.rng = np.random.default_rng(seed)
        if prioritized:
            rows["priority"] = np.zeros(frames.shape[:2], np.float32)
        # By age: to compute these powers at every draw would take as long as the draw.
        self._faded = np.maximum(LEAST_FADED, fade ** np.arange(self.length)) if fade < 1 else None
        self.largest_priority = 1.0
        self._priority_sums: np.ndarray | None = None

    def __len__(self) -> int:
        """Transitions held."""
        lanes = np.flatnonzero(self.head)
        held = np.minimum(self.head, self.kept)[lanes]
        first, last = (self._row("episode", lanes, self.head[lanes] - back) for back in (held, 1))
        return int((held - (last - first + 1)).sum())  # an episode has one row more than transitions

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(F·C, H, W)."""
        channels, *size = self.frame_shape
        return (self.frame_stack * channels, *size)

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take, frames included."""
        return self._frames.numel() + sum(array.nbytes for array in self.rows.values())

    def resolve(self, window: Window | None) -> Window:
        """The window with this store's n_step in place of `ANY_N_STEP`; for None, the store's window."""
        if window is None:
            return self.window
        return window.with_n_step(self.window.n_step or 1)

    def check(self, window: Window, learner: str, source: str = "these data", batch_size: int = 1) -> None:
        """Refuses a window that these episodes can never serve, before the first batch.

        Args:
            window: the window to check.
            learner: the learner's name, for the message.
            source: a name for these episodes, for the message.
            batch_size: rows of the learner's batches.

        Raises:
            ValueError: naming the missing column, the offset that is longer than the longest episode, or the batch that
                is larger than the data.
        """
        window = self.resolve(window)
        missing = [name for name in window.needs if name not in self.rows]
        if missing:
            raise ValueError(
                f"{learner} reads {missing[0]}s, which {source} lack: use {WHO_HAS[missing[0]]}, not video"
            )
        if batch_size > self.most_transitions:
            raise ValueError(
                f"{learner} reads batches of {batch_size}, and {source} hold at most {self.most_transitions} "
                f"transitions: make its batch_size smaller"
            )
        longest = self.longest_episode
        whole = longest is None or window.span + window.lookback <= longest
        if not whole and window.lookback >= self.longest_ended:
            raise ValueError(
                f"{learner} reads {window.reach}, and the longest episode in {source} has {longest} steps: make its "
                f"horizon smaller"
            )

    @property
    def most_transitions(self) -> int:
        """The largest possible number of transitions."""
        return len(self)

    @property
    def longest_episode(self) -> int | None:
        """Steps of the longest episode; None if longer ones may come."""
        return int(self.rows["step"].max())

    @property
    def longest_ended(self) -> int:
        """Steps of the longest episode with a real end, where windows may be cut short; 0 for none."""
        if "terminated" not in self.rows:
            return 0
        return int(self.rows["step"].max(initial=-1, where=self.rows["terminated"])) + 1

    @checked_numbers
    def sample(self, batch_size: int, window: Window | None = None) -> TensorDict:
        """Draws `batch_size` windows with replacement: first the gap, then a row among all rows where that gap fits.

        Args:
            batch_size: B ≥ 1.
            window: the window to read; None for the store's own.

        Returns:
            A TensorDict of batch size (B,) on `device` with the entries that `Window` lists. If `window` is given, it
            also holds each further observation by its offset, (`at`,
            ``str(offset)``), and the steps to it, (`steps`, ``str(offset)``).

        Raises:
            ReplayError: before there are `batch_size` transitions, or when no episode is as long as a window.
        """
        resolved = self.resolve(window)
        gaps = {gap: gap.draw(self.rng, batch_size) for gap in resolved.gaps}
        lane, start = self._draw(batch_size, resolved, gaps)
        return self._read(lane, start, resolved, gaps, by_offset=window is not None)

    def update_priority(self, index: Tensor | np.ndarray, priority: Tensor | np.ndarray) -> None:
        """Sets the priorities of rows that were sampled.

        Args:
            index: (B,) `index` of a sample; entries below 0 belong to other stores and are ignored.
            priority: (B,) or (B, 1) float > 0.

        Raises:
            ReplayError: if this store draws uniformly.
            ValueError: for priorities that are not finite and above 0, or not one per row; no priority changes.
        """
        if not self.prioritized:
            raise ReplayError("this replay draws uniformly: build it with prioritized=True to set priorities")
        at, values = host(index).reshape(-1), host(priority).astype(np.float32).reshape(-1)
        if len(at) != len(values):
            raise ValueError(f"each row has one priority, got {len(at)} rows and {len(values)} priorities")
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(
                f"priorities must be finite and greater than 0, got {values.min()} to {values.max()}: bound them from "
                f"below, for example by a small constant"
            )
        at, values = at[at >= 0], values[at >= 0]
        column = self.rows["priority"].reshape(-1)
        column[at] = np.where(column[at] > 0, values, 0)  # without rows that were overwritten meanwhile
        self.largest_priority = max(self.largest_priority, float(values.max(initial=0)))
        self._priority_sums = None

    def mean_absolute_reward(self) -> float:
        """The mean of |reward| over all transitions held; 0 if there are none.

        Raises:
            ReplayError: if the data have no rewards.
        """
        if "reward" not in self.rows:
            raise ReplayError(f"these data have no rewards: use {WHO_HAS['reward']}, not video")
        lane, position = self._place(np.arange(self._count()))
        rewards = self._row("reward", lane, position)  # 0 in an episode's last row, which is not a transition
        return float(np.abs(rewards).sum(dtype=np.float64) / max(len(self), 1))

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state, as plain values and tensors."""
        state: dict[str, Any] = {"rng": json.dumps(self.rng.bit_generator.state)}
        if self.prioritized:
            state["priority"] = torch.from_numpy(self.rows["priority"].copy())
            state["largest_priority"] = self.largest_priority
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the sampler's state.

        Raises:
            ReplayError: if only one of the saved and this replay is prioritised.
        """
        if self.prioritized != ("priority" in state):
            raise ReplayError("one of the saved and this replay is prioritised, the other is not: build both alike")
        self.rng.bit_generator.state = json.loads(state["rng"])
        if self.prioritized:
            self.rows["priority"][:] = host(state["priority"])
            self.largest_priority = state["largest_priority"]
            self._priority_sums = None

    # Which rows can be drawn. In parts of a data set, these are not all rows.

    def _count(self) -> int:
        return int(np.minimum(self.head, self.kept).sum())

    def _place(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lanes and positions of rows by their number, 0 ≤ number < `_count()`."""
        held = np.minimum(self.head, self.kept)
        lane = np.searchsorted(np.cumsum(held), number, side="right")
        return lane, number - (np.cumsum(held) - held)[lane] + (self.head - held)[lane]

    def _row(self, name: str, lane: Any, position: Any) -> np.ndarray:
        return self.rows[name][lane, position % self.length]

    def _steps(self, lane: np.ndarray, start: np.ndarray, span: int) -> np.ndarray:
        """(B,) how many steps of the episode follow after each row, at most `span`."""
        episode = self._row("episode", lane, start)
        last = np.minimum(start + span, self.head[lane] - 1)
        steps = last - start
        short = np.flatnonzero(self._row("episode", lane, last) != episode)
        if len(short):
            position = start[short, None] + np.arange(1, span + 1)
            same = self._row("episode", lane[short, None], position) == episode[short, None]
            steps[short] = (same & (position <= last[short, None])).sum(1)
        return steps

    def _can_start(self, lane: np.ndarray, start: np.ndarray, window: Window, reach: np.ndarray) -> np.ndarray:
        """(B,) whether a sample that reaches `reach` (B,) steps ahead may start there."""
        steps = self._steps(lane, start, window.span)
        whole = steps >= reach
        if "terminated" in self.rows:
            whole |= (steps > 0) & self._row("terminated", lane, start + steps - 1)
        step = self._row("step", lane, start)
        first_frame = start - np.minimum(self.frame_stack - 1 + window.lookback, step)
        return whole & (step >= window.lookback) & (first_frame >= np.maximum(self.head[lane] - self.kept, 0))

    def _draw(self, batch_size: int, window: Window, gaps: dict[Gap, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Lanes and positions (B,) of windows that start there."""
        reach = _reach(window, gaps, batch_size)
        count = self._count()
        if count <= max(ENUMERATE_BELOW, batch_size):
            self._check_filled(batch_size)
            return self._draw_enumerated(window, reach)
        lane, start = np.empty(batch_size, np.int64), np.empty(batch_size, np.int64)
        missing = np.arange(batch_size)
        for _ in range(ROUNDS):
            lane[missing], start[missing] = self._propose(count, len(missing))
            missing = missing[~self._can_start(lane[missing], start[missing], window, reach[missing])]
            if not len(missing):
                return lane, start
        lane[missing], start[missing] = self._draw_enumerated(window, reach[missing])
        return lane, start

    def _check_filled(self, batch_size: int) -> None:
        if len(self) < batch_size:
            raise ReplayError(
                f"a batch of {batch_size} needs as many transitions, the replay holds {len(self)}: collect more before "
                f"sampling, or give a smaller batch_size"
            )

    def _propose(self, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws rows without a check that a window can start there."""
        if not self.prioritized:
            return self._place(self.rng.integers(count, size=size))
        if self._priority_sums is None:
            self._priority_sums = np.cumsum(self._weights(), dtype=np.float64)
        sums = self._priority_sums
        at = np.searchsorted(sums, self.rng.random(size) * sums[-1], side="right")
        return self._from_index(np.minimum(at, len(sums) - 1))

    def _weights(self) -> np.ndarray:
        """(lanes · length,) weights; each row's probability is proportional to its weight."""
        priority = self.rows["priority"]
        if self._faded is not None:
            priority = priority * self._faded[(self.head[:, None] - 1 - np.arange(self.length)) % self.length]
        return priority.reshape(-1)

    def _from_index(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lane, at = np.divmod(index, self.length)
        newest = self.head[lane] - 1
        return lane, newest - (newest - at) % self.length

    def _draw_enumerated(self, window: Window, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lane, start = self._place(np.arange(self._count()))
        chosen = np.empty(len(reach), np.int64)
        for steps in np.unique(reach):
            rows = np.flatnonzero(reach == steps)
            can_start = np.flatnonzero(self._can_start(lane, start, window, np.full(len(lane), steps)))
            if not len(can_start):
                raise ReplayError(
                    f"no episode in the replay is as long as a sample, {steps} steps: collect more, or make n_step and "
                    f"horizon smaller"
                )
            if self.prioritized:
                at = lane[can_start] * self.length + start[can_start] % self.length
                weights = self._weights()[at].astype(np.float64)
                chosen[rows] = self.rng.choice(can_start, len(rows), p=weights / weights.sum())
            else:
                chosen[rows] = self.rng.choice(can_start, len(rows))
        return lane[chosen], start[chosen]

    def _read(
        self, lane: np.ndarray, start: np.ndarray, window: Window, gaps: dict[Gap, np.ndarray], by_offset: bool
    ) -> TensorDict:
        """The batch of the windows that start at these rows."""
        from tensordict import TensorDict  # takes over a second to import

        steps = self._steps(lane, start, window.span)
        offsets = dict.fromkeys((*window.observations, window.n_step))
        ahead = {
            offset: np.minimum(gaps[offset.drawn] + offset.plus if isinstance(offset, Gap) else offset, steps)
            for offset in offsets
        }
        seen = self._observations(lane, start, ahead)
        out: dict[str, Any] = {
            "observation": seen[0],
            "index": self._tensor(lane * self.length + start % self.length),
        }
        if "action" in self.rows:
            out["action"] = self._tensor(self._row("action", lane, start))
        if window.episode:
            out["episode"] = self._tensor(self._row("episode", lane, start).astype(np.int64) * self.num_envs + lane)
        if window.n_step:
            out |= self._transition(lane, start, window.n_step, ahead[window.n_step], seen[window.n_step])
        if window.actions:
            within = np.arange(window.actions) < steps[:, None]
            sequence = self._row("action", lane[:, None], start[:, None] + np.arange(window.actions))
            sequence[~within] = 0
            out["action_sequence"] = self._tensor(sequence)
        if window.rewards:
            out["sequence"] = self._rewards(lane, start, window.rewards, steps)
        taken = {offset: self._tensor(ahead[offset]) for offset in window.observations}
        if len(window.observations) == 1:
            (only,) = window.observations
            out |= {"future_observation": seen[only], "gap": taken[only]}
        if window.names:
            places = {0: start} | {offset: start + ahead[offset] for offset in offsets if offset}
            out["name"] = {str(offset): self._tensor(place * self.num_envs + lane) for offset, place in places.items()}
        if by_offset and window.observations:
            out["at"] = {str(offset): seen[offset] for offset in window.observations}
            out["steps"] = {str(offset): taken[offset] for offset in window.observations}
        return TensorDict(out, batch_size=[len(start)], device=self.device)

    def _transition(
        self, lane: np.ndarray, start: np.ndarray, n_step: int, steps: np.ndarray, next_observation: Tensor
    ) -> dict[str, Any]:
        rewards = self._row("reward", lane[:, None], start[:, None] + np.arange(n_step))
        taken = np.arange(n_step) < steps[:, None]
        weights = (self.discount ** np.arange(n_step) * taken).astype(np.float32)
        terminated = self._row("terminated", lane, start + steps - 1)
        return {
            "discount": self._tensor(np.where(terminated, 0, self.discount**steps).astype(np.float32)[:, None]),
            "next": {
                "observation": next_observation,
                "reward": self._tensor((rewards * weights).sum(1, keepdims=True)),
                "terminated": self._tensor(terminated[:, None]),
            },
        }

    def _rewards(self, lane: np.ndarray, start: np.ndarray, count: int, steps: np.ndarray) -> dict[str, Tensor]:
        valid = np.arange(count) < steps[:, None]
        at = lane[:, None], start[:, None] + np.arange(count)
        return {
            "reward": self._tensor((self._row("reward", *at) * valid)[..., None]),
            "terminated": self._tensor((self._row("terminated", *at) & valid)[..., None]),
            "valid": self._tensor(valid[..., None]),
        }

    def _observations(
        self, lane: np.ndarray, start: np.ndarray, ahead: dict[Offset, np.ndarray]
    ) -> dict[Offset, Tensor]:
        """Stacked observations by their offset, 0 included; `ahead` has the steps (B,) to each."""
        fixed = sorted({0, *(offset for offset in ahead if isinstance(offset, int))})
        frames = sorted({offset - back for offset in fixed for back in range(self.frame_stack)})
        whole = all((ahead[offset] == offset).all() for offset in fixed if offset)
        seen: dict[Offset, Tensor] = {}
        if whole and not self.black_before and len(frames) < len(fixed) * self.frame_stack:
            # Stacks that overlap share their frames.
            gathered = self._gather(lane, start, np.array(frames))
            for offset in fixed:
                first = frames.index(offset - self.frame_stack + 1)
                seen[offset] = gathered[:, first : first + self.frame_stack].flatten(1, 2)
        else:
            for offset in fixed:
                seen[offset] = self._stack(lane, start + ahead[offset] if offset else start)
        seen |= {offset: self._stack(lane, start + ahead[offset]) for offset in ahead if isinstance(offset, Gap)}
        return seen

    def _stack(self, lane: np.ndarray, position: np.ndarray) -> Tensor:
        """The stacked observation at each position, (B, F·C, H, W) on the samples' device."""
        back = -np.arange(self.frame_stack)[::-1]
        stacks = self._gather(lane, position, back)
        if self.black_before:
            before = -back > self._row("step", lane, position)[:, None]
            stacks[torch.from_numpy(before)] = 0
        return stacks.flatten(1, 2)

    def _gather(self, lane: np.ndarray, position: np.ndarray, offsets: np.ndarray) -> Tensor:
        """Single frames (B, n, C, H, W) at `offsets` (n,) from each position; before an episode, its first frame."""
        first = -self._row("step", lane, position)[:, None]
        flat = lane[:, None] * self.length + (position[:, None] + np.maximum(offsets, first)) % self.length
        index = self._tensor(flat.reshape(-1), self._frames.device)
        frames = self._frames.flatten(0, 1).index_select(0, index)
        return frames.view(*flat.shape, *self.frame_shape).to(self.device)

    def _tensor(self, array: np.ndarray, device: torch.device | None = None) -> Tensor:
        device = self.device if device is None else device
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _reach(window: Window, gaps: dict[Gap, np.ndarray], batch_size: int) -> np.ndarray:
    """(B,) how many steps ahead each row of a batch reads."""
    fixed = (offset for offset in window.observations if isinstance(offset, int))
    reach = np.full(batch_size, max(0, window.n_step, window.actions, window.rewards, *fixed))
    for offset in window.observations:
        if isinstance(offset, Gap):
            reach = np.maximum(reach, gaps[offset.drawn] + offset.plus)
    return reach


def host(values: Any) -> np.ndarray:
    """Copies a tensor on any device, with or without a graph, to host memory."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
