"""The first pass: decodes every source's pictures, in one size and rate, into a cache."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.data.cache import GrowingArray, write_index
from rlrep.data.episode import Episode
from rlrep.data.formats import Wanted
from rlrep.data.pictures import UNKNOWN, Layout, resize
from rlrep.data.reading import FileProgress, Unavailable, Unreadable, untold
from rlrep.data.sources import Source
from rlrep.data.unfinished import ACTIONS, FRAMES, Decoded, Journal

SAME_RATE = 0.01
# Steps between pictures are uneven if they differ by this share from the usual or wanted step.
EVEN = (0.5, 1.5)
# The last picture counts for a tick if it is shown at most this share of a tick earlier: times are rounded.
ROUNDING = Fraction(1, 10)


@dataclass(frozen=True)
class Options:
    """The options that decoded frames depend on; `open_video` explains them."""

    image_size: int
    fps: float | None
    mixed_sizes: bool
    actions: bool
    layout: Layout = UNKNOWN

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.actions, layout=self.layout)


def decode(
    sources: Sequence[Source],
    options: Options,
    skip_corrupt: bool,
    folder: Path,
    made_from: dict[str, Any],
    progress: FileProgress = untold,
) -> None:
    """Writes a cache into `folder`; `progress` is called after each chunk of frames. Goes on after the files that a
    decoding into this folder had finished when it was stopped.

    Raises:
        ValueError: for a file that can't be used, unless `skip_corrupt`; for files that do not fit together.
        CanNotRead: for a file that can't be read now, even with `skip_corrupt`: it may be intact.
    """
    journal = Journal(folder, sources, asdict(options))
    done = journal.resume(made_from)
    index, action, alike = done.index, done.action, Alike(options, done.first)
    with closing(GrowingArray(folder / FRAMES, rows=done.rows, shape=done.shape)) as frames:
        for number, source in [*enumerate(sources)][done.sources :]:
            rows, episodes, first = frames.rows, len(index.lengths), dict(alike.first)

            def undo(rows: int = rows, episodes: int = episodes, first: dict[str, Any] = first) -> None:
                frames.cut(rows)
                alike.first = first
                for held in (index.lengths, index.checksums, index.files, action):
                    del held[episodes:]

            remarks: list[str] = []
            try:
                with source.named():
                    for episode in source.read(options.wanted):
                        chunks = alike.chunks(source.path, episode, remarks)
                        length, checksum = _append(frames, chunks, partial(progress, number, len(sources)))
                        index.lengths.append(length)
                        index.checksums.append(checksum)
                        index.files.append(str(source.path))
                        if episode.left_out:
                            remarks.append(f"left out {episode.left_out}")
                        if options.actions:
                            action.append(alike.action(source.path, episode, length))
                if frames.rows == rows:
                    raise Unreadable("it holds no frames")
                if remarks:
                    index.remarks[str(source.path)] = "; ".join(remarks)
            except BaseException as error:
                undo()
                if skip_corrupt and isinstance(error, Unreadable):
                    index.skipped[str(source.path)] = str(error)
                    if isinstance(error, Unavailable):
                        index.retry.append(str(source.path))
                else:
                    with suppress(OSError):  # of a full disk: the last notes stay
                        frames.flush()
                        journal.note(Decoded(index, alike.first, action, frames.shape, number))
                    if isinstance(error, Unreadable):
                        hint = "; skip_corrupt=True leaves it out" if len(sources) > 1 else ""
                        raise ValueError(f"{source.path} can't be used: {error}{hint}") from error
                    raise
            if journal.is_due:
                frames.flush()
                journal.note(Decoded(index, alike.first, action, frames.shape, number + 1))
        progress(len(sources), len(sources), frames.rows)
        frames.finish()
    if not index.lengths:
        path, reason = next(iter(index.skipped.items()))
        raise ValueError(f"none of the {len(sources)} files can be used; the first is {path}: {reason}")
    if options.actions:
        np.save(folder / ACTIONS, np.concatenate(action), allow_pickle=False)
        index.action_checksum = zlib.crc32((folder / ACTIONS).read_bytes())
    write_index(folder, index)
    journal.remove()


def _append(frames: GrowingArray, chunks: Iterator[np.ndarray], progress: Callable[[int], object]) -> tuple[int, int]:
    """Appends an episode, reports progress after each chunk, and returns the number of frames and their checksum."""
    before, checksum = frames.rows, 0
    for chunk in chunks:
        frames.append(chunk)
        checksum = zlib.crc32(np.ascontiguousarray(chunk).data, checksum)
        progress(frames.rows)
    if frames.rows == before:
        raise Unreadable("it holds an episode without frames")
    return frames.rows - before, checksum


class WithoutActions(ValueError):
    """Actions are needed, and the file has none."""


class Alike:
    """Makes all episodes alike; the first episode sets the form, and episodes that cannot take it are refused."""

    def __init__(self, options: Options, first: dict[str, tuple[Any, Path]]) -> None:
        self.options, self.first = options, first

    def chunks(self, path: Path, episode: Episode, remarks: list[str]) -> Iterator[np.ndarray]:
        """An episode's frames, (t, C, image_size, image_size) uint8; then `remarks` lists their problems."""
        for frames in self._at_rate(path, episode, remarks):
            channels, height, width = frames.shape[1:]
            self._compare("channels", channels, path, "convert the files to the same")
            if not self.options.mixed_sizes:
                advice = "with mixed_sizes=True all are resized"
                self._compare("pictures (width x height)", f"{width}x{height}", path, advice)
            if len(frames):
                yield resize(frames, self.options.image_size)

    def action(self, path: Path, episode: Episode, frames: int) -> np.ndarray:
        """An episode's actions, one row per frame; the last row is unused."""
        if episode.action is None:
            raise WithoutActions(f"{path} holds no actions: videos have none, episode files may")
        action = episode.actions_taken(frames)
        kind = f"{action.dtype} of shape {action.shape[1:]}"
        self._compare("actions", kind, path, "open the files of one task only")
        return np.concatenate([action, np.zeros((1, *action.shape[1:]), action.dtype)])

    def _at_rate(self, path: Path, episode: Episode, remarks: list[str]) -> Iterator[np.ndarray]:
        wanted = self.options.fps
        if wanted is None:
            if episode.fps is not None:
                advice = "with fps=RATE all are brought to one, by dropping frames"
                self._compare("frames a second", episode.fps, path, advice, alike=_same_rate)
            yield from episode.chunks
            uneven = _uneven(episode.times or [])
            if uneven:
                remarks.append(f"its frame rate varies ({uneven}): with fps=RATE frames are chosen by their times")
            return
        if episode.fps is None or episode.times is None:
            raise ValueError(f"fps={wanted:g} needs frame rates, and {path} has none: leave fps out")
        if episode.fps < wanted and not _same_rate(episode.fps, wanted):
            raise ValueError(
                f"{path} has {float(episode.fps):g} frames a second, fewer than fps={wanted:g}: frames can be dropped, "
                f"not made; choose a lower rate"
            )
        kept: list[Fraction] = []
        yield from _thinned(episode.chunks, episode.times, Fraction(wanted).limit_denominator(1001), kept)
        uneven = _uneven(episode.times) and _uneven(kept, 1 / wanted)
        if uneven:
            remarks.append(f"its frame rate varies, and fps={wanted:g} can't make it even ({uneven})")

    def _compare(self, what: str, value: Any, path: Path, advice: str, alike: Any = None) -> None:
        first, first_path = self.first.setdefault(what, (value, path))
        if first != value if alike is None else not alike(first, value):
            raise ValueError(f"files with different {what}: {first_path} has {first}, {path} has {value}; {advice}")


