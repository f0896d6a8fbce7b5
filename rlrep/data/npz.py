"""Episodes as `.npz` files, one each: V-D4RL's 64-pixel layout and DrQ-v2's replay, to read and to write."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

import numpy as np

from rlrep.data.clips import (
    ACTION_KEYS,
    PICTURE_KEYS,
    Clip,
    Unreadable,
    aligned,
    check_marks,
    check_unpacked,
    has_ended,
    in_chunks,
    pick,
    read_text,
    regular_size,
    reported_as_unreadable,
    rewards_of,
)
from rlrep.data.pictures import UNKNOWN, Layout, newest_frames
from rlrep.data.transitions import Provenance, Transitions

PROVENANCE = "provenance.json"
STACK = 3
PART = 1 << 20


def read_npz(path: Path, actions: bool = False, rewards: bool = False, layout: Layout = UNKNOWN) -> Iterator[Clip]:
    """One episode: pictures as `observation`, `image`, `frames` or `obs`, perhaps `action`, `reward` and what tells
    whether it ended. Also V-D4RL's 64-pixel files and the episodes of DrQ-v2's replay.
    """
    wanted: list[Sequence[str]] = [PICTURE_KEYS]
    if actions or rewards:
        wanted.append(ACTION_KEYS)
    if rewards:
        wanted += [("reward", "rewards"), ("discount",), ("is_first",), ("is_last",), ("is_terminal",)]
    arrays, names = load_arrays(path, wanted)
    with reported_as_unreadable():
        pictures = pick(arrays or dict.fromkeys(names), *PICTURE_KEYS)
        frames = newest_frames(pictures, layout)
        clip = Clip(path.name, in_chunks(frames))
        if rewards or (actions and not arrays.keys().isdisjoint(ACTION_KEYS)):
            as_dm_env = not names.isdisjoint(("discount", "is_first"))
            clip.action = aligned(pick(arrays, *ACTION_KEYS), len(frames), led_here=as_dm_env)
        if rewards:
            _check_stacks(layout.channels_first(pictures), frames)
            place = np.arange(len(frames))
            if "is_first" in arrays:
                check_marks("is_first", arrays["is_first"], place == 0)
            if "is_last" in arrays:
                check_marks("is_last", arrays["is_last"], place == len(frames) - 1)
            clip.reward = rewards_of(arrays, len(frames))
            clip.terminated = has_ended(arrays, len(frames))
    yield clip


def load_arrays(path: Path, wanted: Iterable[Sequence[str]]) -> tuple[dict[str, np.ndarray], Set[str]]:
    """Arrays of an `.npz` file, and the names of all that it holds. Of each group of names the first that there is is
    read, to its end, where its checksum is compared; nothing else is unpacked.

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
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack unbounded
                    raise Unreadable(f"its {name} is compressed in a way that NumPy does not write")
                with file.open(entry) as member:
                    arrays[name] = _load_array(member, name, entry.file_size)
    return arrays, names


def _load_array(member: IO[bytes], name: str, size: int) -> np.ndarray:
    """An array whose file in the archive has `size` bytes, of which no more are read."""
    version = np.lib.format.read_magic(member)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise Unreadable(f"its {name} is in version {version} of NumPy's format, which plain arrays do not need")
    try:
        shape, fortran_order, dtype = read_header[version](member)
    except MemoryError as error:  # Python's parser, of too many brackets
        raise Unreadable(f"it is corrupt: its {name} has no header") from error
    if dtype.hasobject:
        raise Unreadable("it holds pickled objects, which can run any code: save plain arrays instead")
    # Checked before there is memory for it: a header may state any shape.
    if dtype.itemsize * math.prod(shape) + member.tell() != size:
        raise Unreadable(f"it is corrupt: its {name} is not as long as its header says")
    array = np.empty(math.prod(shape), dtype)
    content = array.view(np.uint8)
    done = 0
    while done < len(content) and (part := member.read(min(PART, len(content) - done))):
        content[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
    if done < len(content) or member.read(1):  # only past the end is the checksum compared
        raise Unreadable(f"it is corrupt: its {name} is not as long as its header says")
    return array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)


