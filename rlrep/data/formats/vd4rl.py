"""V-D4RL's two layouts: many 84-pixel episodes in an HDF5 file, and one 64-pixel episode in an `.npz` file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from rlrep.data.episode import Episode, one_each
from rlrep.data.formats.base import Format, Wanted
from rlrep.data.formats.dm_env import discounts, has_ended, led_here
from rlrep.data.formats.npz import Npz, write_episodes
from rlrep.data.pictures import newest_frames
from rlrep.data.reading import (
    ACTION_KEYS,
    AT_ONCE,
    PICTURE_KEYS,
    UNPACKED_BYTES,
    Unreadable,
    check_unpacked,
    reported_as_unreadable,
)
from rlrep.data.safe_hdf5 import Group, create_rows, opened, writing
from rlrep.data.transitions import Provenance, Transitions

PROVENANCE = "provenance"
FIRST, MID, LAST = 0, 1, 2


class VD4RL84(Format):
    """V-D4RL's 84-pixel layout, for frames of any size: `observation` (N, C, H, W), `step_type` (N,), 0 at the first
    entry of an episode and 2 at its last; perhaps `action`, `reward` and `discount`, whose entry i led to observation
    i.

    If rewards are read, episodes without their first or last entry are left out, as in a file without its last rows.
    Rows that only some arrays have are always left out.
    """

    name = "vd4rl_84"
    endings = (".hdf5", ".h5")

    def read(self, path: Path, wanted: Wanted) -> Iterator[Episode]:
        rewards = wanted.rewards
        with opened(path) as file:
            with reported_as_unreadable():
                frames = file.pick(*PICTURE_KEYS)
                if "step_type" not in file:
                    raise Unreadable("it has no step_type, (N,) integers that are 0 at the first entry of each episode")
                step_type = _loaded(file, "step_type")
                rows = {"step_type": one_each("step_type", step_type, len(step_type))}
                rows |= {name: _loaded(file, name) for name in ("reward", "discount") if rewards}
                if rewards or (wanted.actions and not file.keys().isdisjoint(ACTION_KEYS)):
                    rows["action"] = _loaded(file, *ACTION_KEYS)
                counts = {"pictures": len(frames)} | {name: len(array) for name, array in rows.items()}
                usable = min(counts.values())
                listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
                if not usable:
                    shared = " that all arrays have" if any(counts.values()) else ""
                    raise Unreadable(f"it holds no rows{shared} ({listed})")
                step_type = rows.pop("step_type")[:usable]
                left_out = []
                if usable < max(counts.values()):
                    left_out.append(f"rows from {usable} on, which not all arrays have ({listed})")
                spans = list(_whole(step_type, left_out) if rewards else _spans(step_type))
                bytes_each = math.prod(frames.shape[1:]) * frames.dtype.itemsize
                check_unpacked(f"pictures ({AT_ONCE} of them)", AT_ONCE * bytes_each, file.size)
                # A compressed block may contain many episodes; it is read once.
                size = max(AT_ONCE, min((frames.chunks or (0,))[0], UNPACKED_BYTES // max(bytes_each, 1)))

            @lru_cache(maxsize=1)
            def block(number: int) -> np.ndarray:
                with reported_as_unreadable():
                    return newest_frames(np.asarray(frames[number * size : (number + 1) * size]), wanted.layout)

            for number, (first, end) in enumerate(spans):
                name = f"{path.name}, episode {number}"
                episode = Episode(name, _from_blocks(block, size, first, end), rows="led to")
                own = {name: array[first:end] for name, array in rows.items()}
                episode.action = own.get("action")
                if rewards:
                    check_unpacked(name, (end - first) * bytes_each, file.size)  # it is held as a whole
                    episode.reward, episode.terminated = own["reward"], has_ended(own, end - first)
                if number == 0:
                    episode.left_out = "; ".join(left_out)
                yield episode

    def provenance(self, path: Path) -> Provenance:
        """The record of `write`, if it wrote the file."""
        with reported_as_unreadable(), opened(path) as file:
            text = file.attribute(PROVENANCE)
            return Provenance() if text is None else Provenance.from_json(text)

    def describe(self, path: Path) -> str:
        return "V-D4RL HDF5"

    def write(self, episodes: Iterable[Transitions], folder: Path, provenance: Provenance) -> None:
        """Writes `data.hdf5`, which HDF5 1.8 and later can read. All values and most of the structure have checksums;
        V-D4RL's own files have none.
        """
        with writing(folder / "data.hdf5") as (file, output):
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
                output.expect(sum(array.nbytes for array in arrays.values()))
                for name, array in arrays.items():
                    if name not in file:
                        create_rows(file, name, array[:0], AT_ONCE if name == "observation" else 1024)
                    file[name].resize(rows + len(array), axis=0)
                    file[name][rows:] = array
                rows += len(step_type)
                file.flush()
                output.check()


class VD4RL64(Npz):
    """V-D4RL's 64-pixel layout: `image` (T + 1, H, W, C), and row i of the other arrays, which led to image i."""

    name = "vd4rl_64"

    def write(self, episodes: Iterable[Transitions], folder: Path, provenance: Provenance) -> None:
        write_episodes(episodes, folder, provenance, "{stamp}-{number:06d}-{entries}", _arrays)


def _arrays(episode: Transitions) -> dict[str, np.ndarray]:
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


def _loaded(file: Group, *names: str) -> np.ndarray:
    entry = file.pick(*names)
    check_unpacked(names[0], math.prod(entry.shape) * entry.dtype.itemsize, file.size)
    return np.asarray(entry)


def _spans(step_type: np.ndarray) -> Iterator[tuple[int, int]]:
    """The first and last rows of episodes, also of those without their beginning or end."""
    wrong = np.flatnonzero(~np.isin(step_type, (FIRST, MID, LAST)))
    if len(wrong):
        raise Unreadable(
            f"its step_type must be {FIRST}, {MID}s and {LAST} in each episode, and entry {wrong[0]} is "
            f"{step_type[wrong[0]]}"
        )
    if not (step_type == FIRST).any():
        raise Unreadable("its step_type must be 0 where an episode begins, and it holds no 0")
    cuts = np.union1d(np.flatnonzero(step_type == FIRST), np.flatnonzero(step_type == LAST) + 1)
    bounds = np.union1d(cuts, [0, len(step_type)]).tolist()
    return pairwise(bounds)


def _whole(step_type: np.ndarray, left_out: list[str]) -> Iterator[tuple[int, int]]:
    """The first and last rows of whole episodes; `left_out` lists all other rows."""
    spans = list(_spans(step_type))
    parts = [span for span in spans if (step_type[span[0]], step_type[span[1] - 1]) != (FIRST, LAST)]
    if parts:
        listed = ", ".join(f"{first} to {end - 1}" for first, end in parts[:5]) + (", …" if len(parts) > 5 else "")
        left_out.append(
            f"{len(parts)} incomplete episode{'s' * (len(parts) > 1)}, without a first entry (step_type {FIRST}) or a "
            f"last one (step_type {LAST}): rows {listed}"
        )
    if len(parts) == len(spans):
        raise Unreadable(f"it holds no whole episode, only {'; '.join(left_out)}")
    return (span for span in spans if span not in set(parts))


def _from_blocks(block: Callable[[int], np.ndarray], size: int, first: int, end: int) -> Iterator[np.ndarray]:
    """Rows `first` to `end` of an array that is read in blocks of `size` rows."""
    while first < end:
        number, offset = divmod(first, size)
        part = block(number)[offset : offset + end - first]
        yield part
        first += len(part)
