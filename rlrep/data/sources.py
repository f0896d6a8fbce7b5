"""What a person points at, as files and the readers that take them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlrep.data import minari_files
from rlrep.data.clips import Reader
from rlrep.data.hdf5 import read_hdf5
from rlrep.data.minari_files import read_minari
from rlrep.data.npz import read_npz
from rlrep.data.replay_files import read_replay
from rlrep.data.video_files import read_video

READERS: dict[str, Reader] = {
    **dict.fromkeys((".mp4", ".webm", ".gif", ".mkv", ".avi"), read_video),
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
        files = [self.path] if self.path.is_file() else visible_files(self.path)
        return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


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
    found = [Source(file, READERS[file.suffix.lower()]) for file in files if file.suffix.lower() in READERS]
    if not found:
        other = ", ".join(sorted({file.suffix or file.name for file in files})[:10]) or "nothing"
        raise ValueError(
            f"{root} holds no videos or episode files ({ENDINGS}), no Minari data set and no run's replay; it holds "
            f"{other}"
        )
    return found


def visible_files(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones and those in hidden folders, in the order of their names."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path
