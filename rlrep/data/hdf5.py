"""V-D4RL's 84-pixel layout, many episodes in an HDF5 file, to read and to write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.data.clips import (
    ACTION_KEYS,
    AT_ONCE,
    PICTURE_KEYS,
    Clip,
    Unreadable,
    aligned,
    has_ended,
    missing_extra,
    pick,
    reported_as_unreadable,
    rewards_of,
)
from rlrep.data.npz import MOST_DEFLATED, discounts, led_here
from rlrep.data.pictures import UNKNOWN, Layout, newest_frames
from rlrep.data.transitions import Provenance, Transitions

PROVENANCE = "provenance"
READ = {*PICTURE_KEYS, *ACTION_KEYS, "step_type", "reward", "discount"}
FIRST, MID, LAST = 0, 1, 2


def read_hdf5(path: Path, actions: bool = False, rewards: bool = False, layout: Layout = UNKNOWN) -> Iterator[Clip]:
    """Episodes one after the other: `observation` (N, C, H, W), `step_type` (N,), 0 at the first entry of an episode;
    perhaps `action`, `reward` and `discount`, entry i what led to observation i.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise missing_extra("h5py", "HDF5 files") from error

    with reported_as_unreadable():
        file = h5py.File(path, "r")
    with file:
        with reported_as_unreadable():
            entries = _checked(file, path.stat().st_size)
            frames = pick(entries, *PICTURE_KEYS)
            if "step_type" not in entries:
                raise Unreadable("it has no step_type, (N,) integers that are 0 at the first entry of each episode")
            step_type = np.asarray(entries["step_type"]).reshape(-1)
            starts = np.flatnonzero(step_type == FIRST).tolist()
            if len(step_type) != len(frames) or starts[:1] != [0]:
                raise Unreadable("its step_type must have an entry for each observation and begin with a 0")
            rows = {name: np.asarray(pick(entries, name)) for name in ("reward", "discount") if rewards}
            if rewards or (actions and not entries.keys().isdisjoint(ACTION_KEYS)):
                rows["action"] = np.asarray(pick(entries, *ACTION_KEYS))
            if any(len(array) != len(frames) for array in rows.values()):
                counted = ", ".join(f"{len(array)} of {name}" for name, array in rows.items())
                raise Unreadable(f"it must have as many entries of each kind, got {len(frames)} frames and {counted}")
        # A compressed block may span many episodes; it is read once.
        size = max(AT_ONCE, (frames.chunks or (0,))[0])

        @lru_cache(maxsize=1)
        def block(number: int) -> np.ndarray:
            with reported_as_unreadable():
                return newest_frames(np.asarray(frames[number * size : (number + 1) * size]), layout)

        for number, (first, end) in enumerate(zip(starts, [*starts[1:], len(frames)], strict=True)):
            clip = Clip(f"{path.name}, episode {number}", _from_blocks(block, size, first, end))
            own = {name: array[first:end] for name, array in rows.items()}
            if "action" in own:
                clip.action = aligned(own["action"], end - first, led_here=True)
            if rewards:
                _check_steps(step_type[first:end], clip.name)
                clip.reward, clip.terminated = rewards_of(own, end - first), has_ended(own, end - first)
            yield clip


def _checked(file: Any, size: int) -> dict[str, Any]:
    """The data sets of a file of `size` bytes that a reader wants, of which every byte lies in it: HDF5 reads what is
    missing as zeros, and can be told to read other files. Of others the name alone.
    """
    import h5py

    entries = dict.fromkeys(file)
    for name in READ.intersection(file):
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise Unreadable(f"its {name} is a link, perhaps to another file: only what lies in the file is read")
        entry = file[name]
        if not isinstance(entry, h5py.Dataset):
            del entries[name]
            continue
        if entry.is_virtual or entry.external:
            raise Unreadable(f"its {name} lies in other files: only what lies in the file is read")
        if entry.chunks is None:
            whole = entry.id.get_storage_size() == entry.nbytes <= size
        else:
            expected = np.prod([-(-n // chunk) for n, chunk in zip(entry.shape, entry.chunks, strict=True)], dtype=int)
            whole = entry.nbytes <= MOST_DEFLATED * size and entry.id.get_num_chunks() == expected
        if not whole:
            raise Unreadable(f"it is corrupt or truncated: parts of its {name} are missing")
        entries[name] = entry
    return entries


def _check_steps(step_type: np.ndarray, name: str) -> None:
    """Refuses an episode that is not one first entry, others between, and one last."""
    expected = np.full(len(step_type), MID)
    expected[0], expected[-1] = FIRST, LAST
    wrong = np.flatnonzero(step_type != expected)
    if len(step_type) < 2 or len(wrong):
        at = wrong[0] if len(wrong) else 0
        raise Unreadable(
            f"the step_type of {name} must be {FIRST}, then {MID}s, then {LAST}, and its entry {at} is {step_type[at]}"
        )


def _from_blocks(block: Callable[[int], np.ndarray], size: int, first: int, end: int) -> Iterator[np.ndarray]:
    """Rows first to end of what is read in blocks of `size` rows."""
    while first < end:
        number, offset = divmod(first, size)
        part = block(number)[offset : offset + end - first]
        yield part
        first += len(part)


def read_provenance(path: Path) -> Provenance:
    """What `write_vd4rl_84` recorded, if it wrote the file."""
    import h5py

    with reported_as_unreadable(), h5py.File(path, "r") as file:
        text = file.attrs.get(PROVENANCE)
        return Provenance() if text is None else Provenance.from_json(bytes(text))


def write_vd4rl_84(episodes: Iterable[Transitions], folder: Path, provenance: Provenance) -> None:
    """V-D4RL's 84-pixel layout, for frames of any size: `data.hdf5` in `folder`.

    Everything is checksummed, which V-D4RL's own files are not.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise missing_extra("h5py", "HDF5 files") from error

    with h5py.File(folder / "data.hdf5", "w", libver="latest") as file:  # "latest" has checksums in its structure
        file.attrs[PROVENANCE] = np.void(provenance.to_json().encode())
        rows = 0
        for episode in episodes:
            step_type = np.full(len(episode.frames), MID, np.int64)
            step_type[0], step_type[-1] = FIRST, LAST
            arrays = {
                "observation": episode.frames,
                "action": led_here(episode.action),
                "reward": led_here(episode.reward),
                "discount": discounts(episode),
                "step_type": step_type,
            }
            for name, array in arrays.items():
                if name not in file:
                    compressed: dict[str, Any] = dict(compression="gzip", compression_opts=1)
                    file.create_dataset(
                        name,
                        dtype=array.dtype,
                        shape=(0, *array.shape[1:]),
                        maxshape=(None, *array.shape[1:]),
                        chunks=(AT_ONCE if name == "observation" else 1024, *array.shape[1:]),
                        fletcher32=True,
                        **compressed,
                    )
                file[name].resize(rows + len(array), axis=0)
                file[name][rows:] = array
            rows += len(step_type)