def _check_stacks(pictures: np.ndarray, frames: np.ndarray) -> None:
    """Refuses stacks (T, F·C, H, W) of which not all frames are those of the rows before: only the newest is kept."""
    older = np.split(pictures, pictures.shape[1] // frames.shape[1], axis=1)[-2::-1]
    for back, stacked in enumerate(older, 1):
        row = np.maximum(np.arange(len(frames)) - back, 0)
        if not np.array_equal(stacked, frames[row]):
            raise Unreadable(
                "its stacked frames are not those of the steps before, the first one repeated before an episode's "
                "begin: only such stacks can be formed anew"
            )


def write_vd4rl_64(episodes: Iterable[Transitions], folder: Path, provenance: Provenance) -> None:
    """V-D4RL's 64-pixel layout: `image` (T + 1, H, W, C), and row i of the rest is what led to image i."""

    def arrays(episode: Transitions) -> dict[str, np.ndarray]:
        place = np.arange(len(episode.frames))
        first, last = place == 0, place == len(episode)
        return {
            "image": np.moveaxis(episode.frames, 1, 3),
            "action": led_here(episode.action),
            "reward": led_here(episode.reward),
            "discount": discounts(episode),
            "is_first": first,
            "is_last": last,
            "is_terminal": last & episode.terminated,
        }

    _write(episodes, folder, provenance, "{stamp}-{number:06d}-{entries}", arrays)


def write_drqv2(episodes: Iterable[Transitions], folder: Path, provenance: Provenance) -> None:
    """DrQ-v2's replay: `observation` (T + 1, 9, H, W), three stacked RGB frames, and row i of the rest is what led to
    observation i.

    Raises:
        ValueError: for frames that are not RGB.
    """

    def arrays(episode: Transitions) -> dict[str, np.ndarray]:
        frames = episode.frames
        if frames.shape[1] != 3:
            raise ValueError(f"DrQ-v2's replay holds RGB frames, and {episode.name} has {frames.shape[1]} channels")
        rows = np.maximum(np.arange(len(frames))[:, None] - np.arange(STACK)[::-1], 0)
        return {
            "observation": frames[rows].reshape(len(frames), -1, *frames.shape[2:]),
            "action": led_here(episode.action),
            "reward": led_here(episode.reward)[:, None],
            "discount": discounts(episode)[:, None],
        }

    _write(episodes, folder, provenance, "{stamp}_{number:06d}_{steps}", arrays)


def led_here(rows: np.ndarray) -> np.ndarray:
    """With a first row of zeros: nothing led to an episode's first frame."""
    return np.concatenate([np.zeros_like(rows[:1]), rows])


def discounts(episode: Transitions) -> np.ndarray:
    """(T + 1,) float32, 0 at a real end."""
    values = np.ones(len(episode.frames), np.float32)
    values[-1] = not episode.terminated
    return values


def _write(
    episodes: Iterable[Transitions],
    folder: Path,
    provenance: Provenance,
    name: str,
    arrays: Callable[[Transitions], dict[str, np.ndarray]],
) -> None:
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
    for number, episode in enumerate(episodes):
        stem = name.format(stamp=stamp, number=number, steps=len(episode), entries=len(episode) + 1)
        np.savez_compressed(folder / f"{stem}.npz", **arrays(episode))  # type: ignore[arg-type]
    (folder / PROVENANCE).write_text(provenance.to_json())


def read_provenance(folder: Path) -> Provenance:
    """What `write_vd4rl_64` or `write_drqv2` recorded."""
    with reported_as_unreadable():
        return Provenance.from_json(read_text(folder / PROVENANCE))


def layout(path: Path) -> str:
    """Which of the layouts a file has."""
    with reported_as_unreadable(), zipfile.ZipFile(path) as file:
        names = {name.removesuffix(".npy") for name in file.namelist()}
    if "is_first" in names:
        return "V-D4RL npz"
    return "DrQ-v2 replay" if "discount" in names else "npz episodes"
