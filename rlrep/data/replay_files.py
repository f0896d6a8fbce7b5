"""The files of a run's replay, and of a data set in this project's format, which has checksums."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.data.cache import GrowingArray, checksum, is_verified, mark_verified
from rlrep.data.reading import AT_ONCE, Unreadable, mapped, read_json, read_text, reported_as_unreadable
from rlrep.data.transitions import Provenance, Transitions, sealed, unsealed
from rlrep.replay.storage import FORMAT_VERSION

KINDS = {"frame": "uint8", "reward": "float32", "terminated": "bool", "step": "int32", "episode": "int64"}
ACTION_KINDS = ("float32", "int64")
DESCRIPTION = "dataset.json"
DESCRIBED = {"provenance": dict, "rows": dict, "frames": list}
FORGOTTEN = -2  # the step of a row that must not be read, see `Files.forget_row`


@dataclass
class DataSetFiles:
    """A checked data set in this project's format; its files are read once.

    Attributes:
        folder: of the files.
        rows: (1, length, …) each, mapped into memory.
        about: the record of `write_dataset`: provenance, checksums, and a cache's origin.
    """

    folder: Path
    rows: dict[str, np.ndarray]
    about: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> DataSetFiles:
        """Compares everything with its checksums. Frames are compared once per file, which is trusted while size and
        times of `frame.npy` stay the same.

        Raises:
            Unreadable: if it is damaged, or something else.
        """
        found = cls(folder, *load_described(folder))
        _check_whole(found.rows)
        if not is_verified(folder / "frame.npy"):
            check_frames(found.rows, found.about["frames"])
            mark_verified(folder / "frame.npy")
        return found

    @property
    def provenance(self) -> Provenance:
        return Provenance(**self.about["provenance"])

    @property
    def fingerprint(self) -> str:
        """A fingerprint of all rows, from their checksums."""
        parts = json.dumps([self.about["rows"], self.about["frames"]], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()[:16]


def is_dataset(folder: Path) -> bool:
    """Whether `write_dataset` made the folder."""
    return (folder / DESCRIPTION).is_file()


def load_rows(folder: Path) -> dict[str, np.ndarray]:
    """The files of a run's replay by field, (lanes, length, ...) each, mapped into memory.

    Raises:
        Unreadable: if they are missing, damaged, or not a replay's files.
    """
    with reported_as_unreadable():
        rows = _described_rows(folder)
        left_out(rows)
        return rows


def load_described(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The files of a data set, as from `load_rows`, and the record of `write_dataset`. All files except the frames are
    compared with their checksums.

    Raises:
        Unreadable: if they are missing or damaged.
    """
    with reported_as_unreadable():
        about = description(folder)
        rows = _described_rows(folder)
        for name, array in rows.items():
            if name != "frame" and checksum(array) != about["rows"].get(name):
                raise Unreadable(f"its {name}.npy is corrupt: checksum mismatch")
        return rows, about


def _described_rows(folder: Path) -> dict[str, np.ndarray]:
    found = read_json(folder / "replay.json")
    size = (found["lanes"], found["length"])
    names = (*KINDS, "action")
    rows = {name: mapped(folder / f"{name}.npy") for name in names}
    for name, array in rows.items():
        kinds = (KINDS[name],) if name in KINDS else ACTION_KINDS
        axes = {"frame": 5, "action": 3 if array.dtype == np.float32 else 2}.get(name, 2)
        stated = [list(array.shape[2:]), str(array.dtype)]
        right = stated == found["fields"][name] and str(array.dtype) in kinds and array.ndim == axes
        if found["version"] != FORMAT_VERSION or not right or array.shape[:2] != size or array.size == 0:
            raise Unreadable(f"its {name}.npy is not what replay.json describes, or not of a replay")
    if (rows["terminated"].view(np.uint8) > 1).any():
        raise Unreadable("its terminated.npy is corrupt")
    return rows


def check_frames(rows: dict[str, np.ndarray], checksums: list[int]) -> None:
    """Compares the frames of a data set with their checksums.

    Raises:
        Unreadable: if they are corrupt.
    """
    for lane in range(len(rows["step"])):
        for at in episodes_of(rows, lane):
            number = int(rows["episode"][lane, at[0]])
            for _ in verified(frames_of(rows["frame"][lane], at), checksums, number):
                pass


def description(folder: Path) -> dict[str, Any]:
    """The record of `write_dataset`: provenance, checksums, and a cache's origin.

    Raises:
        Unreadable: if it is damaged, or describes something else.
    """
    with reported_as_unreadable():
        found = unsealed(read_text(folder / DESCRIPTION))
        for name, kind in DESCRIBED.items():
            if not isinstance(found.get(name), kind):
                raise Unreadable(f"its {DESCRIPTION} is not that of a data set: it has no {name}")
        Provenance(**found["provenance"])
        return found


def episodes_of(rows: dict[str, np.ndarray], lane: int) -> Iterator[np.ndarray]:
    """The rows of each episode of at least one step, oldest first."""
    order = _written(rows["episode"][lane], rows["step"][lane])
    numbers = rows["episode"][lane][order]
    for at in np.split(order, np.flatnonzero(np.diff(numbers)) + 1):
        if len(at) > 1:
            yield at


