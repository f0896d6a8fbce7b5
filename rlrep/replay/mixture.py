"""Batches from two stores of episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlrep.arguments import checked_numbers
from rlrep.bounds import Share
from rlrep.replay.episodes import Episodes
from rlrep.window import Window

if TYPE_CHECKING:
    from tensordict import TensorDict


class Mixture:
    """A replay and finished data, sampled together as RLPD does (arXiv 2302.02948).

    Args:
        replay: the replay of the running agent.
        data: finished data, on the same device.
        share: the share of each batch that comes from `data`, in [0, 1], rounded to whole rows.

    Raises:
        ValueError: for a share out of range, and if both differ in the shape of observations or in the discount.
    """

    @checked_numbers
    def __init__(self, replay: Episodes, data: Episodes, share: Share) -> None:
        for name in ("observation_shape", "discount"):
            ours, theirs = getattr(replay, name), getattr(data, name)
            if ours != theirs:
                raise ValueError(f"{name} is {ours} in the replay and {theirs} in the data: build both alike")
        self.replay, self.data, self.share = replay, data, share

    def check(self, window: Window, learner: str, source: str = "this replay", batch_size: int = 1) -> None:
        """Refuses a window that either store can never serve, see `Episodes.check`."""
        count = round(batch_size * self.share)
        self.replay.check(window, learner, source, batch_size - count)
        self.data.check(window, learner, "the offline data", count)

    @checked_numbers
    def sample(self, batch_size: int, window: Window | None = None) -> TensorDict:
        """`Episodes.sample`, the replay's rows first; the data's rows have `index` -1 and an `episode` below 0."""
        resolved = self.replay.resolve(window)
        count = round(batch_size * self.share)
        parts = [self.replay.sample(batch_size - count, resolved)] if count < batch_size else []
        if count:
            parts.append(self.data.sample(count, resolved))
            parts[-1]["index"] = torch.full_like(parts[-1]["index"], -1)
            if resolved.names:
                parts[-1]["name"] = parts[-1]["name"].apply(lambda name: -1 - name)  # not a name of the replay
            if resolved.episode:
                parts[-1]["episode"] = -1 - parts[-1]["episode"]
        return parts[0] if len(parts) == 1 else _joined(*parts)

    @property
    def prioritized(self) -> bool:
        """Whether the replay draws rows by priority."""
        return self.replay.prioritized

    def mean_absolute_reward(self) -> float:
        """The mean over the batches' rows, see `Episodes.mean_absolute_reward`."""
        parts = ((1 - self.share, self.replay), (self.share, self.data))
        return sum(share * episodes.mean_absolute_reward() for share, episodes in parts if share)

    def update_priority(self, index: Tensor | np.ndarray, priority: Tensor | np.ndarray) -> None:
        """Sets the priorities of the replay's rows, see `Episodes.update_priority`."""
        self.replay.update_priority(index, priority)


def _joined(first: TensorDict, second: TensorDict) -> TensorDict:
    """Joins the rows of both. Entries that share one tensor in both parts share one tensor in the result."""
    from tensordict import TensorDict  # takes over a second to import

    joined: dict[tuple[int, int], Tensor] = {}
    out: Any = TensorDict({}, batch_size=[len(first) + len(second)], device=first.device)
    for key in first.keys(include_nested=True, leaves_only=True):
        parts = first[key], second[key]
        same = (id(parts[0]), id(parts[1]))
        if same not in joined:
            joined[same] = torch.cat(parts)
        out[key] = joined[same]
    return out
