"""An environment streamed into a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from rlrep.arguments import checked_numbers
from rlrep.bounds import Count
from rlrep.data.episodes import EpisodeDataset
from rlrep.data.pictures import Layout, newest_frames, resize
from rlrep.data.reading import AT_ONCE


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
    """Plays a Gymnasium environment that is seen through pixels, and keeps what it shows.

    Args:
        env: one environment; observations uint8 (H, W, C) or (C, H, W), of stacked ones the newest frame is kept.
        policy: from an observation to an action; None draws actions uniformly from the action space.
        num_frames: N, frames to keep; the last episode is cut there.
        image_size: height and width to resize frames to, None to keep theirs.
        frame_stack, max_gap: of the data set.
        seed: of the environment, the random actions and the sampler.
        channels_last, frame_channels: how observations are laid out, see `open_video`; None where their shape tells.

    Returns:
        The data set with its actions, and with `state` and `noise` where the environment's `info` holds them.

    Raises:
        ValueError: for other observations, sizes below 1, or if no episode is longer than `max_gap`.
    """
    layout = Layout(channels_last, frame_channels)
    rows: dict[str, np.ndarray] = {}

    def keep(at: int, name: str, value: np.ndarray) -> None:
        if name not in rows:
            rows[name] = np.zeros((num_frames, *value.shape), value.dtype)
        rows[name][at] = value

    lengths: list[int] = []
    early: list[np.ndarray] = []
    for at, step in enumerate(islice(_play(env, policy, seed), num_frames)):
        if step.first:
            lengths.append(0)
        lengths[-1] += 1
        pictures = np.asarray(step.observation)[None]
        frame = newest_frames(pictures, layout)
        if at < AT_ONCE:
            early.append(pictures.copy())  # the environment may draw into the same array again
            newest_frames(np.concatenate(early), layout)  # several show whether grey frames are stacked
        keep(at, "frame", (frame if image_size is None else resize(frame, image_size))[0])
        for name in {"state", "noise"} & step.info.keys():
            keep(at, name, np.atleast_1d(np.asarray(step.info[name])))
        if step.action is not None:
            action = np.asarray(step.action)
            keep(at, "action", action.astype(np.int64 if action.dtype.kind in "iu" else np.float32))
    dataset = EpisodeDataset(
        rows["frame"],
        lengths,
        action=rows.get("action"),
        frame_stack=frame_stack,
        max_gap=max_gap,
        seed=seed,
    )
    dataset.state, dataset.noise = rows.get("state"), rows.get("noise")
    return dataset


class _Step(NamedTuple):
    first: bool
    observation: Any
    info: dict[str, Any]
    action: Any  # None at an episode's end


def _play(env: Any, policy: Callable[[np.ndarray], Any] | None, seed: int) -> Iterator[_Step]:
    """Episodes without an end, frame by frame."""
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    first, over = True, False
    while True:
        action = None
        if not over:
            action = env.action_space.sample() if policy is None else policy(observation)
        yield _Step(first, observation, info, action)
        first = over
        if over:
            observation, info = env.reset()
            over = False
        else:
            observation, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
