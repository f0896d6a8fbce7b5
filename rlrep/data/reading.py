"""How files are read: their errors, and bounds on what they may take.

What is wrong with a file is raised as `Unreadable`, whose message need not name the file: whoever reads it does.
"""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlrep.extras import install

# Pictures held in memory at a time, at their full size (16 of 1080p take 100 MB).
AT_ONCE = 16
PICTURE_KEYS = ("observation", "image", "frames", "obs", "observations", "pixels", "rgb")
ACTION_KEYS = ("action", "actions")
# What a compressed file may unpack to in memory: this many bytes, or this many times its own size if that is more.
UNPACKED_BYTES = 1 << 28
UNPACKED_TIMES = 20
LARGEST_TEXT = 1 << 26

# What is told how far reading is: files read to their end, files in all, frames so far.
FileProgress = Callable[[int, int, int], object]


def untold(files: int, total: int, frames: int) -> None:
    """Tells nobody how far reading is."""


class Unreadable(ValueError):
    """A file that can't be used, whatever is asked of it."""


class Unavailable(Unreadable):
    """A file that can't be used for now: a part of it is missing, or nothing that is installed decodes it."""


class CanNotRead(OSError):
    """A file that can't be read now, whatever it holds: rights, locks, or too many open files."""


# What the system says of files that may be whole, and are read another time.
PASSING = {
    *(errno.EACCES, errno.EPERM, errno.EAGAIN, errno.EBUSY, errno.EDEADLK, errno.EINTR, errno.EIO, errno.EMFILE),
    *(errno.ENFILE, errno.ENODEV, errno.ENOLCK, errno.ENOMEM, errno.ENOTCONN, errno.ENXIO, errno.ESTALE),
    *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNRESET),
}
# The same words are FFmpeg's for damage.
NOT_OF_FFMPEG = {errno.EPERM, errno.EAGAIN, errno.EIO, errno.ENOMEM}


@contextmanager
def reported_as_unreadable() -> Iterator[None]:
    """Whatever a library's parser meets in a damaged file, as `Unreadable`.

    Raises:
        CanNotRead: for the system's errors, which say nothing about what a file holds.
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
    """Bytes of a regular file, or of the one that a link leads to.

    Raises:
        Unreadable: for anything else. Opening a pipe waits for ever, and a device may have no end.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable(f"its {path.name} is not a regular file")
    return found.st_size


def check_inside(path: Path, root: Path) -> None:
    """Refuses a path or a link that leads out of the folder `root`. In the Hugging Face Hub's cache the files of a
    data set are links to the `blobs` beside its `snapshots`, which count as inside.

    Raises:
        Unreadable: naming the file.
    """
    root = root.resolve()
    allowed = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    if not any(path.resolve().is_relative_to(each) for each in allowed):
        raise Unreadable(f"its {path.name} is a link to another place: only what is in its folder is read")


def read_text(path: Path) -> str:
    """A text file of up to 64 MiB.

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
    """Refuses what would take far more memory than its file of `size` bytes.

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
    """The first entry there is of `names`."""
    for name in names:
        if name in holder:
            return holder[name]
    raise Unreadable(f"it holds none of {', '.join(names)}, only {', '.join(sorted(holder)) or 'nothing'}")
