"""One reader for each kind of file that holds episodes of pictures.

A reader takes a path, and whether actions are wanted, and yields the `Clip`s in it. What is wrong with a file is raised
as `Unreadable`, whose message need not name the file: whoever calls the reader does.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.data.pictures import newest_frames

# Pictures held in memory at a time, at their full size (16 of 1080p take 100 MB).
AT_ONCE = 16
PICTURE_KEYS = ("observation", "image", "frames", "obs", "observations", "pixels", "rgb")
ACTION_KEYS = ("action", "actions")


class Unreadable(ValueError):
    """A file that can't be used, whatever is asked of it."""


@dataclass
class Clip:
    """One episode.

    Attributes:
        name: says which one it is.
        chunks: its pictures in order, (t, C, H, W) uint8 each; to be read before the next clip is asked for.
        fps: pictures a second, where the source tells.
        action: (T, A) float32 or (T,) int64, row i taken at picture i; None unless it is wanted and there.
    """

    name: str
    chunks: Iterator[np.ndarray]
    fps: Fraction | None = None
    action: np.ndarray | None = None


Reader = Callable[[Path, bool], Iterator[Clip]]


@contextmanager
def reported_as_unreadable() -> Iterator[None]:
    """Whatever a library's parser meets in a damaged file, as `Unreadable`."""
    try:
        yield
    except (Unreadable, ModuleNotFoundError, MemoryError):
        raise
    except Exception as error:
        raise Unreadable(f"it is corrupt or truncated ({type(error).__name__}: {error})") from error


def missing_extra(package: str, reads: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f'reading {reads} needs {package}: pip install "rlrep[data]"')


def read_video(path: Path, actions: bool = False) -> Iterator[Clip]:
    """A video file, through PyAV; of several video streams the first."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise missing_extra("PyAV", "videos") from error

    with reported_as_unreadable():
        container = av.open(str(path))
    with container:
        if not container.streams.video:
            kinds = " and ".join(sorted({stream.type for stream in container.streams}))
            raise Unreadable(
                f"it has no pictures, only {kinds}" if kinds else "it is corrupt or truncated: it is empty"
            )
        rate = container.streams.video[0].average_rate
        yield Clip(path.name, _decode(path, container, rate), rate)


def _decode(path: Path, container: Any, rate: Fraction | None) -> Iterator[np.ndarray]:
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    pictures: list[np.ndarray] = []
    start, end = None, 0.0
    with reported_as_unreadable():
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise Unreadable(f"the picture at {frame.time} s is corrupt")
            picture = frame.to_ndarray(format="rgb24")
            if pictures and picture.shape != pictures[0].shape:
                raise Unreadable(f"its pictures change from {_size(pictures[0])} to {_size(picture)}")
            pictures.append(picture)
            start = frame.time if start is None else start
            end = (frame.time or 0.0) + float(max((frame.duration or 0) * frame.time_base, 1 / rate if rate else 0))
            if len(pictures) == AT_ONCE:
                yield np.moveaxis(np.stack(pictures), 3, 1)
                pictures.clear()
    if pictures:
        yield np.moveaxis(np.stack(pictures), 3, 1)
    if start is None:
        raise Unreadable("it is corrupt or truncated: no picture could be decoded")
    _check_is_whole(path, container, rate, end - min(start, 0.0))


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _check_is_whole(path: Path, container: Any, rate: Fraction | None, seconds: float) -> None:
    """Refuses a video that ends before its header says: decoders pass over a missing end in silence."""
    if path.suffix.lower() == ".gif":
        with path.open("rb") as file:
            file.seek(-min(path.stat().st_size, 32), io.SEEK_END)
            if not file.read().rstrip(b"\0").endswith(b";"):
                raise Unreadable("it is truncated: the byte that ends a GIF is missing")
    stated = _stated_seconds(container)
    # Containers round, and how long the last picture stands is a guess.
    if rate and stated and stated - seconds > max(1.5 / rate, 0.01 * stated):
        raise Unreadable(f"it is truncated: {seconds:.2f} of {stated:.2f} seconds could be decoded")


def _stated_seconds(container: Any) -> float | None:
    """How long the container says that its video is; Matroska says it of each stream in a tag."""
    stream = container.streams.video[0]
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION")
    if tag is not None:
        hours, minutes, seconds = tag.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    return None if container.duration is None else container.duration / 1e6


def read_npz(path: Path, actions: bool = False) -> Iterator[Clip]:
    """One episode: pictures as `observation`, `image`, `frames` or `obs`, perhaps `action`. Also V-D4RL's 64-pixel
    files and the episodes of DrQ-v2's replay.
    """
    with reported_as_unreadable():
        try:
            with np.load(path, allow_pickle=False) as file:
                frames = newest_frames(_pick(file, PICTURE_KEYS))
                action = _aligned(_pick(file, ACTION_KEYS), len(frames)) if actions else None
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            raise Unreadable("it holds pickled objects, which can run any code: save plain arrays instead") from error
    yield Clip(path.name, _in_chunks(frames), action=action)


def read_hdf5(path: Path, actions: bool = False) -> Iterator[Clip]:
    """V-D4RL's 84-pixel layout: `observation` (N, C, H, W), `step_type` (N,), 0 at the first entry of an episode,
    perhaps `action`.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise missing_extra("h5py", "HDF5 files") from error

    with reported_as_unreadable():
        file = h5py.File(path, "r")
    with file:
        with reported_as_unreadable():
            frames = _pick(file, PICTURE_KEYS)
            if "step_type" not in file:
                raise Unreadable("it has no step_type, (N,) integers that are 0 at the first entry of each episode")
            starts = np.flatnonzero(np.asarray(file["step_type"]).reshape(-1) == 0).tolist()
            if len(file["step_type"]) != len(frames) or starts[:1] != [0]:
                raise Unreadable("its step_type must have an entry for each observation and begin with a 0")
            led_here = _pick(file, ACTION_KEYS) if actions else None
        # A compressed block may span many episodes; it is read once.
        size = max(AT_ONCE, (frames.chunks or (0,))[0])

        @lru_cache(maxsize=1)
        def block(number: int) -> np.ndarray:
            with reported_as_unreadable():
                return newest_frames(np.asarray(frames[number * size : (number + 1) * size]))

        for number, (first, end) in enumerate(zip(starts, [*starts[1:], len(frames)], strict=True)):
            action = None if led_here is None else _aligned(np.asarray(led_here[first + 1 : end]), end - first)
            yield Clip(f"{path.name}, episode {number}", _from_blocks(block, size, first, end), action=action)


