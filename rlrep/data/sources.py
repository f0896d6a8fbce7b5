"""Finds the files and folders at a user's path, and the format of each."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlrep.arguments import as_path
from rlrep.data.formats import Episode, Format, Wanted, named
from rlrep.data.reading import CanNotRead, Unavailable, Unreadable
from rlrep.data.transitions import Provenance

CACHE_FOLDER = ".rlrep-cache"


@dataclass(frozen=True)
class Source:
    """A file, or a folder that a format reads as a whole."""

    path: Path
    format: Format

    def read(self, wanted: Wanted) -> Iterator[Episode]:
        """The source's episodes, see `Format.read`."""
        self._check_kind()
        yield from self.format.read(self.path, wanted)

    def provenance(self) -> Provenance | None:
        """See `Format.provenance`."""
        self._check_kind()
        return self.format.provenance(self.path)

    def _check_kind(self) -> None:
        """Refuses a broken link, a pipe or a device."""
        if is_dangling(self.path):
            target = os.readlink(self.path)
            raise Unreadable(f"it is a link to {target}, where nothing is: make the link anew, or delete it")
        if not self.path.is_file() and not self.path.is_dir():
            raise Unreadable(
                "it is not a regular file, and reading it may never end: delete it, or put the file in its place"
            )

    @contextmanager
    def named(self) -> Iterator[None]:
        """Adds the file's name to a system error."""
        try:
            yield
        except CanNotRead as error:
            raise CanNotRead(error.errno or errno.EIO, f"{self.path} {error.strerror}") from error

    def is_supported(self, wanted: Wanted) -> bool:
        """Whether a file that was not readable on this machine is readable now, or is damaged."""
        try:
            for episode in self.read(wanted):
                for _ in episode.chunks:
                    return True
        except Unavailable:
            return False
        except Unreadable:
            return True
        return True

    def fingerprint(self) -> list[list[str | int]]:
        """Name, size and time of change of each file, without hidden files."""
        files = visible_files(self.path) if self.path.is_dir() else [self.path]
        return [
            [str(file), os.readlink(file)]
            if is_dangling(file)
            else [str(file), file.stat().st_size, file.stat().st_mtime_ns]
            for file in files
        ]


def locate(name: str | Path, format: str | Format | None = None) -> Path:
    """The file or folder of this name, or of the local data set with this id.

    Args:
        name: a path or an id.
        format: the user's choice; None for all.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: for an invalid path.
    """
    path = as_path(name)
    if path.exists():
        return path.resolve()
    for each in named(format):
        if (found := each.locate(str(name))) is not None:
            return found.resolve()
    raise FileNotFoundError(f"there is no file or folder {name}")


def find(root: Path, format: str | Format | None = None) -> list[Source]:
    """The sources in a file or folder that `locate` found, in the order of their names.

    Args:
        root: of the files.
        format: the user's choice; None gives each file and folder the first format that matches.

    Raises:
        ValueError: if there are none.
    """
    formats = named(format)
    if found := _whole(root, formats):
        return each_once(found)
    if root.is_file():
        if format is not None:
            return [Source(root, formats[0])]
        raise ValueError(f"{root} does not end like a file that can be read ({_endings(formats)})")
    other: list[Path] = []
    for folder, folders, files in _walk(root):
        if folder != root and (whole := _whole(folder, formats)):
            found += whole
            folders.clear()
            continue
        for file in files:
            if (match := next((each for each in formats if each.matches(file)), None)) or is_dangling(file):
                found.append(Source(file, match or formats[0]))
            else:
                other.append(file)
    if not found:
        held = ", ".join(sorted({file.suffix or file.name for file in other})[:10]) or "nothing"
        if format is not None:
            raise ValueError(f"{root} holds nothing of the format {formats[0].name}; it holds {held}")
        raise ValueError(
            f"{root} holds no videos or episode files ({_endings(formats)}), and no folder of a format that is known "
            f"({', '.join(each.name for each in formats if not each.endings)}); it holds {held}"
        )
    return each_once(sorted(found, key=lambda source: source.path))


def each_once(sources: Sequence[Source]) -> list[Source]:
    """The sources without duplicates by links; the original name takes precedence."""
    named = {source.path: source for source in sources}
    real = {path: Path(os.path.realpath(path)) for path in named}
    first: dict[Path, Path] = {}
    for path in sorted(named, key=lambda path: real[path] != path):
        first.setdefault(path if is_dangling(path) else real[path], path)
    kept = set(first.values())
    return [source for path, source in named.items() if path in kept]


def _whole(path: Path, formats: Sequence[Format]) -> list[Source]:
    """The sources of a file or folder that one format reads as a whole."""
    for each in formats:
        if parts := each.parts(path):
            return [Source(part, each) for part in parts]
    return []


def _endings(formats: Sequence[Format]) -> str:
    return ", ".join(dict.fromkeys(ending for each in formats for ending in each.endings))


def beside(sources: Sequence[Source]) -> list[Path]:
    """The files that the formats of `sources` read with them, see `Format.beside`."""
    named = {source.path.with_name(name) for source in sources for name in source.format.beside}
    return sorted(path for path in named if path.is_file())


def is_dangling(path: Path) -> bool:
    """Whether it is a broken link."""
    return path.is_symlink() and not path.exists()


def visible_files(folder: Path) -> list[Path]:
    """All files below a folder, ordered by name, see `_walk`."""
    return sorted(file for _, _, files in _walk(folder) for file in files)


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[Path]]]:
    """Each folder below `root` with the names of its folders, a list that the caller may shorten, and of its files,
    including broken links and pipes, without hidden ones. Links to folders are followed, but each folder appears once,
    under its first name.

    Raises:
        CanNotRead: if one of the folders can't be read.
    """

    def refuse(error: OSError) -> None:
        raise CanNotRead(error.errno or errno.EIO, f"the folder {error.filename} can't be read ({error.strerror})")

    seen = set()
    for name, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        here = Path(name)
        found = here.stat()
        new = (found.st_dev, found.st_ino) not in seen
        seen.add((found.st_dev, found.st_ino))
        folders[:] = sorted(each for each in folders if new and not each.startswith("."))
        if new:
            paths = [here / each for each in names if not each.startswith(".")]
            yield here, folders, [path for path in paths if not path.is_dir()]
