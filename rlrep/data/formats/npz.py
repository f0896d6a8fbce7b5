"""Episodes as `.npz` files, one per file."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np

from rlrep.data.episode import Episode, in_chunks
from rlrep.data.formats.base import Format, Wanted
from rlrep.data.formats.dm_env import check_marks, has_ended
from rlrep.data.pictures import newest_frames
from rlrep.data.reading import (
    ACTION_KEYS,
    PICTURE_KEYS,
    Unreadable,
    check_unpacked,
    pick,
    read_text,
    regular_size,
    reported_as_unreadable,
)
from rlrep.data.transitions import Provenance, Transitions

PROVENANCE = "provenance.json"
PART = 1 << 20
ENCRYPTED = 1  # of a zip entry's flags


class Npz(Format):
    """One episode a file: pictures as `observation`, `image`, `frames` or `obs`, perhaps `action`, `reward` and marks
    of its end. V-D4RL's 64-pixel files and the episodes of DrQ-v2's replay are such files, too.
    """

    beside = (PROVENANCE,)
    name = "npz"
    endings = (".npz",)

    def read(self, path: Path, wanted: Wanted) -> Iterator[Episode]:
        groups: list[Sequence[str]] = [PICTURE_KEYS]
        if wanted.actions or wanted.rewards:
            groups.append(ACTION_KEYS)
        if wanted.rewards:
            groups += [("reward", "rewards"), ("discount",), ("is_first",), ("is_last",), ("is_terminal",)]
        arrays, names = load_arrays(path, groups)
        with reported_as_unreadable():
            pictures = pick(arrays or dict.fromkeys(names), *PICTURE_KEYS)
            frames = newest_frames(pictures, wanted.layout)
            episode = Episode(path.name, in_chunks(frames))
            if not names.isdisjoint(("discount", "is_first")):
                episode.rows = "led to"
            if wanted.rewards or not arrays.keys().isdisjoint(ACTION_KEYS):
                episode.action = pick(arrays, *ACTION_KEYS)
            if wanted.rewards:
                _check_stacks(wanted.layout.channels_first(pictures), frames)
                place = np.arange(len(frames))
                if "is_first" in arrays:
                    check_marks("is_first", arrays["is_first"], place == 0)
                if "is_last" in arrays:
                    check_marks("is_last", arrays["is_last"], place == len(frames) - 1)
                episode.reward = pick(arrays, "reward", "rewards")
                episode.terminated = has_ended(arrays, len(frames))
        yield episode

    def provenance(self, path: Path) -> Provenance | None:
        """The provenance that a file beside the data records."""
        recorded = path.with_name(PROVENANCE)
        return _recorded(recorded, recorded.stat().st_mtime_ns) if recorded.is_file() else None

    def describe(self, path: Path) -> str:
        with reported_as_unreadable(), zipfile.ZipFile(path) as file:
            names = {name.removesuffix(".npy") for name in file.namelist()}
        if "is_first" in names:
            return "V-D4RL npz"
        return "DrQ-v2 replay" if "discount" in names else "npz episodes"


@lru_cache(maxsize=1)
def _recorded(path: Path, time: int) -> Provenance:
    """A folder's provenance, which all its files share; `time` is the time of its file."""
    with reported_as_unreadable():
        return Provenance.from_json(read_text(path))


def load_arrays(path: Path, wanted: Iterable[Sequence[str]]) -> tuple[dict[str, np.ndarray], Set[str]]:
    """Arrays of an `.npz` file, and the names of all its arrays. For each group of names, the first existing array is
    read to its end, where its checksum is compared; nothing else is unpacked.

    Raises:
        Unreadable: if it is damaged, holds pickled objects, or unpacks to far more than its size.
    """
    with reported_as_unreadable():
        size = regular_size(path)
        with zipfile.ZipFile(path) as file:
            members = [(entry.filename.removesuffix(".npy"), entry) for entry in file.infolist()]
            names = {name for name, _ in members}
            chosen = {next((name for name in group if name in names), None) for group in wanted}
            read = [(name, entry) for name, entry in members if name in chosen]
            if len(read) > len({name for name, _ in read}):
                raise Unreadable("it is corrupt: it holds an array twice")
            check_unpacked(" and ".join(name for name, _ in read), sum(entry.file_size for _, entry in read), size)
            arrays = {}
            for name, entry in read:
                if entry.flag_bits & ENCRYPTED:
                    raise Unreadable(f"its {name} is encrypted: unpack it with its password, and save it without one")
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack unbounded
                    raise Unreadable(f"its {name} is compressed in a way that NumPy does not write")
                with file.open(entry) as member:
                    arrays[name] = load_array(member, name, entry.file_size)
    return arrays, names


def load_array(member: IO[bytes], name: str, size: int) -> np.ndarray:
    """Reads an array whose file in the archive has `size` bytes, and no further bytes."""
    version = np.lib.format.read_magic(member)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise Unreadable(f"its {name} is in version {version} of NumPy's format, which plain arrays do not need")
    try:
        shape, fortran_order, dtype = read_header[version](member)
    except MemoryError as error:  # too many brackets for Python's parser
        raise Unreadable(f"it is corrupt: its {name} has no header") from error
    if not dtype.itemsize:  # which NumPy would make larger
        raise Unreadable(f"it is corrupt: the values of its {name} have no size")
    if dtype.hasobject:
        raise Unreadable("it holds pickled objects, which can run any code: save plain arrays instead")
    # Checked before memory is allocated: a header may claim any shape.
    if dtype.itemsize * math.prod(shape) + member.tell() != size:
        raise Unreadable(f"it is corrupt: its {name} is not as long as its header says")
    array = np.empty(math.prod(shape), dtype)
    content = array.view(np.uint8)
    done = 0
    while done < len(content) and (part := member.read(min(PART, len(content) - done))):
        content[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
    if done < len(content) or member.read(1):  # the checksum is compared only past the end
        raise Unreadable(f"it is corrupt: its {name} is not as long as its header says")
    return array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)


def _check_stacks(pictures: np.ndarray, frames: np.ndarray) -> None:
    """Refuses stacks (T, F·C, H, W) that do not repeat the frames of the previous rows: only the newest is stored."""
    older = np.split(pictures, pictures.shape[1] // frames.shape[1], axis=1)[-2::-1]
    for back, stacked in enumerate(older, 1):
        row = np.maximum(np.arange(len(frames)) - back, 0)
        if not np.array_equal(stacked, frames[row]):
            raise Unreadable(
                "its stacked frames are not those of the steps before, the first one repeated before an episode's "
                "begin: only such stacks can be formed anew"
            )


def write_episodes(
    episodes: Iterable[Transitions],
    folder: Path,
    provenance: Provenance,
    name: str,
    arrays: Callable[[Transitions], dict[str, np.ndarray]],
) -> None:
    """Writes a file for each episode, and their provenance.

    Args:
        name: of the files without its ending; {stamp}, {number}, {steps} and {entries} are filled in.
        arrays: gives the arrays of an episode's file.
    """
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
    for number, episode in enumerate(episodes):
        stem = name.format(stamp=stamp, number=number, steps=len(episode), entries=len(episode) + 1)
        np.savez_compressed(folder / f"{stem}.npz", **arrays(episode))  # type: ignore[arg-type]
    (folder / PROVENANCE).write_text(provenance.to_json())