def _from_blocks(block: Callable[[int], np.ndarray], size: int, first: int, end: int) -> Iterator[np.ndarray]:
    """Rows first to end of what is read in blocks of `size` rows."""
    while first < end:
        number, offset = divmod(first, size)
        part = block(number)[offset : offset + end - first]
        yield part
        first += len(part)


def read_minari(path: Path, actions: bool = False) -> Iterator[Clip]:
    """A Minari data set with pictures as observations, or under one of the usual names in a dictionary of them."""
    try:
        import minari
    except ModuleNotFoundError as error:
        raise missing_extra("Minari", "Minari data sets") from error

    with reported_as_unreadable():
        episodes = minari.MinariDataset(path / "data").iterate_episodes()
        for number, episode in enumerate(episodes):
            seen = episode.observations
            frames = newest_frames(np.asarray(_pick(seen, PICTURE_KEYS) if isinstance(seen, dict) else seen))
            action = _aligned(np.asarray(episode.actions), len(frames)) if actions else None
            yield Clip(f"{path.name}, episode {number}", _in_chunks(frames), action=action)


def read_replay(path: Path, actions: bool = False) -> Iterator[Clip]:
    """The rows of a `ReplayBuffer`'s files, in the order they were written; a running episode and a half overwritten
    one too.
    """
    with reported_as_unreadable():
        lanes = json.loads((path / "replay.json").read_text())["lanes"]
        rows = {
            name: np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("frame", "episode", "step", "action")
        }
        for lane in range(lanes):
            order = _written(rows["episode"][lane], rows["step"][lane])
            numbers = rows["episode"][lane][order]
            for at in np.split(order, np.flatnonzero(np.diff(numbers)) + 1):
                if len(at) > 1:
                    name = f"environment {lane}, episode {rows['episode'][lane][at[0]]}"
                    yield Clip(name, _rows(rows["frame"][lane], at), action=np.asarray(rows["action"][lane, at]))


def _rows(frames: np.ndarray, at: np.ndarray) -> Iterator[np.ndarray]:
    for part in np.array_split(at, -(-len(at) // AT_ONCE)):
        yield np.asarray(frames[part])


def _written(episode: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Rows of a ring, oldest first: the longest stretch in which each row follows on the one before it. What a run
    wrote after its last checkpoint and then wrote anew lies outside it, and so do rows never written to.
    """
    length = len(episode)
    following = np.arange(1, length + 1) % length
    same = (episode[following] == episode) & (step[following] == step + 1)
    follows = same | ((episode[following] == episode + 1) & (step[following] == 0))
    breaks = np.flatnonzero(~follows)
    if not len(breaks):
        return np.arange(length)
    sizes = np.diff(breaks, prepend=breaks[-1] - length)
    longest = int(np.argmax(sizes))
    return np.arange(breaks[longest] - sizes[longest] + 1, breaks[longest] + 1) % length


def _pick(holder: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if name in holder:
            return holder[name]
    raise Unreadable(f"it holds none of {', '.join(names)}, only {', '.join(sorted(holder)) or 'nothing'}")


def _aligned(action: np.ndarray, frames: int) -> np.ndarray:
    """Actions with a row for each frame, taken at it. One row fewer than frames is such a row each but for the last;
    as many rows are what dm_env's time steps hold: row i led to frame i, and row 0 is zeros.
    """
    if action.dtype.kind not in "iuf" or action.ndim not in (1, 2) or not frames - 1 <= len(action) <= frames:
        raise Unreadable(
            f"its actions must be numbers of shape (T, A) or (T,), one for each of {frames} frames or one fewer, got "
            f"{action.dtype} of shape {action.shape}"
        )
    if len(action) == frames:
        if np.any(action[0]):
            raise Unreadable(
                "it holds an action for each frame, which must then be the one that led to it, the first all zeros; "
                "for actions taken at their frames leave the last one out"
            )
        action = action[1:]
    if action.dtype.kind == "f":
        action = action.reshape(len(action), -1).astype(np.float32)
    else:
        action = (action[:, 0] if action.shape[1:] == (1,) else action).astype(np.int64)
    return np.concatenate([action, np.zeros((1, *action.shape[1:]), action.dtype)])


def _in_chunks(frames: np.ndarray) -> Iterator[np.ndarray]:
    for at in range(0, len(frames), AT_ONCE):
        yield frames[at : at + AT_ONCE]
