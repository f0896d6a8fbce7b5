"""Video files, through PyAV."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.data.clips import AT_ONCE, Clip, Unreadable, missing_extra, reported_as_unreadable


def read_video(path: Path, actions: bool = False, rewards: bool = False) -> Iterator[Clip]:
    """A video file; of several video streams the first."""
    if rewards:
        raise Unreadable("it is a video, which holds no actions and rewards: open_video is for these")
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
