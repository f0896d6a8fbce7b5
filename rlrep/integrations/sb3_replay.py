"""The sources of K-step sequences for objectives in Stable-Baselines3: a replay buffer, or PPO's rollouts."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import Count, Share
from rlrep.integrations.sb3_policies import pixel_space
from rlrep.replay import Episodes, ReplayError
from rlrep.replay import ReplayBuffer as Frames
from rlrep.window import Window

if TYPE_CHECKING:
    from tensordict import TensorDict

Observations = np.ndarray | dict[str, np.ndarray]


class _Frames(Frames):
    """The shared replay, adapted to Stable-Baselines3, which draws batches that are larger than the data, and marks an
    episode's last observation itself."""

    left_out: np.ndarray
    """(num_envs,) bool: the environments whose next transition is not stored."""

    def _check_filled(self, batch_size: int) -> None:
        """No check: a batch may be larger than the data."""

    def _resets(self, *_: Any) -> np.ndarray:
        return self.left_out


class SequenceReplayBuffer(ReplayBuffer):
    """Stable-Baselines3's replay buffer with every frame stored once, which also gives sequences of K steps.

    Batches are those of Stable-Baselines3's own buffer, `Dict` observations, `dones` without time limits and
    `VecNormalize` included: uniform over its transitions, with a separate generator that NumPy's global one seeds. Pass
    it as ``replay_buffer_class``. ``replay_buffer_kwargs=dict(n_steps=3, gamma=0.99, shift=4)`` gives the agent the
    batches of DrQ-v2 (arXiv 2107.09645).

    Args:
        buffer_size: frames kept over all environments; an episode of T transitions takes T + 1.
        observation_space, action_space, device, n_envs, handle_timeout_termination: as Stable-Baselines3 has them.
        optimize_memory_usage: leave it out, because every frame is stored once anyway.
        frame_stack: frames in an observation, oldest first. None assumes stacks of RGB if three divides the channels,
            of grey frames otherwise. 1 works for every environment, and stores whole observations.
        pixel_key: which key of ``Dict`` observations holds the pixels; None if only one does.
        n_steps: steps summed in the reward of a transition; fewer only where the episode really ends.
        gamma: their discount, the model's own; without effect on single steps.
        shift: pixels by which each picture of a batch is shifted at random; 0 for none. Objectives have an augmentation
            of their own.

    Raises:
        ValueError: for spaces without pixels or with actions that are neither a vector nor one choice, and for
            `optimize_memory_usage`; in `add` for observations that are no such stacks.
        ReplayError: if the frames do not fit into memory.
    """

    @checked_numbers
    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        frame_stack: int | None = None,
        pixel_key: str | None = None,
        n_steps: int = 1,
        gamma: Share = 0.99,
        shift: Count = 0,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError("SequenceReplayBuffer keeps every frame once already: leave optimize_memory_usage out")
        # Not ReplayBuffer's, which allocates two whole stacks per transition.
        BaseBuffer.__init__(self, max(buffer_size // n_envs, 1), observation_space, action_space, device, n_envs)
        self.handle_timeout_termination, self.optimize_memory_usage = handle_timeout_termination, False
        self.n_steps, self.gamma, self.augment = n_steps, gamma, RandomShift(shift)
        self.pixel_key, pixels = pixel_space(observation_space, pixel_key)
        channels = pixels.shape[0]
        if frame_stack is None:
            frame_stack = channels // 3 if channels % 3 == 0 else channels
        try:
            self.frames = _Frames(
                pixels.shape,
                in_unit_bounds(action_space),
                buffer_size,
                frame_stack=frame_stack,
                n_step=1,
                num_envs=n_envs,
                device="cpu",
                seed=int(np.random.randint(2**31)),
            )
        except ReplayError as error:
            raise ReplayError(
                f"buffer_size={buffer_size:,} is too large for this machine ({error}); a model that only predicts is "
                f"loaded with load(path, buffer_size=1000)"
            ) from error
        self.frames.left_out = np.zeros(n_envs, bool)
        self.consistent = np.zeros(n_envs, bool)  # environments that have shown stacks of consecutive frames
        self.cut = np.zeros(n_envs, bool)  # environments whose next observation is in the middle of an episode
        shapes: Any = self.obs_shape if isinstance(observation_space, spaces.Dict) else {}
        self.vectors = {
            name: np.zeros((n_envs, self.frames.length, *shape), observation_space[name].dtype)  # type: ignore[index]
            for name, shape in shapes.items()
            if name != self.pixel_key
        }

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take."""
        return self.frames.nbytes + sum(array.nbytes for array in self.vectors.values())

    def size(self) -> int:
        """Transitions held, over all environments."""
        return len(self.frames)

    def reset(self) -> None:
        """Not supported: make a new buffer."""
        raise NotImplementedError("a SequenceReplayBuffer is not emptied: make a new one")

    def add(
        self,
        obs: Observations,
        next_obs: Observations,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """One transition of each environment, as Stable-Baselines3 calls it."""
        frames, pixels, next_pixels = self.frames, self._pixels(obs), self._pixels(next_obs)
        self._end_episodes_that_were_reset(pixels)
        self._check_stacks(pixels, next_pixels)
        done = np.asarray(done, bool)
        truncated = done & [
            self.handle_timeout_termination and info.get("TimeLimit.truncated", False) for info in infos
        ]
        frames.add(
            observation=pixels,
            action=np.reshape(action, self.n_envs if frames.discrete else (self.n_envs, -1)),
            reward=reward,
            next_observation=next_pixels,
            terminated=done & ~truncated,
            truncated=truncated,
        )
        lanes = np.flatnonzero(~frames.left_out)
        for name, array in self.vectors.items():
            for age, seen in ((2, obs), (1, next_obs)):
                values = np.reshape(seen[name], array[:, 0].shape)
                array[lanes, (frames.head[lanes] - age) % frames.length] = values[lanes]

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """`batch_size` transitions, drawn uniformly with replacement. With several steps, `rewards` are their sums, and
        `discounts` the factors of the next value. While no episode is that long, they are of one step."""
        frames, n_steps = self.frames, self.n_steps
        try:
            lane, start = frames._draw(batch_size, Window(n_steps), {})
        except ReplayError:
            lane, start = frames._draw(batch_size, Window(n_steps := 1), {})
        action = frames._row("action", lane, start).reshape(batch_size, -1)
        steps = frames._steps(lane, start, n_steps)
        done = frames._row("terminated", lane, start + steps - 1).astype(np.float32).reshape(-1, 1)
        ahead = np.arange(n_steps)
        rewards = self._normalize_reward(frames._row("reward", lane[:, None], start[:, None] + ahead), env)
        weights = np.where(ahead < steps[:, None], self.gamma**ahead, 0)
        samples = ReplayBufferSamples if self.pixel_key is None else DictReplayBufferSamples
        return samples(
            self._observations(lane, start, env),
            self.to_torch(action),
            self._observations(lane, start + steps, env),
            self.to_torch(done),
            self.to_torch((rewards * weights).sum(1, keepdims=True).astype(np.float32)),
            None if self.n_steps == 1 else self.to_torch((self.gamma ** steps[:, None]).astype(np.float32)),
        )

    def windows(self, batch_size: int, window: Window, discount: float, rng: np.random.Generator) -> TensorDict:
        """`batch_size` windows, see `rlrep.ReplayBuffer.sample`; what the agent will draw does not change. An
        objective that reads the n-step reward of any n gets that of one step, as Stable-Baselines3's own updates.

        Raises:
            ReplayError: while no episode is that long.
        """
        view = copy.copy(self.frames)  # the same rows with another reader
        view.discount, view.rng = discount, rng
        return view.sample(batch_size, window).to(self.device)

    def _pixels(self, observations: Observations) -> np.ndarray:
        return observations if isinstance(observations, np.ndarray) else observations[self.pixel_key]  # type: ignore[index]

    def _end_episodes_that_were_reset(self, pixels: np.ndarray) -> None:
        """Ends episodes that a second `learn` has cut: it resets environments without telling the buffer."""
        frames = self.frames
        lanes = np.flatnonzero(frames.running)
        last = frames.frames[lanes, (frames.head[lanes] - 1) % frames.length].numpy()
        for lane in lanes[(last != pixels[lanes, -frames.frame_shape[0] :]).any((1, 2, 3))]:
            frames._end_episode(int(lane))

    def _check_stacks(self, pixels: np.ndarray, next_pixels: np.ndarray) -> None:
        """Refuses observations that can't be formed again from single frames, and leaves out the transitions of
        environments that have moved on while Stable-Baselines3 looked away: a callback that ended `learn` between a
        step and its storage, or an evaluation in the same environments."""
        frames, channels = self.frames, self.frames.frame_shape[0]
        if frames.frame_stack == 1:
            return
        skipping = (pixels[:, channels:] != next_pixels[:, :-channels]).any((1, 2, 3))
        if (skipping & ~self.consistent).any():
            raise ValueError(
                f"these observations are no stacks of their last {frames.frame_stack} frames of {channels} channels, "
                f"oldest first: give replay_buffer_kwargs=dict(frame_stack=...), 1 if they are no stacks at all"
            )
        begins = ~frames.running & ~skipping
        first = pixels[begins & ~self.cut].reshape(-1, frames.frame_stack, *frames.frame_shape)
        black = ~first[:, :-1].any((1, 2, 3, 4)) & first[:, -1].any((1, 2, 3))
        if (~black & (first != first[:, -1:]).any((1, 2, 3, 4))).any():
            raise ValueError(
                "the first observation of an episode is a stack with earlier frames, as of a wrapper that steps inside "
                "of reset: put the stacking outside of it, or give replay_buffer_kwargs=dict(frame_stack=1)"
            )
        frames.black_before |= bool(black.any())
        for lane in np.flatnonzero(skipping & frames.running):
            frames._end_episode(int(lane))
        frames.left_out = skipping
        self.cut = (self.cut & ~begins) | skipping
        # A stack in which nothing moves fits any order and number of frames.
        self.consistent |= ~skipping & (pixels[:, channels:] != pixels[:, :-channels]).any((1, 2, 3))

    def _observations(self, lane: np.ndarray, position: np.ndarray, env: VecNormalize | None) -> Any:
        seen_pixels = self.frames._stack(lane, position)
        pixels: Observations = (self.augment(seen_pixels) if self.augment.pad else seen_pixels).numpy()
        if self.pixel_key is not None:
            vectors = {name: array[lane, position % self.frames.length] for name, array in self.vectors.items()}
            pixels = {self.pixel_key: pixels, **vectors}  # type: ignore[dict-item]
        seen = self._normalize_obs(pixels, env)
        if isinstance(seen, dict):
            return {name: self.to_torch(array, copy=False) for name, array in seen.items()}
        return self.to_torch(seen, copy=False)


class RolloutSequences(Episodes):
    """Windows of the rollout that an on-policy algorithm is about to learn from; none crosses an episode's start.

    Made before `train`, which flattens the rollout's arrays.

    Args:
        buffer: a full rollout buffer.
        action_space: of the environment: actions are clipped to it, as those that were taken, and scaled to [-1, 1].
        pixel_key: of the pixels in ``Dict`` observations.
        squashed: whether the policy's actions are in [-1, 1] already, by its ``squash_output``.
    """

    def __init__(
        self, buffer: RolloutBuffer, action_space: spaces.Space, pixel_key: str | None, squashed: bool = False
    ) -> None:
        seen: Any = buffer.observations
        pixels: np.ndarray = seen if pixel_key is None else seen[pixel_key]
        starts = np.asarray(buffer.episode_starts, bool).T
        time = np.broadcast_to(np.arange(starts.shape[1]), starts.shape)
        rows = {
            "step": time - np.maximum.accumulate(np.where(starts, time, 0), axis=1),
            "episode": np.cumsum(starts, axis=1),
            "reward": np.ascontiguousarray(buffer.rewards.T),
            "terminated": np.zeros(starts.shape, bool),  # the observation after a real end is not in the rollout
        }
        actions = taken(buffer.actions, action_space, squashed)
        if actions is not None:
            rows["action"] = np.ascontiguousarray(actions.swapaxes(0, 1))
        frames = torch.from_numpy(np.ascontiguousarray(pixels.swapaxes(0, 1)))
        super().__init__(frames, rows, Window(1))
        self.put_on = buffer.device

    def _check_filled(self, batch_size: int) -> None:
        """No check: a batch may be larger than the rollout."""

    def windows(self, batch_size: int, window: Window, discount: float, rng: np.random.Generator) -> TensorDict:
        """`batch_size` windows, see `SequenceReplayBuffer.windows`.

        Raises:
            ReplayError: if no episode of the rollout is as long as a window.
        """
        self.discount, self.rng = discount, rng
        try:
            return self.sample(batch_size, window).to(self.put_on)
        except ReplayError as error:
            raise ReplayError(
                f"no episode in this rollout has {window.span} steps and what follows them: make n_steps larger, or "
                f"the objective's horizon smaller"
            ) from error


def taken(actions: np.ndarray, space: spaces.Space, squashed: bool) -> np.ndarray | None:
    """(…, A) float32 in [-1, 1] or (…,) int64; None for actions that objectives can't read."""
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        if squashed:
            return np.clip(actions, -1, 1).astype(np.float32)
        length = np.where(space.high > space.low, space.high - space.low, 1)  # a number that never varies becomes -1
        return (2 * (np.clip(actions, space.low, space.high) - space.low) / length - 1).astype(np.float32)
    return actions[..., 0].astype(np.int64) if isinstance(space, spaces.Discrete) else None


def in_unit_bounds(space: spaces.Space) -> Any:
    """The space of the actions that Stable-Baselines3 stores, which it scales to [-1, 1]."""
    return SimpleNamespace(shape=space.shape) if isinstance(space, spaces.Box) else space
