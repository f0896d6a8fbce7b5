"""What every reader of files yields, and what they share.

A reader takes a path, and whether actions and rewards are wanted, and yields the `Clip`s in it. What is wrong with a
file is raised as `Unreadable`, whose message need not name the file: whoever calls the reader does.
"""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

# Pictures held in memory at a time, at their full size (16 of 1080p take 100 MB).
AT_ONCE = 16
PICTURE_KEYS = ("observation", "image", "frames", "obs", "observations", "pixels", "rgb")
ACTION_KEYS = ("action", "actions")
# What a compressed file may unpack to in memory: this many bytes, or this many times its own size if that is more.
UNPACKED_BYTES = 1 << 28
UNPACKED_TIMES = 20
LARGEST_TEXT = 1 << 26


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


@dataclass
class Clip:
    """One episode.

    Attributes:
        name: says which one it is.
        chunks: its pictures in order, (t, C, H, W) uint8 each; to be read before the next clip is asked for.
        fps: pictures a second, where the source tells.
        times: seconds at which the pictures yielded so far are shown, where the source tells.
        action: (T, A) float32 or (T,) int64, row i taken at picture i, the last unused; None unless wanted and there.
        reward: (T - 1,) float32, row i what action i brought; None unless wanted.
        terminated: whether it really ended; known where rewards are wanted.
        left_out: what of the file is not in its clips, and why; of a file's first clip alone.
    """

    name: str
    chunks: Iterator[np.ndarray]
    fps: Fraction | None = None
    times: list[Fraction] | None = None
    action: np.ndarray | None = None
    reward: np.ndarray | None = None
    terminated: bool = False
    left_out: str = ""


Reader = Callable[..., Iterator[Clip]]


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


def check_unpacked(name: str, unpacked: int, size: int) -> None:
    """Refuses what would take far more memory than its file of `size` bytes.

    Raises:
        Unreadable: the message states the bound.
    """
    bound = max(UNPACKED_BYTES, UNPACKED_TIMES * size)
    if unpacked > bound:
        raise Unreadable(
            f"its {name} would unpack to {unpacked / 1e6:.0f} MB, and at most {bound / 1e6:.0f} MB are read from a "
            f"file of its size: store it without compression, or as shorter episodes"
        )


def missing_extra(package: str, reads: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f'reading {reads} needs {package}: pip install "rlrep[data]"')


def pick(holder: Mapping[str, Any], *names: str) -> Any:
    """The first entry there is of `names`."""
    for name in names:
        if name in holder:
            return holder[name]
    raise Unreadable(f"it holds none of {', '.join(names)}, only {', '.join(sorted(holder)) or 'nothing'}")


def aligned(action: np.ndarray, frames: int, led_here: bool = False) -> np.ndarray:
    """Actions with a row for each frame, taken at it. One row fewer than frames is such a row each but for the last;
    as many rows are what dm_env's time steps hold: row i led to frame i, and row 0 is zeros, or anything if the file
    is known to be of that kind (`led_here`).
    """
    if action.dtype.kind not in "iuf" or action.ndim not in (1, 2) or not frames - 1 <= len(action) <= frames:
        raise Unreadable(
            f"its actions must be numbers of shape (T, A) or (T,), one for each of {frames} frames or one fewer, got "
            f"{action.dtype} of shape {action.shape}"
        )
    if len(action) == frames:
        if not led_here and np.any(action[0]):
            raise Unreadable(
                "it holds an action for each frame, which must then be the one that led to it, the first all zeros; "
                "for actions taken at their frames leave the last one out"
            )
        action = action[1:]
    if action.dtype.kind == "f":
        action = _float32("actions", action.reshape(len(action), -1))
    else:
        action = (action[:, 0] if action.shape[1:] == (1,) else action).astype(np.int64)
    return np.concatenate([action, np.zeros((1, *action.shape[1:]), action.dtype)])


def rewards_of(file: Mapping[str, Any], frames: int) -> np.ndarray:
    """(frames - 1,) float32 from `reward`; of as many as frames the first led to none of them and is left out."""
    reward = _one_each("reward", np.asarray(pick(file, "reward", "rewards")), frames)
    return _float32("rewards", reward)


def has_ended(file: Mapping[str, Any], frames: int) -> bool:
    """Whether an episode ended for good: its last `discount` is 0, its last `is_terminal` true."""
    told = []
    if "is_terminal" in file:
        told.append(_flags("is_terminal", np.asarray(file["is_terminal"]), frames))
    if "discount" in file or not told:
        told.append(~_flags("discount", np.asarray(pick(file, "discount", "is_terminal")), frames))
    for ended in told:
        if ended[:-1].any():
            raise Unreadable(f"an episode goes on after its end at step {np.flatnonzero(ended)[0]}")
    if len({bool(ended[-1]) for ended in told}) > 1:
        raise Unreadable("its discount and is_terminal contradict each other on whether the episode ended")
    return bool(told[0][-1])


def check_marks(name: str, array: np.ndarray, expected: np.ndarray) -> None:
    """Refuses marks such as `is_first` that are not where an episode has them."""
    if array.shape not in (expected.shape, (*expected.shape, 1)) or array.dtype.kind not in "biuf":
        raise Unreadable(f"its {name} must be {expected.shape} marks, got {array.dtype} of shape {array.shape}")
    if not np.array_equal(array.reshape(-1), expected):
        raise Unreadable(f"its {name} is not that of one whole episode")


def _one_each(name: str, array: np.ndarray, frames: int) -> np.ndarray:
    if array.ndim not in (1, 2) or array.shape[1:] not in ((), (1,)) or not frames - 1 <= len(array) <= frames:
        raise Unreadable(
            f"its {name} must have one value for each of {frames} frames or one fewer, got {array.dtype} of shape "
            f"{array.shape}"
        )
    return array.reshape(-1)[len(array) - frames + 1 :]


def _flags(name: str, array: np.ndarray, frames: int) -> np.ndarray:
    values = _one_each(name, array, frames)
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise Unreadable(f"its {name} must hold 0 and 1 alone, which tell whether an episode goes on")
    return values.astype(bool)


def _float32(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype not in (np.float32, np.float64):  # half precision has lost what was there
        raise Unreadable(f"its {name} must be float32 or float64, got {array.dtype}")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused where it is used
        return array.astype(np.float32)


def in_chunks(frames: np.ndarray) -> Iterator[np.ndarray]:
    for at in range(0, len(frames), AT_ONCE):
        yield frames[at : at + AT_ONCE]
