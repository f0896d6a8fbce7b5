"""Reads and writes episodes with actions and rewards in files of any format, one at a time."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryDirectory
from typing import Any

import numpy as np

from rlrep.arguments import as_path, checked_numbers
from rlrep.data import cache as caches
from rlrep.data.formats import WRITTEN, Format, Wanted, make_format
from rlrep.data.pictures import Layout
from rlrep.data.reading import FileProgress, Unavailable, Unreadable, untold
from rlrep.data.sources import Source, find, locate
from rlrep.data.transitions import Provenance, Transitions

__all__ = ["TransitionFiles", "check_target", "write_transitions"]

# Until a file is read completely, so many bytes of its frames stay in memory; the rest is in a temporary file.
HELD_IN_MEMORY = 1 << 28


class TransitionFiles:
    """The episodes in files of any format that `open_dataset` reads; each iteration reads them again, one at a time.

    Args:
        path: of the files, see `open_dataset`.
        skip_corrupt: leave out files that can't be used. Then a file's episodes are yielded only after the whole file
            was read; until then, large frames are in a temporary file.
        channels_last, frame_channels: the layout of pictures, see `open_video`; None detects it from their shape.
        format: of the files, see `open_video`; None detects it from the files.
        progress: called after each episode, with the number of finished files, of all files, and of frames so far.

    Attributes:
        provenance: how the data were made, as far as the files say.
        skipped: after reading, the files that were left out, and the parts of other files; with the reasons.
        retry: the skipped files that become readable when a package is installed.

    Raises:
        FileNotFoundError, ModuleNotFoundError, CanNotRead, ValueError: as `open_dataset` does.
    """

    @checked_numbers
    def __init__(
        self,
        path: str | Path,
        skip_corrupt: bool = False,
        *,
        channels_last: bool | None = None,
        frame_channels: int | None = None,
        format: str | Format | None = None,
        progress: FileProgress = untold,
    ) -> None:
        layout = Layout(channels_last, frame_channels)
        format = None if format is None else make_format(format)
        root = locate(path, format)
        self._open(root, find(root, format), skip_corrupt, layout, progress)

    @classmethod
    def of(
        cls, root: Path, sources: Sequence[Source], skip_corrupt: bool, layout: Layout, progress: FileProgress = untold
    ) -> TransitionFiles:
        """The episodes in `sources`, which were found in `root`."""
        files = cls.__new__(cls)
        files._open(root, sources, skip_corrupt, layout, progress)
        return files

    def _open(
        self, root: Path, sources: Sequence[Source], skip_corrupt: bool, layout: Layout, progress: FileProgress
    ) -> None:
        self.root, self.sources, self.skip_corrupt, self.progress = root, sources, skip_corrupt, progress
        self.wanted = Wanted(actions=True, rewards=True, layout=layout)
        self.skipped: dict[str, str] = {}
        self.retry: list[str] = []
        self.provenance = self._read_provenance()

    @property
    def format(self) -> str:
        """The formats of the files."""
        read = (source for source in self.sources if str(source.path) not in self.skipped)
        return ", ".join(sorted({source.format.describe(source.path) for source in read}))

    def __iter__(self) -> Iterator[Transitions]:
        first: dict[str, tuple[Any, Path]] = {}
        self._frames = 0
        for number, source in enumerate(self.sources):
            if str(source.path) in self.skipped:
                continue
            try:
                episodes = self._counted(self._episodes(source), number)
                for episode in _held(episodes) if self.skip_corrupt else episodes:
                    for what, kind in _kinds(episode).items():
                        expected, path = first.setdefault(what, (kind, source.path))
                        if kind != expected:
                            raise ValueError(
                                f"episodes with different {what}: {path} has {expected}, {source.path} has {kind} "
                                f"({episode.name}); keep the files of one task and size in a folder of their own"
                            )
                    yield episode
            except Unreadable as error:
                self._skip(source, error)
        self.progress(len(self.sources), len(self.sources), self._frames)
        if len(self.skipped.keys() & {str(source.path) for source in self.sources}) == len(self.sources):
            name, reason = next(iter(self.skipped.items()))
            raise ValueError(f"none of the {len(self.sources)} files can be used; the first is {name}: {reason}")

    def _counted(self, episodes: Iterator[Transitions], number: int) -> Iterator[Transitions]:
        """The episodes of a source, by its number; reports progress."""
        for episode in episodes:
            self._frames += len(episode.frames)
            self.progress(number, len(self.sources), self._frames)
            yield episode

    def _skip(self, source: Source, error: Unreadable) -> None:
        """Leaves a file out, if `skip_corrupt` is set."""
        if not self.skip_corrupt:
            hint = "; skip_corrupt=True leaves it out" if len(self.sources) > 1 else ""
            raise ValueError(f"{source.path} can't be used: {error}{hint}") from error
        self.skipped[str(source.path)] = str(error)
        self.skipped.pop(_in_part(source), None)
        if isinstance(error, Unavailable):
            self.retry.append(str(source.path))

    def _episodes(self, source: Source) -> Iterator[Transitions]:
        """A source's episodes; adds the source's unused parts to `skipped`, and warns of them."""
        empty = True
        with source.named():
            for episode in source.read(self.wanted):
                empty = False
                part = episode.left_out
                transitions = episode.transitions()
                if part:
                    if _in_part(source) not in self.skipped:
                        warnings.warn(f"of {source.path} only whole episodes are kept, without {part}", stacklevel=4)
                    self.skipped[_in_part(source)] = part
                yield transitions
        if empty:
            raise Unreadable("it holds no whole episode")

    def _read_provenance(self) -> Provenance:
        """The provenance in the files; empty if the files disagree.

        Raises:
            ValueError: if they disagree on the meaning of the numbers, which all episodes must share.
        """
        told = []
        for source in self.sources:
            try:
                with source.named():
                    told.append(source.provenance())
            except Unreadable as error:
                self._skip(source, error)
        known = [each for each in told if each is not None]
        meant = {str(((each or Provenance()).rewards, (each or Provenance()).action_scale)) for each in told}
        if len(meant) > 1:
            raise ValueError(
                f"{self.root} holds data whose actions were normalized by different bounds, or of which only some have "
                f"rewards: keep each in a folder of its own"
            )
        return known[0] if known and all(each == known[0] for each in known) else Provenance()


def _kinds(episode: Transitions) -> dict[str, Any]:
    """The properties that all episodes of a data set must share, by their names in messages."""
    return {
        "frames (channels, height, width)": episode.frames.shape[1:],
        "actions": (str(episode.action.dtype), episode.action.shape[1:]),
    }


def _in_part(source: Source) -> str:
    """A file's name in `skipped` if a part of it is left out."""
    return f"{source.path} (in part)"


