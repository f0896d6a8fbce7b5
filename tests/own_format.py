"""A user-defined format, outside the packages: one text file per episode, one line of numbers per frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from rlrep.data import Provenance, Transitions
from rlrep.data.formats import Episode, Format, Unreadable, Wanted


class Lines(Format):
    """A line holds an action, its reward, and the value of all 64 pixels of the frame at which it was taken."""

    name = "lines"
    endings = (".txt",)

    def __init__(self, brighter: int = 0) -> None:
        self.brighter = brighter

    def read(self, path: Path, wanted: Wanted) -> Iterator[Episode]:
        try:
            rows = np.loadtxt(path, ndmin=2)
        except ValueError as error:
            raise Unreadable(str(error)) from error
        frames = np.broadcast_to(rows[:, 2].astype(np.uint8)[:, None, None, None] + self.brighter, (len(rows), 1, 8, 8))
        action, reward = rows[:, :1], rows[:, 1]
        yield Episode(path.name, iter([frames.astype(np.uint8)]), action=action, reward=reward, rows="taken at")

    def write(self, episodes: Iterable[Transitions], folder: Path, provenance: Provenance) -> None:
        for number, episode in enumerate(episodes):
            columns = np.append(episode.action[:, 0], 0), np.append(episode.reward, 0), episode.frames[:, 0, 0, 0]
            np.savetxt(folder / f"{number}.txt", np.stack(columns, 1), "%.9g")


class Scaled(Lines):
    """Its name alone is not enough, because `brighter` has no default."""

    def __init__(self, brighter: int) -> None:
        super().__init__(brighter)