def _same_rate(one: float | Fraction, other: float | Fraction) -> bool:
    return abs(float(one) - float(other)) <= SAME_RATE * float(one)


def _uneven(times: Sequence[Fraction], usual: float | None = None) -> str:
    """How the steps between `times` vary, in words; empty if all are close to the usual step, by default the median."""
    steps = np.diff(np.array(times, float))
    if not len(steps):
        return ""
    usual = float(np.median(steps)) if usual is None else usual
    number = int(((steps < EVEN[0] * usual) | (steps > EVEN[1] * usual)).sum())
    return f"{number} of {len(steps)} steps are uneven, {steps.min():.3g} to {steps.max():.3g} s" if number else ""


def _thinned(
    chunks: Iterable[np.ndarray], times: Sequence[Fraction], rate: Fraction, kept: list[Fraction]
) -> Iterator[np.ndarray]:
    """Chooses frames, shown at `times`: the nearest to each tick of a clock that starts with the first frame and ticks
    `rate` times a second. A tick without a near frame gets none: the step is longer. Adds their times to `kept`.
    """
    at = tick = Fraction(0)
    best: np.ndarray | None = None

    def take() -> Iterator[np.ndarray]:
        assert best is not None
        time = times[0] + at / rate
        if not kept or (time - kept[-1]) * rate > Fraction(1, 2):
            kept.append(time)
            yield best

    start = 0
    for chunk in chunks:
        chosen: list[np.ndarray] = []
        for frame, time in zip(chunk, times[start : start + len(chunk)], strict=True):
            now = (time - times[0]) * rate
            nearest = Fraction(math.floor(now + Fraction(1, 2)))
            if best is not None and nearest > tick:
                chosen.extend(take())
                best = None
            if best is None or abs(now - max(nearest, tick)) <= abs(at - tick):
                best, at, tick = frame, now, max(nearest, tick)
        start += len(chunk)
        if chosen:
            yield np.stack(chosen)
    if best is not None and tick - at <= ROUNDING:
        for frame in take():
            yield frame[None]
