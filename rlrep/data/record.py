"""Records an environment as a data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

import numpy as np

from rlrep.arguments import checked_numbers
from rlrep.bounds import Count
from rlrep.data.episodes import EpisodeDataset
from rlrep.data.pictures import UNKNOWN, Layout, newest_frames, resize
from rlrep.data.reading import AT_ONCE

Recorded = dict[str, np.ndarray]


@checked_numbers
def record(
    env: Any,
    policy: Callable[[np.ndarray], Any] | None,
    num_frames: int,
    *,
    image_size: int | None = None,
    frame_stack: int = 1,
    max_gap: int = 1,
    seed: Count = 0,
    channels_last: bool | None = None,
    frame_channels: int | None = None,
) -> EpisodeDataset:
    """Plays a Gymnasium environment with pixel observations, and records its frames.

    Args:
        env: one environment; observations uint8 (H, W, C) or (C, H, W). The newest frame of a stack is stored.
        policy: from an observation to an action; None draws actions uniformly from the action space.
        num_frames: N, frames to record; the last episode is cut there.
        image_size: height and width of recorded frames, None for the original size.
        frame_stack, max_gap: of the data set.
        seed: of the environment, the random actions and the sampler.
        channels_last, frame_channels: the layout of observations, see `open_video`; None detects it from their shape.

    Returns:
        The data set with its actions, and with `state` and `noise` if the environment's `info` has them.

    Raises:
        ValueError: for other observations, sizes below 1, or if no episode is longer than `max_gap`.
    """
    recorder = Recorder(env, policy, image_size, Layout(channels_last, frame_channels))

    def episodes() -> Iterator[Recorded]:
        env.action_space.seed(seed)
        left, reset = num_frames, {"seed": seed}
        while left:
            yield (rows := recorder.episode(left, **reset))
            left, reset = left - len(rows["frame"]), {}

    return gathered(episodes(), num_frames, frame_stack=frame_stack, max_gap=max_gap, seed=seed)


class Recorder:
    """Records an environment, one episode at a time.

    Args:
        env, policy, image_size: see `record`.
        layout: of the observations.
    """

    def __init__(
        self,
        env: Any,
        policy: Callable[[np.ndarray], Any] | None = None,
        image_size: int | None = None,
        layout: Layout = UNKNOWN,
    ) -> None:
        self.env, self.policy, self.image_size, self.layout = env, policy, image_size, layout
        self.early: list[np.ndarray] = []

    def episode(self, most: int, **reset: Any) -> Recorded:
        """Plays an episode, or its first `most` frames; `reset` has the arguments of the environment's reset.

        Returns:
            `frame` (T, C, H, W); `action` (T, …), row i taken at frame i and the last row zeros, if T > 1; `state` and
            `noise` if `info` has them.
        """
        seen: dict[str, list[tuple[int, np.ndarray]]] = defaultdict(list)
        observation, info = self.env.reset(**reset)
        over = False
        for at in count():
            seen["frame"].append((at, self._frame(observation)))
            for name in {"state", "noise"} & info.keys():
                seen[name].append((at, np.array(info[name], ndmin=1)))
            if over or at + 1 == most:
                break
            action = self.env.action_space.sample() if self.policy is None else self.policy(observation)
            kept = np.asarray(action)
            seen["action"].append((at, kept.astype(np.int64 if kept.dtype.kind in "iu" else np.float32)))
            observation, _, terminated, truncated, info = self.env.step(action)
            over = terminated or truncated
        return {name: _column(values, len(seen["frame"])) for name, values in seen.items()}

    def _frame(self, observation: Any) -> np.ndarray:
        pictures = np.asarray(observation)[None]
        frame = newest_frames(pictures, self.layout)
        if len(self.early) < AT_ONCE:
            self.early.append(pictures.copy())  # the environment may reuse the array
            newest_frames(np.concatenate(self.early), self.layout)  # enough to detect stacked grey frames
        return frame[0].copy() if self.image_size is None else resize(frame, self.image_size)[0]


def _column(values: list[tuple[int, np.ndarray]], length: int) -> np.ndarray:
    """(length, …), zeros where values are missing."""
    _, first = values[0]
    column = np.zeros((length, *first.shape), first.dtype)
    for at, value in values:
        column[at] = value
    return column


def gathered(episodes: Iterable[Recorded], num_frames: int, **options: Any) -> EpisodeDataset:
    """A data set of episodes with `num_frames` in total; takes one episode at a time.

    Args:
        episodes: results of `Recorder.episode`.
        num_frames: N.
        options: of `EpisodeDataset`.

    Raises:
        ValueError: if some episodes of more than one frame have entries that others lack.
    """
    rows: Recorded = {}
    lengths: list[int] = []
    names: set[str] = set()
    for episode in episodes:
        first, length = sum(lengths), len(episode["frame"])
        if length > 1:  # an episode that was cut at its first frame has no action, and perhaps no state
            names = names or set(episode)
            if names != episode.keys():
                raise ValueError(
                    f"an episode has {', '.join(sorted(episode))}, and earlier ones have {', '.join(sorted(names))}: "
                    f"the environment's info needs state and noise in all episodes, or in none"
                )
        for name, values in episode.items():
            if name not in rows:
                rows[name] = np.zeros((num_frames, *values.shape[1:]), values.dtype)
            rows[name][first : first + length] = values
        lengths.append(length)
    dataset = EpisodeDataset(rows["frame"], lengths, action=rows.get("action"), **options)
    dataset.state, dataset.noise = rows.get("state"), rows.get("noise")
    return dataset
