"""What a person points at, as files and the readers that take them."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrep.data import minari_files
from rlrep.data.clips import CanNotRead, Clip, Reader, Unreadable
from rlrep.data.hdf5 import read_hdf5
from rlrep.data.minari_files import read_minari
from rlrep.data.npz import read_npz
from rlrep.data.replay_files import read_replay
from rlrep.data.video_files import read_video

VIDEOS = (
    *(".mp4", ".webm", ".gif", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".ogv"),
    *(".wmv", ".asf", ".flv", ".3gp", ".3g2"),
)
READERS: dict[str, Reader] = {
    **dict.fromkeys(VIDEOS, read_video),
    ".npz": read_npz,
    **dict.fromkeys((".hdf5", ".h5"), read_hdf5),
}
CACHE_FOLDER = ".rlrep-cache"
ENDINGS = ", ".join(READERS)
MINARI_ID = re.compile(r"[\w./-]+-v\d+")


@dataclass(frozen=True)
class Source:
    """A file, or a folder that one reader takes as a whole."""

    path: Path
    reader: Reader

    def fingerprint(self) -> list[list[str | int]]:
        """Name, size and time of change of each file; hidden ones do not count."""
        files = visible_files(self.path) if self.path.is_dir() else [self.path]
        return [
            [str(file), os.readlink(file)]
            if is_dangling(file)
            else [str(file), file.stat().st_size, file.stat().st_mtime_ns]
            for file in files
        ]


def locate(name: str | Path) -> Path:
    """The file or folder of that name, or of the local Minari data set with that id.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path.resolve()
    if not MINARI_ID.fullmatch(str(name)) or {"", ".", ".."} & set(str(name).split("/")):
        raise FileNotFoundError(f"there is no file or folder {name}")
    path = minari_files.folder_of(str(name))
    if not (path / minari_files.METADATA).is_file():
        raise FileNotFoundError(
            f"there is no file or folder {name}, and no Minari data set of that id on this machine: if it is one, "
            f"fetch it with `minari download {name}`"
        )
    return path.resolve()


def find(root: Path) -> list[Source]:
    """The sources in a file or folder that `locate` found, in the order of their names.

    Raises:
        ValueError: if there are none.
    """
    if root.is_file():
        if root.suffix.lower() not in READERS:
            raise ValueError(f"{root} does not end like a file that can be read ({ENDINGS})")
        return [Source(root, READERS[root.suffix.lower()])]
    replays = [root, root / "replay", *sorted(root.glob("rank_*/replay"))]  # torchrun's processes have one each
    found = [Source(folder, read_replay) for folder in replays if (folder / "replay.json").is_file()]
    if found:
        return found
    if (root / minari_files.METADATA).is_file():
        return [Source(root, read_minari)]
    files = list(visible_files(root))
    found = [
        Source(file, READERS[file.suffix.lower()] if file.is_file() else read_nothing)
        for file in files
        if file.suffix.lower() in READERS or is_dangling(file)
    ]
    if not found:
        other = ", ".join(sorted({file.suffix or file.name for file in files})[:10]) or "nothing"
        raise ValueError(
            f"{root} holds no videos or episode files ({ENDINGS}), no Minari data set and no run's replay; it holds "
            f"{other}"
        )
    return found


def is_dangling(path: Path) -> bool:
    """Whether it is a link to nothing."""
    return path.is_symlink() and not path.exists()


def read_nothing(path: Path, *_: Any, **options: Any) -> Iterator[Clip]:
    """Refuses what stands where data may have been: a link to nothing, a pipe or a device."""
    if is_dangling(path):
        raise Unreadable(f"it is a link to {os.readlink(path)}, where nothing is: make the link anew, or delete it")
    raise Unreadable("it is not a regular file, and reading it may never end: delete it, or put the file in its place")


def visible_files(folder: Path) -> list[Path]:
    """All files below a folder, links to nothing and pipes among them, but hidden ones and those in hidden folders, in
    the order of their names. Links to folders are followed, but each folder is read once, under the first of its names.

    Raises:
        CanNotRead: if one of the folders can't be read.
    """

    def refuse(error: OSError) -> None:
        raise CanNotRead(error.errno or errno.EIO, f"the folder {error.filename} can't be read ({error.strerror})")

    files: list[Path] = []
    seen = set()
    for name, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(name)
        found = here.stat()
        new = (found.st_dev, found.st_ino) not in seen
        seen.add((found.st_dev, found.st_ino))
        folders[:] = sorted(each for each in folders if new and not each.startswith("."))
        paths = [here / each for each in names if new and not each.startswith(".")]
        files += [path for path in paths if not path.is_dir()]
    return sorted(files)
