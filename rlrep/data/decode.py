"""The first pass: every source's pictures, made alike, into a cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.data.cache import GrowingArray, Index, write_index
from rlrep.data.clips import Clip, Unreadable
from rlrep.data.pictures import newest_frames, resize
from rlrep.data.sources import Source

SAME_RATE = 0.01


@dataclass(frozen=True)
class Options:
    """What the decoded frames depend on; `open_video` explains them."""

    image_size: int
    fps: float | None
    mixed_sizes: bool
    actions: bool


def decode(
    sources: Sequence[Source], options: Options, skip_corrupt: bool, folder: Path, made_from: dict[str, Any]
) -> None:
    """Writes a cache into `folder`.

    Raises:
        ValueError: for a file that can't be used, unless `skip_corrupt`; for files that do not fit together.
    """
    index = Index(made_from, has_action=options.actions)
    action: list[np.ndarray] = []
    alike = Alike(options)
    with closing(GrowingArray(folder / "frames.npy")) as frames:
        for source in sources:
            rows, clips, first = frames.rows, len(index.lengths), dict(alike.first)
            try:
                for clip in source.reader(source.path, options.actions):
                    index.lengths.append(_append(frames, alike.chunks(source.path, clip)))
                    index.files.append(str(source.path))
                    if options.actions:
                        action.append(alike.action(source.path, clip))
                if frames.rows == rows:
                    raise Unreadable("it holds no frames")
            except Unreadable as error:
                if not skip_corrupt:
                    raise ValueError(
                        f"{source.path} can't be used: {error}; skip_corrupt=True leaves it out"
                    ) from error
                index.skipped[str(source.path)] = str(error)
                frames.cut(rows)
                alike.first = first
                for held in (index.lengths, index.files, action):
                    del held[clips:]
        frames.finish()
    if not index.lengths:
        path, reason = next(iter(index.skipped.items()))
        raise ValueError(f"none of the {len(sources)} files can be used; the first is {path}: {reason}")
    if options.actions:
        np.save(folder / "action.npy", np.concatenate(action), allow_pickle=False)
    write_index(folder, index)


def _append(frames: GrowingArray, chunks: Iterator[np.ndarray]) -> int:
    before = frames.rows
    for chunk in chunks:
        frames.append(chunk)
    if frames.rows == before:
        raise Unreadable("it holds an episode without frames")
    return frames.rows - before


class WithoutActions(ValueError):
    """Actions were asked for, of a file that holds none."""


class Alike:
    """Makes all clips alike, and refuses those that can't be; the first one sets what the others must be like."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.first: dict[str, tuple[Any, Path]] = {}

    def chunks(self, path: Path, clip: Clip) -> Iterator[np.ndarray]:
        """A clip's frames, (t, C, image_size, image_size) uint8."""
        for chunk in self._at_rate(path, clip):
            frames = newest_frames(chunk)
            channels, height, width = frames.shape[1:]
            self._compare("channels", channels, path, "convert the files to the same")
            if not self.options.mixed_sizes:
                advice = "with mixed_sizes=True all are resized"
                self._compare("pictures (width x height)", f"{width}x{height}", path, advice)
            if len(frames):
                yield resize(frames, self.options.image_size)

    def action(self, path: Path, clip: Clip) -> np.ndarray:
        if clip.action is None:
            raise WithoutActions(f"{path} holds no actions: videos have none, episode files may")
        kind = f"{clip.action.dtype} of shape {clip.action.shape[1:]}"
        self._compare("actions", kind, path, "open the files of one task only")
        return clip.action

    def _at_rate(self, path: Path, clip: Clip) -> Iterator[np.ndarray]:
        wanted = self.options.fps
        if wanted is None:
            if clip.fps is not None:
                advice = "with fps=RATE all are brought to one, by dropping frames"
                self._compare("frames a second", clip.fps, path, advice, alike=_same_rate)
            return clip.chunks
        if clip.fps is None:
            raise ValueError(f"fps={wanted:g} needs frame rates, and {path} has none: leave fps out")
        if _same_rate(clip.fps, wanted):
            return clip.chunks
        if clip.fps < wanted:
            raise ValueError(
                f"{path} has {float(clip.fps):g} frames a second, fewer than fps={wanted:g}: frames can be dropped, "
                f"not made; choose a lower rate"
            )
        return _thinned(clip.chunks, Fraction(wanted).limit_denominator(1001) / clip.fps)

    def _compare(self, what: str, value: Any, path: Path, advice: str, alike: Any = None) -> None:
        first, first_path = self.first.setdefault(what, (value, path))
        if first != value if alike is None else not alike(first, value):
            raise ValueError(f"files with different {what}: {first_path} has {first}, {path} has {value}; {advice}")


def _same_rate(one: float | Fraction, other: float | Fraction) -> bool:
    return abs(float(one) - float(other)) <= SAME_RATE * float(one)


def _thinned(chunks: Iterator[np.ndarray], share: Fraction) -> Iterator[np.ndarray]:
    """`share` < 1 of the frames, as evenly as can be, the first one among them."""
    start = 0
    for chunk in chunks:
        number = np.arange(start - 1, start + len(chunk))
        kept = np.diff(number * share.numerator // share.denominator) > 0
        start += len(chunk)
        yield chunk[kept]
