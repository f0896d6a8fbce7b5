"""Video: episodes of frames, with or without the actions between them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlrep.arguments import checked_numbers
from rlrep.bounds import Between, Count
from rlrep.replay import Episodes
from rlrep.window import Gap, Window

__all__ = ["EpisodeDataset"]


class EpisodeDataset(Episodes):
    """Video data: whole episodes of frames, with or without the actions between them.

    Each frame is stored once; stacks are formed when sampling. A sample never crosses an episode's end; before an
    episode's first frame, a stack repeats that frame. A memory-mapped `frames` is read from disk when sampled, so it
    may be larger than memory.

    Args:
        frames: (N, C, H, W) uint8, all episodes one after the other.
        lengths: (E,) frames of each episode, which sum to N.
        action: (N, A) float32 or (N,) int64; row i was taken at frame i, the last row of an episode is unused. None
            without actions.
        frame_stack: F ≥ 1 frames in an observation, oldest first.
        max_gap: K ≥ 1, the most steps between the observations of a pair, for samples without their own window.
        seed: of the sampler.

    Attributes:
        state: (N, S), ``info["state"]`` at each frame, as `record` found it, else None. Rows are as in `frames`; after
            a split, this data set's rows are ``state[dataset.index]``.
        noise: (N, M) float32, the same of ``info["noise"]``.
        skipped: the files that `open_video` left out, with the reason.

    Raises:
        ValueError: for other shapes or types, a gap or stack below 1, or if no episode is longer than the gap.
    """

    @checked_numbers
    def __init__(
        self,
        frames: np.ndarray,
        lengths: np.ndarray | Sequence[int],
        *,
        action: np.ndarray | None = None,
        frame_stack: int = 1,
        max_gap: int = 1,
        seed: Count = 0,
    ) -> None:
        lengths = np.asarray(lengths, np.int64).reshape(-1)
        if frames.ndim != 4 or frames.dtype != np.uint8:
            raise ValueError(f"frames must be (N, C, H, W) uint8, got {frames.shape} {frames.dtype}")
        if (lengths < 1).any() or lengths.sum() != len(frames):
            raise ValueError(
                f"lengths must be at least 1 and sum to the {len(frames)} frames, got {len(lengths)} that sum to "
                f"{lengths.sum()}"
            )
        if action is not None and (len(action) != len(frames) or action.dtype not in (np.float32, np.int64)):
            raise ValueError(
                f"action must be float32 or int64, with a row for each of the {len(frames)} frames, got "
                f"{action.dtype} and {len(action)} rows"
            )
        ends = np.cumsum(lengths)
        starts = ends - lengths
        rows: dict[str, np.ndarray] = {
            "step": (np.arange(len(frames)) - np.repeat(starts, lengths)).astype(np.int32)[None],
            "episode": np.repeat(np.arange(len(lengths)), lengths)[None],
        }
        if action is not None:
            rows["action"] = action[None]
        window = Window(observations=(Gap(max_gap),))
        super().__init__(readable(frames)[None], rows, window, frame_stack=frame_stack, seed=seed)
        self.frames, self.action, self.max_gap = frames, action, max_gap
        self.state: np.ndarray | None = None
        self.noise: np.ndarray | None = None
        self.skipped: dict[str, str] = {}
        self._choose(np.stack([starts, ends], 1))

    def _choose(self, episodes: np.ndarray) -> None:
        """Restricts this data set to `episodes`, (E, 2) first and end rows in `frames`."""
        self.episodes = episodes
        self.lengths = episodes[:, 1] - episodes[:, 0]
        if not len(episodes) or self.lengths.max() <= self.max_gap:
            raise ValueError(
                f"no episode is longer than max_gap={self.max_gap} frames (the longest has "
                f"{self.lengths.max(initial=0)}): choose a smaller max_gap, or longer videos"
            )
        self.index = np.concatenate([np.arange(first, end) for first, end in episodes])

    def __len__(self) -> int:
        """The number of pairs of consecutive frames."""
        return self.num_frames - self.num_episodes

    def _count(self) -> int:
        return len(self.index)

    def _place(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(number), np.int64), self.index[number]

    def _check_filled(self, batch_size: int) -> None:
        """No check: video is finished, so a batch may be larger than the data."""

    @property
    def most_transitions(self) -> int:
        """No limit, as in `_check_filled`."""
        return sys.maxsize

    @property
    def longest_episode(self) -> int:
        """Steps of the longest episode."""
        return int(self.lengths.max()) - 1

    @property
    def num_frames(self) -> int:
        """The number of frames of all episodes, without other splits."""
        return int(self.lengths.sum())

    @property
    def num_episodes(self) -> int:
        """The number of episodes."""
        return len(self.lengths)

    def videos(self) -> list[np.ndarray]:
        """The frames of each episode, (T, C, H, W) uint8, without copying; `rlrep.envs.Noise` draws them."""
        return [self.frames[first:end] for first, end in self.episodes]

    def stack(self, index: np.ndarray) -> Tensor:
        """Observations at rows `index` (B,) of `frames`: (B, F·C, H, W) uint8.

        Raises:
            ValueError: for a row that no episode of this data set holds.
        """
        index = np.asarray(index, np.int64)
        episode = np.searchsorted(self.episodes[:, 0], index, side="right") - 1
        if (episode < 0).any() or (index >= self.episodes[episode, 1]).any():
            raise ValueError("index holds rows outside this data set's episodes: take them from `index`")
        return self._stack(np.zeros_like(index), index)

    @checked_numbers
    def split(self, fraction: Between = 0.1, seed: Count = 0) -> tuple[EpisodeDataset, EpisodeDataset]:
        """(training, validation), by whole episodes; both share the frames' memory.

        Args:
            fraction: in (0, 1), share of the episodes for validation; at least one is on each side.
            seed: of the choice of episodes.

        Raises:
            ValueError: for a fraction out of range, fewer than two episodes, or a side without an episode longer than
                the largest gap.
        """
        if self.num_episodes < 2:
            raise ValueError(
                "a data set of one episode can't be split by episodes: give more videos, or cut this one into files"
            )
        count = min(max(round(fraction * self.num_episodes), 1), self.num_episodes - 1)
        order = np.random.default_rng(seed).permutation(self.num_episodes)
        return self.select(np.sort(order[count:])), self.select(np.sort(order[:count]))

    def select(self, episodes: np.ndarray) -> EpisodeDataset:
        """A data set of only these episodes, by their numbers; it shares the frames' memory and has its own sampler.

        Raises:
            ValueError: if none of them is longer than the largest gap.
        """
        part = EpisodeDataset.__new__(EpisodeDataset)
        part.__dict__.update(self.__dict__)
        part.rng = self.rng.spawn(1)[0]
        part._choose(self.episodes[episodes])
        return part


def readable(frames: np.ndarray) -> Tensor:
    """Frames as a tensor, without copying. Writing to a read-only mapping would crash the process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(frames)
