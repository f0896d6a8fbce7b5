"""Few action labels: a method for videos, and an inverse model of the recordings whose actions are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from rlrep import Objective
from rlrep.data import EpisodeDataset


class SomeLabels(Objective):
    """The sum of a video method's losses, times a weight, and an inverse model's, on one encoder, with batches of the
    same size.

    Args:
        video: reads all recordings.
        weight: of the video method's losses.
        inverse: reads the labelled ones.
        labelled, held_out: recordings with actions, for updates and for validations.
        batch_size: rows that the inverse model reads in an update.
    """

    def __init__(
        self,
        video: Objective,
        weight: float,
        inverse: Objective,
        labelled: EpisodeDataset,
        held_out: EpisodeDataset,
        batch_size: int,
    ) -> None:
        super().__init__(video.encoder, video.augment)
        self.video, self.weight, self.inverse = video, weight, inverse
        self.labelled, self.held_out, self.rows = labelled, held_out, batch_size
        self.horizon, self.window, self.in_keys = video.horizon, video.window, video.in_keys
        self.out_keys = [*video.out_keys, *inverse.out_keys]
        self.state_projection: Any = getattr(video, "state_projection", None)

    def losses(self, *values: Tensor) -> dict[str, Tensor]:
        data = self.labelled if self.training else self.held_out
        before = data.state_dict()
        batch = data.sample(self.rows, self.inverse.window)
        if not self.training:  # validations compare the same rows
            data.load_state_dict(before)
        video = self.video.losses(*values)
        video |= {name: self.weight * loss for name, loss in video.items() if name.startswith("loss_")}
        return video | self.inverse.losses(*self.inverse.read(batch))

    def after_step(self) -> None:
        self.video.after_step()


def first_frames(data: EpisodeDataset, frames: int) -> EpisodeDataset:
    """The first recordings: as few as hold the requested number of frames, and long enough for one pair."""
    count = int(np.searchsorted(np.cumsum(data.lengths), frames)) + 1
    count = max(count, int(np.argmax(data.lengths > data.max_gap)) + 1)
    return data.select(np.arange(min(count, len(data.lengths))))
