"""This project's files: data sets, which are opened without a conversion, and the replay of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from rlrep.data.episode import Episode
from rlrep.data.formats.base import Format, Wanted
from rlrep.data.reading import Unreadable
from rlrep.data.replay_files import (
    description,
    episodes_of,
    frames_of,
    is_dataset,
    left_out,
    load_described,
    load_rows,
    verified,
    write_dataset,
)
from rlrep.data.transitions import Provenance, Transitions


class DataSet(Format):
    """A data set in our own format: the rows of a replay, with checksums. Frames are single ones."""

    name = "rlrep"
    is_store = True

    def matches(self, path: Path) -> bool:
        return is_dataset(path)

    def read(self, path: Path, wanted: Wanted) -> Iterator[Episode]:
        rows, about = load_described(path)
        for episode, number in _episodes(rows, wanted):
            episode.chunks = verified(episode.chunks, about["frames"], number)
            yield episode

    def provenance(self, path: Path) -> Provenance:
        return Provenance(**description(path)["provenance"])

    def describe(self, path: Path) -> str:
        return "rlrep data set"

    def write(self, episodes: Iterable[Transitions], folder: Path, provenance: Provenance) -> None:
        write_dataset(episodes, folder, provenance)


class RunReplay(Format):
    """The replay of a run, in the order of writing, with a running episode and, if no rewards are read, with a half
    overwritten one. Frames are single ones.
    """

    name = "replay"

    def matches(self, path: Path) -> bool:
        return (path / "replay.json").is_file() and not is_dataset(path)

    def parts(self, path: Path) -> list[Path]:
        """A replay, or the replays in the folder of a run: each of torchrun's processes has one. Any other folder with
        a replay is an ordinary folder, which may hold more."""
        inside = [path / "replay", *sorted(path.glob("rank_*/replay"))] if (path / "config.yaml").is_file() else []
        return [part for part in (path, *inside) if self.matches(part)]

    def read(self, path: Path, wanted: Wanted) -> Iterator[Episode]:
        rows = load_rows(path)
        rest = left_out(rows)
        for episode, _ in _episodes(rows, wanted):
            episode.left_out, rest = rest, ""
            yield episode

    def provenance(self, path: Path) -> Provenance:
        """The folder of the run."""
        own = path.parent
        return Provenance(made={"run": str(own.parent if re.fullmatch(r"rank_\d+", own.name) else own)})

    def describe(self, path: Path) -> str:
        return "replay of a run"


def _episodes(rows: dict[str, np.ndarray], wanted: Wanted) -> Iterator[tuple[Episode, int]]:
    """Episodes and their numbers, of all lanes."""
    for lane in range(len(rows["step"])):
        for at in episodes_of(rows, lane):
            number = int(rows["episode"][lane, at[0]])
            if wanted.rewards and rows["step"][lane, at[0]]:
                continue  # its beginning was overwritten
            name = f"environment {lane}, episode {number}"
            episode = Episode(name, frames_of(rows["frame"][lane], at), rows="taken at")
            episode.action = np.array(rows["action"][lane, at])
            if wanted.rewards:
                episode.reward = np.array(rows["reward"][lane, at])
                episode.terminated = _has_ended(rows["terminated"][lane, at], name)
            yield episode, number


def _has_ended(terminated: np.ndarray, name: str) -> bool:
    ended = bool(terminated[-2])
    if terminated.sum() != ended:
        raise Unreadable(f"{name} continues after its end")
    return ended