def write_dataset(
    episodes: Iterable[Transitions],
    folder: Path,
    provenance: Provenance,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes this project's format: the files of a full replay, and `dataset.json` with the provenance, checksums, and
    entries `about` the data, which may be complete only after the last episode. The frames need not fit into memory.
    """
    checksums: list[int] = []
    columns: dict[str, list[np.ndarray]] = {}
    with closing(GrowingArray(folder / "frame.npy", leading=1)) as frames:
        for number, episode in enumerate(episodes):
            frames.append(episode.frames)
            checksums.append(checksum(episode.frames))
            count = len(episode.frames)
            terminated = np.zeros(count, bool)
            terminated[-2] = episode.terminated
            new = {
                "action": np.concatenate([episode.action, np.zeros_like(episode.action[:1])]),
                "reward": np.append(episode.reward, np.float32(0)),
                "terminated": terminated,
                "step": np.arange(count, dtype=np.int32),
                "episode": np.full(count, number, np.int64),
            }
            for name, array in new.items():
                columns.setdefault(name, []).append(array)
        frames.finish()
    rows = {name: np.concatenate(arrays)[None] for name, arrays in columns.items()}
    for name, array in rows.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    kinds = {"frame": [list(frames.shape), "uint8"]}
    kinds |= {name: [list(array.shape[2:]), str(array.dtype)] for name, array in rows.items()}
    spec = {"version": FORMAT_VERSION, "lanes": 1, "length": frames.rows, "fields": kinds}
    (folder / "replay.json").write_text(json.dumps(spec))
    recorded = {
        "provenance": vars(provenance),
        "rows": {name: checksum(array) for name, array in rows.items()},
        "frames": checksums,
    }
    (folder / DESCRIPTION).write_text(sealed(recorded | dict(about or {})))
    mark_verified(folder / "frame.npy")


def _check_whole(rows: dict[str, np.ndarray]) -> None:
    """Refuses rows that are not unbroken episodes, numbered from 0."""
    episode, step = rows["episode"][0], rows["step"][0]
    new = np.diff(episode)
    whole = np.where(new == 0, np.diff(step) == 1, (new == 1) & (step[1:] == 0)).all()
    if not whole or episode[0] or step[0]:
        raise Unreadable("it is corrupt: its rows are not whole episodes one after the other")


def verified(chunks: Iterator[np.ndarray], checksums: list[int], number: int) -> Iterator[np.ndarray]:
    """The frames of episode `number`; after the last frame, they are compared with their checksum.

    Raises:
        Unreadable: if they are corrupt, or have no checksum.
    """
    if not 0 <= number < len(checksums):
        raise Unreadable(f"its {DESCRIPTION} has no checksum of episode {number}")
    found = 0
    for chunk in chunks:
        found = zlib.crc32(np.ascontiguousarray(chunk).data, found)
        yield chunk
    if found != checksums[number]:
        raise Unreadable(f"the frames of episode {number} are corrupt: checksum mismatch")


def frames_of(frames: np.ndarray, at: np.ndarray) -> Iterator[np.ndarray]:
    """Rows `at` of a lane's frames, a few at a time."""
    for part in np.array_split(at, -(-len(at) // AT_ONCE)):
        yield np.asarray(frames[part[0] : part[-1] + 1] if part[-1] - part[0] == len(part) - 1 else frames[part])


def left_out(rows: dict[str, np.ndarray]) -> str:
    """How many rows of a run's replay are not read, in words; empty if all are read.

    A marked row (`Files.forget_row`) precedes the rows that a run wrote after its last checkpoint and that a resumed
    run has partly rewritten.

    Raises:
        Unreadable: if rows are left out for another reason: a row within the others is damaged.
    """
    told = []
    for lane, (episode, step) in enumerate(zip(rows["episode"], rows["step"], strict=True)):
        order = _written(episode, step)
        rest = (order[-1] + 1 + np.arange(len(episode) - len(order))) % len(episode)
        rest_episode, rest_step = episode[rest], step[rest]
        written = (rest_step != FORGOTTEN) & ~_is_empty(episode, step)[rest]
        if not written.any():
            continue
        first, last = order[0], order[-1]
        older = (rest_episode < episode[first]) | ((rest_episode == episode[first]) & (rest_step < step[first]))
        unmarked = written[0] and (written & (rest_episode >= episode[last]))[1:].any()
        count = f"{written.sum()} of the {len(order) + written.sum()} rows of environment {lane}"
        if unmarked or (written & older).any():
            raise Unreadable(
                f"it is corrupt: {count} do not continue the others, and were not written after a checkpoint: one in "
                f"step.npy or episode.npy is damaged"
            )
        told.append(f"{count}, which were written after the last checkpoint")
    return "; ".join(told)


def _is_empty(episode: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Which rows of a ring are zero and were never written: a first row is always followed by a second row."""
    zeros = (episode == 0) & (step == 0)
    return zeros & ~((np.roll(episode, -1) == 0) & (np.roll(step, -1) == 1))


def _written(episode: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Rows of a ring, oldest first: the longest stretch of rows that continue each other, or, if the ring was never
    full, the stretch from row 0. It excludes rows that a run wrote after its last checkpoint and then rewrote, rows
    that were never written, and marked rows (`Files.forget_row`).
    """
    length = len(episode)
    following = np.arange(1, length + 1) % length
    same = (episode[following] == episode) & (step[following] == step + 1)
    follows = same | ((episode[following] == episode + 1) & (step[following] == 0))
    breaks = np.flatnonzero(~follows)
    if not len(breaks):
        return np.arange(length)
    if _is_empty(episode, step).any():
        return np.arange(breaks[0] + 1)
    sizes = np.diff(breaks, prepend=breaks[-1] - length)
    longest = int(np.argmax(sizes))
    return np.arange(breaks[longest] - sizes[longest] + 1, breaks[longest] + 1) % length
