"""Minari data sets of pixels, to read and to write, without Minari.

If a space is missing from a data set, Minari makes the environment that the data set names, and so a file chooses what
code runs. Here the spaces are read as plain JSON, and the rest as numbers.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.data.episode import Episode
from rlrep.data.formats.base import Format, Wanted, normalized
from rlrep.data.formats.image_folder import PictureDecoder
from rlrep.data.pictures import Layout, newest_frames
from rlrep.data.reading import (
    AT_ONCE,
    PICTURE_KEYS,
    Unreadable,
    check_unpacked,
    pick,
    read_json,
    reported_as_unreadable,
)
from rlrep.data.safe_arrow import Columns, read_columns
from rlrep.data.safe_hdf5 import Group, create_rows, opened, writing
from rlrep.data.transitions import ActionScale, Provenance, Transitions

PROVENANCE = "rlrep_provenance"
METADATA = "data/metadata.json"
ROWS = "data/main_data.hdf5"
VERSION = "0.5.3"  # of the format that is written
ID = re.compile(r"[\w./-]+-v\d+")
SPACES = ("observation_space", "action_space")
ENDS = ("terminations", "truncations")
STEPS = ("actions", "rewards", *ENDS)


class Minari(Format):
    """A Minari data set in HDF5 or Arrow, whose observations are pictures, or dictionaries with pictures under a usual
    name; written in HDF5.

    Data sets without one of their two spaces, or in another format, are refused. Episodes without a step or with
    missing steps are left out; if actions and rewards are not read, only episodes without pictures are left out.
    Continuous actions are normalized to [-1, 1] by the bounds of their space, if it has finite ones;
    `Provenance.action_scale` has the inverse.
    """

    name = "minari"

    def matches(self, path: Path) -> bool:
        return (path / METADATA).is_file()

    def locate(self, name: str) -> Path | None:
        if not ID.fullmatch(name) or {"", ".", ".."} & set(name.split("/")):
            return None
        root = os.environ.get("MINARI_DATASETS_PATH")
        path = (Path(root) if root else Path.home() / ".minari" / "datasets") / name
        if not self.matches(path):
            raise FileNotFoundError(
                f"there is no file or folder {name}, and no Minari data set of that id on this machine: if it is one, "
                f"fetch it with `minari download {name}`"
            )
        return path

    def read(self, path: Path, wanted: Wanted) -> Iterator[Episode]:
        with reported_as_unreadable():
            about = _metadata(path)
            stored = STORED.get(str(about.get("data_format", "hdf5")))
            if stored is None:
                raise Unreadable(
                    f"its format is {about['data_format']!r}, and only Minari's {' and '.join(STORED)} are read"
                )
            space, keys = _pictures(about["observation_space"])
            scale = _scale(about)
        parts: dict[int, str] = {}
        for number, each in enumerate(stored(path, about)):
            with reported_as_unreadable():
                if lacking := _lacking(each.counts(keys), wanted):
                    parts[number] = lacking
        left_out = _listed(parts)
        if parts and len(parts) > number:
            raise Unreadable(f"it holds no whole episode, only {left_out}")
        for number, each in enumerate(stored(path, about)):
            if number not in parts:
                with reported_as_unreadable():
                    episode = _episode(each, keys, tuple(space["shape"]), f"{path.name}, episode {number}", wanted)
                    if scale is not None and episode.action is not None:
                        episode.action = normalized(episode.action, scale, episode.name, "its action space")
                    episode.left_out, left_out = left_out, ""
                yield episode

    def provenance(self, path: Path) -> Provenance:
        """The record of `write`, else the task, and the bounds or the number of actions, in the metadata."""
        with reported_as_unreadable():
            about = _metadata(path)
            if PROVENANCE in about:
                return Provenance.from_json(about[PROVENANCE])
            environment = json.loads(about.get("env_spec", "{}"))
            scale = _scale(about)
            low, high = (None, None) if scale is None else (list(scale.low), list(scale.high))
            count = about["action_space"].get("n")
            return Provenance(task=environment.get("id"), num_actions=count, action_low=low, action_high=high)

    def describe(self, path: Path) -> str:
        return "Minari"

    def write(self, episodes: Iterable[Transitions], folder: Path, provenance: Provenance) -> None:
        """Writes frames without JPEG compression, as (C, H, W) observations.

        Raises:
            OSError: if it can't be written.
            ValueError: for discrete actions of unknown number.
        """
        (folder / "data").mkdir()
        count = steps = 0
        first: Transitions | None = None
        with writing(folder / ROWS) as (file, output):
            for number, episode in enumerate(episodes):
                first = first or episode
                if episode.discrete and provenance.num_actions is None:
                    raise ValueError("Minari must know how many choices there are: give them as num_actions")
                last = np.arange(len(episode)) == len(episode) - 1
                arrays = {
                    "observations": episode.frames,
                    "actions": episode.action,
                    "rewards": episode.reward,
                    "terminations": last & episode.terminated,
                    "truncations": last & (not episode.terminated),
                }
                output.expect(sum(array.nbytes for array in arrays.values()))
                group = file.create_group(f"episode_{number}")
                group.attrs.update({"id": number, "total_steps": len(episode)})
                for name, array in arrays.items():
                    create_rows(group, name, array, AT_ONCE if name == "observations" else len(array))
                count, steps = number + 1, steps + len(episode)
                file.flush()
                output.check()
        if first is not None:
            about = _description(first, provenance) | {"total_episodes": count, "total_steps": steps}
            about["dataset_size"] = round((folder / ROWS).stat().st_size / 1e6, 1)
            (folder / METADATA).write_text(json.dumps(about))


class Stored(ABC):
    """One episode of T frames in one of Minari's storages.

    Attributes:
        size: bytes of its file, or of the file that it shares with others.
    """

    size: int

    @abstractmethod
    def counts(self, keys: list[str]) -> dict[str, int]:
        """The number of pictures, by `keys`, and of each array of steps, by name; missing arrays are left out."""

    @abstractmethod
    def pictures(self, keys: list[str], shape: tuple[int, ...]) -> Any:
        """The entry of its observations at `keys`: (T, *shape) uint8, or T byte strings with a JPEG each; read when
        indexed.
        """

    @abstractmethod
    def steps(self, name: str, steps: int) -> np.ndarray:
        """An array with a row for each of T - 1 = `steps`; one for each frame can only be damage."""


class InHDF5(Stored):
    def __init__(self, group: Group) -> None:
        self.group, self.size = group, group.size

    @classmethod
    def episodes(cls, path: Path, about: dict[str, Any]) -> Iterator[InHDF5]:
        with opened(path / ROWS) as file:
            with reported_as_unreadable():
                count = _count(about, sum(name.startswith("episode_") for name in file))
            for number in range(count):
                with reported_as_unreadable():
                    group = _group(file, f"episode_{number}")
                yield cls(group)

    def counts(self, keys: list[str]) -> dict[str, int]:
        pictures = self._pictures(keys) if "observations" in self.group else ()
        steps = {name: len(self.group.pick(name)) if name in self.group else 0 for name in STEPS}
        return {"pictures": len(pictures), **steps}

    def _pictures(self, keys: list[str]) -> Any:
        *groups, last = ("observations", *keys)
        holder = self.group
        for key in groups:
            holder = _group(holder, key)
        found = holder.packed(last) if last in holder else pick(holder, last)
        if isinstance(found, Group):
            raise Unreadable(f"its {last} is a group of arrays, where its spaces say that there is one")
        return found

    def pictures(self, keys: list[str], shape: tuple[int, ...]) -> Any:
        entry = self._pictures(keys)
        is_jpeg = entry.dtype.kind == "O" or (entry.dtype == np.uint8 and entry.ndim == 2)
        if not is_jpeg and (entry.dtype != np.uint8 or entry.shape[1:] != shape):
            raise _other_pictures(f"{entry.dtype} {entry.shape}", shape)
        return entry

    def steps(self, name: str, steps: int) -> np.ndarray:
        entry = self.group.pick(name)
        check_unpacked(name, math.prod(entry.shape) * entry.dtype.itemsize, self.size)
        if len(entry) != steps:
            raise Unreadable(f"its {name} must be {steps}, one fewer than frames, got {len(entry)}")
        return np.asarray(entry)


class InArrow(Stored):
    """All columns have T rows, of which the last row is filled with zeros where there are T - 1."""

    def __init__(self, columns: Columns, action_space: dict[str, Any]) -> None:
        self.columns, self.size = columns, columns.size
        self.action_space = action_space

    @classmethod
    def episodes(cls, path: Path, about: dict[str, Any]) -> Iterator[InArrow]:
        root = path / "data"
        with reported_as_unreadable():
            count = _count(about, sum(each.name.isdecimal() for each in root.iterdir()))
        for number in range(count):
            with reported_as_unreadable():
                parts = [each for each in (root / f"{number}").iterdir() if each.suffix == ".arrow"]
                if len(parts) != 1:
                    raise Unreadable(f"its episode {number} must be one .arrow file, got {len(parts)}")
                columns = read_columns(parts[0], root)
            yield cls(columns, about["action_space"])

    def counts(self, keys: list[str]) -> dict[str, int]:
        return {"pictures": self.columns.count, **dict.fromkeys(STEPS, max(self.columns.count - 1, 0))}

    def pictures(self, keys: list[str], shape: tuple[int, ...]) -> Any:
        rows = self.columns.rows("observations", *keys)
        if not isinstance(rows, np.ndarray):
            return rows
        if rows.dtype != np.uint8 or rows.shape[1:] != (math.prod(shape),):
            raise _other_pictures(f"{rows.dtype} {rows.shape}", shape)
        return rows.reshape(len(rows), *shape)

    def steps(self, name: str, steps: int) -> np.ndarray:
        rows = self.columns.rows(name)
        if not isinstance(rows, np.ndarray) or len(rows) != steps + 1 or rows[-1].any():
            raise Unreadable(f"its {name} must be {steps} numbers, one fewer than frames, and then zeros")
        if name == "actions" and rows.ndim == 2:
            shape = self.action_space.get("shape", rows.shape[1:])
            if math.prod(shape) != rows.shape[1]:
                raise Unreadable(f"its actions are lists of {rows.shape[1]}, and its action space is of shape {shape}")
            rows = rows.reshape(len(rows), *shape)
        return np.array(rows[:-1])


STORED: dict[str, Callable[[Path, dict[str, Any]], Iterator[Stored]]] = {
    "hdf5": InHDF5.episodes,
    "arrow": InArrow.episodes,
}


def _count(about: dict[str, Any], found: int) -> int:
    count = about.get("total_episodes")
    if type(count) is not int or count != found:
        raise Unreadable(f"its metadata tells of {count!r} episodes, and it holds {found}")
    return count


def _lacking(counts: dict[str, int], wanted: Wanted) -> str:
    """The counts of an episode that is too short or incomplete for the requested entries; otherwise empty.

    Args:
        counts: see `Stored.counts`.
    """
    frames = counts["pictures"]
    steps = STEPS if wanted.rewards else STEPS[:1] if wanted.actions else ()
    whole = frames >= (2 if wanted.rewards else 1) and all(counts[name] == frames - 1 for name in steps)
    return "" if whole else ", ".join(f"{counts[name]} {name}" for name in ("pictures", *steps))


def _listed(parts: dict[int, str]) -> str:
    """A text with the left-out episodes: their numbers, and the counts of each."""
    few = "; ".join(f"episode {number} has {held}" for number, held in list(parts.items())[:5])
    more = "; …" if len(parts) > 5 else ""
    return f"{len(parts)} incomplete episode{'s' * (len(parts) > 1)} ({few}{more})" if parts else ""


def _episode(stored: Stored, keys: list[str], shape: tuple[int, ...], name: str, wanted: Wanted) -> Episode:
    """One episode, whose pictures of `shape` are found by `keys` in its observations."""
    pictures = stored.pictures(keys, shape)
    bytes_each = math.prod(shape)
    check_unpacked(f"pictures ({AT_ONCE} of them)", AT_ONCE * bytes_each, stored.size)
    if wanted.rewards:
        check_unpacked(name, len(pictures) * bytes_each, stored.size)  # it is held as a whole
    if getattr(pictures, "shape", ())[1:] == shape:
        chunks = _blocks(pictures, wanted.layout)
    else:
        chunks = _jpegs(pictures, shape, wanted.layout)
    steps = len(pictures) - 1
    episode = Episode(name, chunks, rows="taken at")
    if wanted.actions or wanted.rewards:
        episode.action = stored.steps("actions", steps)
    if wanted.rewards:
        episode.reward = stored.steps("rewards", steps)
        episode.terminated = _check_ends(stored, steps, name)
    return episode


def _group(holder: Group, name: str) -> Group:
    entry = pick(holder, name)
    if not isinstance(entry, Group):
        raise Unreadable(f"its {name} is an array, where its spaces say that there are several")
    return entry


def _other_pictures(got: str, shape: tuple[int, ...]) -> Unreadable:
    return Unreadable(f"its pictures are {got}, and its observation space is of {shape}")


def _blocks(entry: Any, layout: Layout) -> Iterator[np.ndarray]:
    for at in range(0, len(entry), AT_ONCE):
        with reported_as_unreadable():
            yield newest_frames(_with_channels(np.require(entry[at : at + AT_ONCE], requirements="W"), layout), layout)


def _jpegs(entry: Any, shape: tuple[int, ...], layout: Layout) -> Iterator[np.ndarray]:
    """Pictures that Minari compressed, (H, W) or (H, W, C) of `shape` each."""
    decode = PictureDecoder()
    for at in range(0, len(entry), AT_ONCE):
        pictures = []
        with reported_as_unreadable():
            for row in range(at, min(at + AT_ONCE, len(entry))):
                content = bytes(entry[row])
                picture = decode(io.BytesIO(content), len(content))
                if picture.shape[:2] != shape[:2]:
                    raise Unreadable(f"its picture {row} is {picture.shape}, and its observation space {shape}")
                pictures.append(picture.reshape(shape))
            yield newest_frames(_with_channels(np.stack(pictures), layout), layout)


def _with_channels(pictures: np.ndarray, layout: Layout) -> np.ndarray:
    """Grey pictures (T, H, W) with one channel; others as they are."""
    return np.expand_dims(pictures, 1 if layout.channels_last is False else -1) if pictures.ndim == 3 else pictures


def _check_ends(stored: Stored, steps: int, name: str) -> bool:
    ends = [stored.steps(key, steps) for key in ENDS]
    if any(marks.shape != (steps,) or marks.dtype.kind not in "biu" or marks[:-1].any() for marks in ends):
        raise Unreadable(f"{name} has terminations and truncations that are not those of one episode")
    return bool(ends[0][-1])


def _metadata(path: Path) -> dict[str, Any]:
    """The description of a data set, its two spaces as dictionaries."""
    about = read_json(path / METADATA)
    if not isinstance(about, dict):
        raise Unreadable(f"its {METADATA} must be a mapping")
    for name in SPACES:
        if not isinstance(about.get(name), str):
            raise Unreadable(
                f"its {METADATA} has no {name}: Minari would make the environment that the file names to find it out, "
                f"which can run any code, so only data sets that hold their spaces are read"
            )
        about[name] = json.loads(about[name])
        if not isinstance(about[name], dict) or not isinstance(about[name].get("type"), str):
            raise Unreadable(f"its {name} is not a space")
    return about


def _scale(about: dict[str, Any]) -> ActionScale | None:
    """The scale that normalizes actions; None for those in [-1, 1], or without finite bounds, and for choices."""
    space = about["action_space"]
    if PROVENANCE in about or space["type"] != "Box":
        return None
    low, high = (np.ravel(np.asarray(space.get(name), np.float64)) for name in ("low", "high"))
    if not np.isfinite([*low, *high]).all() or ((low == -1).all() and (high == 1).all()):
        return None
    return ActionScale(tuple(low.tolist()), tuple(high.tolist()))


def _pictures(space: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The space of the pictures, and the keys that lead to it."""
    if space["type"] == "Dict":
        subspaces = space["subspaces"]
        name = next((name for name in PICTURE_KEYS if name in subspaces), None)
        if name is None:
            raise Unreadable(f"it holds none of {', '.join(PICTURE_KEYS)}, only {', '.join(sorted(subspaces))}")
        found, keys = _pictures(subspaces[name])
        return found, [name, *keys]
    shape = space.get("shape")
    if space["type"] != "Box" or space.get("dtype") != "uint8":
        raise Unreadable(f"its observations must be uint8 pictures, got {space['type']} of {space.get('dtype')}")
    if not isinstance(shape, list) or len(shape) not in (2, 3) or any(type(n) is not int or n < 1 for n in shape):
        raise Unreadable(f"its observations must be pictures, got the shape {shape}")
    return space, []


def _description(episode: Transitions, provenance: Provenance) -> dict[str, Any]:
    action: dict[str, Any]
    if episode.discrete:
        action = {"type": "Discrete", "dtype": "int64", "start": 0, "n": provenance.num_actions}
    else:
        action = _box(episode.action.shape[1:], "float32", -1.0, 1.0)
    name = "-".join(part.lower() for part in (provenance.task, provenance.level) if part) or "data"
    return {
        "dataset_id": f"rlrep/{name.replace('_', '-')}-v0",
        "minari_version": VERSION,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": json.dumps(_box(episode.frames.shape[1:], "uint8", 0, 255)),
        "action_space": json.dumps(action),
        PROVENANCE: provenance.to_json(),
    }


def _box(shape: tuple[int, ...], dtype: str, low: float, high: float) -> dict[str, Any]:
    bounds = {name: np.full(shape, value, dtype).tolist() for name, value in (("low", low), ("high", high))}
    return {"type": "Box", "dtype": dtype, "shape": list(shape), **bounds}
