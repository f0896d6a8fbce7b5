"""Episodes of frames, sampled as pairs of observations some steps apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from tensordict import TensorDict

__all__ = ["EpisodeDataset"]


def check_at_least_one(**values: int) -> None:
    """Refuses options that must be at least 1, by their names."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


class EpisodeDataset:
    """Video data: whole episodes of frames, with or without the actions between them.

    Each frame is stored once; stacks are formed when sampling. A pair never crosses an episode's end; a stack repeats
    its episode's first frame before it. A memory-mapped `frames` is read from the disk as it is sampled, so that it may
    be larger than memory.

    Args:
        frames: (N, C, H, W) uint8, all episodes one after the other.
        lengths: (E,) frames of each episode, which sum to N.
        action: (N, A) float32 or (N,) int64; row i was taken at frame i, the last row of an episode is unused. None
            where there are none.
        frame_stack: F ≥ 1 frames in an observation, oldest first.
        max_gap: K ≥ 1, the most steps between the observations of a pair.
        seed: of the sampler.

    Attributes:
        state: (N, S), what `record` found in ``info["state"]`` at each frame, else None. Rows as in `frames`: those of
            this data set, after a split, are ``state[dataset.index]``.
        noise: (N, M) float32, the same of ``info["noise"]``.
        skipped: what `open_video` left out, with the reason.

    Raises:
        ValueError: for other shapes or types, a gap or stack below 1, or if no episode is longer than the gap.
    """

    def __init__(
        self,
        frames: np.ndarray,
        lengths: np.ndarray | Sequence[int],
        *,
        action: np.ndarray | None = None,
        frame_stack: int = 1,
        max_gap: int = 1,
        seed: int = 0,
    ) -> None:
        lengths = np.asarray(lengths, np.int64).reshape(-1)
        if frames.ndim != 4 or frames.dtype != np.uint8:
            raise ValueError(f"frames must be (N, C, H, W) uint8, got {frames.shape} {frames.dtype}")
        if (lengths < 1).any() or lengths.sum() != len(frames):
            raise ValueError(
                f"lengths must be at least 1 and sum to the {len(frames)} frames, got {len(lengths)} that sum to "
                f"{lengths.sum()}"
            )
        if action is not None and len(action) != len(frames):
            raise ValueError(f"action must have a row for each of the {len(frames)} frames, got {len(action)}")
        check_at_least_one(frame_stack=frame_stack, max_gap=max_gap)
        self.frames, self.action = frames, action
        self.frame_stack, self.max_gap = frame_stack, max_gap
        self.state: np.ndarray | None = None
        self.noise: np.ndarray | None = None
        self.skipped: dict[str, str] = {}
        self.rng = np.random.default_rng(seed)
        ends = np.cumsum(lengths)
        self._choose(np.stack([ends - lengths, ends], 1))

    def _choose(self, episodes: np.ndarray) -> None:
        """Makes `episodes`, (E, 2) first and end rows in `frames`, the ones of this data set."""
        self.episodes = episodes
        self.lengths = episodes[:, 1] - episodes[:, 0]
        # Places of the pairs with gap k, counted on over all episodes: an episode of n frames has n - k of them.
        self._places = [np.cumsum(np.maximum(self.lengths - k, 0)) for k in range(1, self.max_gap + 1)]
        if not len(episodes) or self._places[-1][-1] == 0:
            raise ValueError(
                f"no episode is longer than max_gap={self.max_gap} frames (the longest has "
                f"{self.lengths.max(initial=0)}): choose a smaller max_gap, or longer videos"
            )

    def __len__(self) -> int:
        """Pairs (t, t + k) that can be drawn, over all gaps."""
        return sum(int(places[-1]) for places in self._places)

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """(F·C, H, W)."""
        channels, height, width = self.frames.shape[1:]
        return self.frame_stack * channels, height, width

    @property
    def num_frames(self) -> int:
        """Frames of all episodes, those of other splits not counted."""
        return int(self.lengths.sum())

    @property
    def num_episodes(self) -> int:
        return len(self.lengths)

    @property
    def index(self) -> np.ndarray:
        """(num_frames,) rows in `frames` (and in `action`) of this data set's frames, in order."""
        return np.concatenate([np.arange(first, end) for first, end in self.episodes])

    def sample(self, batch_size: int) -> TensorDict:
        """`batch_size` pairs: the gap uniform in 1..max_gap, then the first frame uniform among those that have one so
        many steps later in their episode. With replacement.

        Returns:
            A TensorDict of batch size (B,): `observation` and `future_observation` (B, F·C, H, W) uint8, `gap` (B,)
            int64, and `action` where there are any.
        """
        from tensordict import TensorDict  # takes over a second to import

        gap = self.rng.integers(1, self.max_gap + 1, batch_size)
        place = self.rng.integers(np.array([places[-1] for places in self._places])[gap - 1])
        first = np.empty(batch_size, np.int64)
        start = np.empty(batch_size, np.int64)
        for k, places in enumerate(self._places, 1):
            chosen = gap == k
            at = place[chosen]
            episode = np.searchsorted(places, at, side="right")
            first[chosen] = self.episodes[episode, 0]
            # `at` counts from the first pair of the first episode; places[episode] is where this one's pairs end.
            start[chosen] = self.episodes[episode, 1] - k - places[episode] + at
        batch = self._gather(np.stack([start, start + gap]), first)
        values: dict[str, Any] = {
            "observation": batch[0],
            "future_observation": batch[1],
            "gap": torch.from_numpy(gap),
        }
        if self.action is not None:
            values["action"] = torch.from_numpy(self.action[start])
        return TensorDict(values, batch_size=[batch_size])

    def stack(self, index: np.ndarray) -> Tensor:
        """Observations at rows `index` (B,) of `frames`: (B, F·C, H, W) uint8.

        Raises:
            ValueError: for a row that no episode of this data set holds.
        """
        index = np.asarray(index, np.int64)
        episode = np.searchsorted(self.episodes[:, 0], index, side="right") - 1
        if (episode < 0).any() or (index >= self.episodes[episode, 1]).any():
            raise ValueError("index holds rows outside this data set's episodes: take them from `index`")
        return self._gather(index, self.episodes[episode, 0])

    def split(self, fraction: float = 0.1, seed: int = 0) -> tuple[EpisodeDataset, EpisodeDataset]:
        """(training, validation), by whole episodes; both share the frames' memory.

        Args:
            fraction: in (0, 1), share of the episodes for validation; at least one is on each side.
            seed: which ones.

        Raises:
            ValueError: for a fraction out of range, fewer than two episodes, or a side without an episode longer than
                the largest gap.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must lie between 0 and 1, got {fraction}")
        if self.num_episodes < 2:
            raise ValueError("a data set of one episode can't be split by episodes: give more videos")
        count = min(max(round(fraction * self.num_episodes), 1), self.num_episodes - 1)
        order = np.random.default_rng(seed).permutation(self.num_episodes)
        return self.select(np.sort(order[count:])), self.select(np.sort(order[:count]))

    def select(self, episodes: np.ndarray) -> EpisodeDataset:
        """The data set of these episodes only, by their numbers; it shares the frames' memory and samples on its own.

        Raises:
            ValueError: if none of them is longer than the largest gap.
        """
        part = EpisodeDataset.__new__(EpisodeDataset)
        part.__dict__.update(self.__dict__)
        part.rng = self.rng.spawn(1)[0]
        part._choose(self.episodes[episodes])
        return part

    def state_dict(self) -> dict[str, Any]:
        """The sampler's random state, as plain values."""
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]

    def _gather(self, index: np.ndarray, first: np.ndarray) -> Tensor:
        """Stacks that end at rows `index` (..., B); `first` (B,) is where their episodes begin."""
        rows = np.maximum(index[..., None] - np.arange(self.frame_stack - 1, -1, -1), first[..., None])
        frames = torch.from_numpy(self.frames[rows.reshape(-1)])
        return frames.reshape(*index.shape, *self.observation_shape)