def _held(episodes: Iterator[Transitions]) -> Iterator[Transitions]:
    """Yields episodes after all of them were read without an error."""
    held: list[Transitions] = []
    with SpooledTemporaryFile(HELD_IN_MEMORY) as file:
        for episode in episodes:
            file.write(np.ascontiguousarray(episode.frames).data)
            held.append(replace(episode, frames=np.broadcast_to(np.uint8(0), episode.frames.shape)))
        file.seek(0)
        for episode in held:
            shape = episode.frames.shape
            frames = np.frombuffer(file.read(math.prod(shape)), np.uint8).reshape(shape)
            yield replace(episode, frames=frames)


def write_transitions(
    episodes: Iterable[Transitions],
    folder: str | Path,
    provenance: Provenance | None = None,
    *,
    format: str | Format = "rlrep",
) -> None:
    """Writes a complete data set or nothing; takes episodes one at a time. Never replaces anything in `folder`, even if
    another process writes there meanwhile.

    Args:
        episodes: at least one, of one task.
        folder: a new or empty folder, or a link to one. It is locked before the first episode.
        provenance: how they were made, recorded with them.
        format: "rlrep" (opened without a conversion), "vd4rl_84", "vd4rl_64", "drqv2", "minari", or one of your own,
            see `open_video`.

    Raises:
        ValueError: for an unknown format, a folder that is not empty, no episodes, or episodes that do not fit the
            format.
        InUse: an `OSError`, if another process writes there.
        FileExistsError: if another process wrote to the folder meanwhile; the message says where the episodes are.
        OSError: if it can't be written.
    """
    target = check_target(folder, format)
    with caches.locked(target, wait=False), caches.filling(target) as temporary:
        check_target(target, format)  # another process may have made it before it was locked
        make_format(format).write(_checked(episodes), temporary, provenance or Provenance())


def check_target(folder: str | Path, format: str | Format) -> Path:
    """Makes the checks of `write_transitions` before episodes exist.

    Returns:
        The folder after following links.

    Raises:
        ValueError: for an unknown format or one that is only read, and a folder that is not empty or can't be replaced.
        OSError: if nothing can be written there.
    """
    if not make_format(format, WRITTEN).is_written():
        raise ValueError(f"format {format} has no method `write`: it is only read")
    try:
        folder = as_path(folder).resolve()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} is there already: name a new folder, or delete it")
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{folder} can't be written to ({error}): name a new folder") from error
    if os.path.ismount(folder):
        raise ValueError(f"{folder} is where another file system is mounted: name a new folder in it")
    with caches.unwritable(folder, "free space, or choose another folder"):
        above = next(each for each in folder.parents if each.exists())
        TemporaryDirectory(prefix=".rlrep-", dir=above).cleanup()  # permissions do not tell everything
    return folder


def _checked(episodes: Iterable[Transitions]) -> Iterator[Transitions]:
    """The episodes; checks that there is at least one and that all are alike."""
    first: dict[str, Any] = {}
    for episode in episodes:
        for what, kind in _kinds(episode).items():
            if first.setdefault(what, kind) != kind:
                raise ValueError(
                    f"episodes with different {what}: {first[what]}, and then {kind} ({episode.name}); write those of "
                    f"one task and size into a folder of their own"
                )
        yield episode
    if not first:
        raise ValueError("there are no episodes to write")
