"""Reading files: errors, and bounds on memory.

A problem with a file is raised as `Unreadable`. Its message need not name the file: the caller adds the name.
"""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.extras import install

# How many pictures are in memory at a time, at full size (16 of 1080p take 100 MB).
AT_ONCE = 16
PICTURE_KEYS = ("observation", "image", "frames", "obs", "observations", "pixels", "rgb")
ACTION_KEYS = ("action", "actions")
# A compressed file may unpack to this many bytes, or this many times its size if that is more.
UNPACKED_BYTES = 1 << 28
UNPACKED_TIMES = 20
LARGEST_TEXT = 1 << 26

# A progress callback; it gets the number of finished files, of all files, and of frames so far.
FileProgress = Callable[[int, int, int], object]


def untold(files: int, total: int, frames: int) -> None:
    """A progress callback that does nothing."""


class Unreadable(ValueError):
    """A file that can't be used for any purpose."""


class Unavailable(Unreadable):
    """A file that can't be used now: a part of it is missing, or no installed package decodes it."""


class CanNotRead(OSError):
    """A file that can't be read now, whatever its content: rights, locks, or too many open files."""


# System errors for files that may be intact; a later call reads them again.
PASSING = {
    *(errno.EACCES, errno.EPERM, errno.EAGAIN, errno.EBUSY, errno.EDEADLK, errno.EINTR, errno.EIO, errno.EMFILE),
    *(errno.ENFILE, errno.ENODEV, errno.ENOLCK, errno.ENOMEM, errno.ENOTCONN, errno.ENXIO, errno.ESTALE),
    *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNRESET),
}
# FFmpeg uses the same words for damage.
NOT_OF_FFMPEG = {errno.EPERM, errno.EAGAIN, errno.EIO, errno.ENOMEM}


@contextmanager
def reported_as_unreadable() -> Iterator[None]:
    """Converts all errors of a library's parser in a damaged file to `Unreadable`.

    Raises:
        CanNotRead: for system errors, which say nothing about the file's content.
    """
    try:
        yield
    except (Unreadable, CanNotRead, ImportError):
        raise
    except Exception as error:
        of_ffmpeg = type(error).__module__.startswith("av.")
        if isinstance(error, MemoryError) and not of_ffmpeg:
            raise
        if isinstance(error, FileNotFoundError):
            raise Unavailable(f"a file is missing: {error.filename or error}") from error
        number = getattr(error, "errno", None)
        if isinstance(error, OSError) and number in PASSING - (NOT_OF_FFMPEG if of_ffmpeg else set()):
            advice = "it may be whole, so make it readable and try again"
            raise CanNotRead(number, f"can't be read now ({error}): {advice}") from error
        if isinstance(error, MemoryError):
            raise Unavailable(f"there is not enough memory to decode it ({error})") from error
        if type(error).__name__ in ("DecoderNotFoundError", "DemuxerNotFoundError") or "required filter" in str(error):
            raise Unavailable(f"no decoder for it is installed ({error})") from error
        raise Unreadable(f"it is corrupt or truncated ({type(error).__name__}: {error})") from error


def regular_size(path: Path) -> int:
    """The size in bytes of a regular file, or of a link's target.

    Raises:
        Unreadable: for anything else. Opening a pipe waits for ever, and a device may have no end.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable(f"its {path.name} is not a regular file")
    return found.st_size


def mapped(path: Path) -> np.ndarray:
    """The array in a `.npy` file, mapped into memory.

    Raises:
        Unreadable: if it is damaged, not a regular file, or an archive of arrays.
    """
    with reported_as_unreadable():
        regular_size(path)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except MemoryError as error:  # too many brackets for Python's parser; mapping takes no memory
            raise Unreadable(f"its {path.name} has no header") from error
        if not isinstance(array, np.ndarray):
            raise Unreadable(f"its {path.name} is an archive of arrays")
        return array


def check_inside(path: Path, root: Path) -> None:
    """Refuses a path or a link to outside the folder `root`. In the Hugging Face Hub's cache, the files of a data set
    are links to `blobs` beside `snapshots`; these count as inside.

    Raises:
        Unreadable: naming the file.
    """
    root = root.resolve()
    allowed = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    if not any(path.resolve().is_relative_to(each) for each in allowed):
        raise Unreadable(f"its {path.name} is a link to another place: only what is in its folder is read")


def read_text(path: Path) -> str:
    """Reads a text file of up to 64 MiB.

    Raises:
        Unreadable: if it is larger, not a regular file, or not text.
    """
    with reported_as_unreadable():
        size = regular_size(path)
        if size > LARGEST_TEXT:
            raise Unreadable(f"its {path.name} has {size} bytes, and at most {LARGEST_TEXT} are read")
        return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """The content of a JSON file of up to 64 MiB.

    Raises:
        Unreadable: as `read_text` does, and if it is not JSON.
    """
    with reported_as_unreadable():
        return json.loads(read_text(path))


def check_unpacked(
    name: str, unpacked: int, size: int, advice: str = "store it without compression, or as shorter episodes"
) -> None:
    """Refuses data that would take far more memory than their file of `size` bytes.

    Raises:
        Unreadable: the message states the bound.
    """
    bound = max(UNPACKED_BYTES, UNPACKED_TIMES * size)
    if unpacked > bound:
        raise Unreadable(
            f"its {name} would unpack to {unpacked / 1e6:.0f} MB, and at most {bound / 1e6:.0f} MB are read from a "
            f"file of its size: {advice}"
        )


def missing_extra(package: str, reads: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"reading {reads} needs {package}: {install('data')}")


def pick(holder: Mapping[str, Any], *names: str) -> Any:
    """The first existing entry of `names`."""
    for name in names:
        if name in holder:
            return holder[name]
    raise Unreadable(f"it holds none of {', '.join(names)}, only {', '.join(sorted(holder)) or 'nothing'}")
