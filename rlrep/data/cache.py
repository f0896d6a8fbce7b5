"""Decoded episodes in a folder: `frames.npy`, perhaps `action.npy`, and `index.json`, which names their origin. A new
folder is written under a lock, under a temporary name, and renamed when it is complete.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp
from typing import Any

import numpy as np

from rlrep.data.locks import InUse, held
from rlrep.data.reading import AT_ONCE, CanNotRead, mapped, read_json, regular_size
from rlrep.data.transitions import sealed, unsealed

FORMAT_VERSION = 3  # also raised where a format's files are read in another way: caches are then made again
VERIFIED = "verified.json"
PARTIAL = re.compile(r"(\..*-[0-9a-f]{8})\.partial-\w{8}", re.DOTALL)
HEADER = 192


@dataclass
class Index:
    """The content of a cache.

    Attributes:
        made_from: the files, their sizes and times, and the options; a cache with other values is stale.
        files: the source file of each episode.
        lengths: frames of each episode.
        checksums: CRC-32 of each episode's frames.
        skipped: files that were left out, with the reason.
        retry: the skipped files that become readable when a package is installed.
        remarks: warnings about files that were read.
        action_checksum: CRC-32 of `action.npy`; None if there is no such file.
    """

    made_from: dict[str, Any]
    files: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    checksums: list[int] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    retry: list[str] = field(default_factory=list)
    remarks: dict[str, str] = field(default_factory=dict)
    action_checksum: int | None = None
    version: int = FORMAT_VERSION


@dataclass
class Stored:
    """An open cache; the arrays are mapped into memory."""

    index: Index
    frames: np.ndarray
    action: np.ndarray | None


class GrowingArray:
    """A `.npy` file of uint8 that grows row by row, so that the rows need not fit into memory.

    Args:
        path: of the file.
        leading: number of axes of size 1 before the axis of the rows.
        rows: how many of a file that is there are kept; 0 begins a new one.
        shape: of one of those rows.
    """

    def __init__(self, path: Path, leading: int = 0, rows: int = 0, shape: tuple[int, ...] = ()) -> None:
        self.file = path.open("r+b" if rows else "wb")
        self.leading = leading
        self.shape = shape
        self.rows = rows
        if rows:
            self.cut(rows)

    def append(self, rows: np.ndarray) -> None:
        if self.rows == 0:
            self.shape = rows.shape[1:]
            self._write_header()
        self.file.write(np.ascontiguousarray(rows).data)
        self.rows += len(rows)

    def cut(self, rows: int) -> None:
        """Removes all rows after the first `rows`."""
        self.file.flush()
        self.rows = rows
        self._write_header()
        self.file.truncate(self.file.tell() + rows * int(np.prod(self.shape)))
        self.file.seek(0, os.SEEK_END)

    def flush(self) -> None:
        """Hands what was appended to the operating system, so that it survives this process."""
        self.file.flush()

    def finish(self) -> None:
        self._write_header()
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()

    def _write_header(self) -> None:
        shape = (*(1,) * self.leading, self.rows, *self.shape)
        text = repr({"descr": "|u1", "fortran_order": False, "shape": shape})
        self.file.seek(0)
        # The header has a fixed size, so that the rows can grow in place.
        self.file.write(np.lib.format.magic(1, 0) + (HEADER - 10).to_bytes(2, "little"))
        self.file.write(text.ljust(HEADER - 11).encode() + b"\n")


def load(folder: Path, made_from: dict[str, Any]) -> Stored | None:
    """The cache in `folder`, or None if it is missing, damaged, or made from something else. Frames are compared with
    their checksums at the first opening, see `is_verified`.
    """
    try:
        regular_size(folder / "index.json")
        index = Index(**unsealed((folder / "index.json").read_text()))
        if index.version != FORMAT_VERSION or index.made_from != made_from:
            return None
        frames = mapped(folder / "frames.npy")
        if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) != sum(index.lengths):
            return None
        action = None
        if index.action_checksum is not None:
            if zlib.crc32((folder / "action.npy").read_bytes()) != index.action_checksum:
                return None
            action = mapped(folder / "action.npy")
            if len(action) != len(frames):
                return None
        if not is_verified(folder / "frames.npy"):
            ends = np.cumsum(index.lengths)
            for first, end, expected in zip(ends - index.lengths, ends, index.checksums, strict=True):
                if checksum(frames[first:end]) != expected:
                    return None
            mark_verified(folder / "frames.npy")
    except (OSError, TypeError, ValueError):
        return None
    return Stored(index, frames, action)


def checksum(rows: np.ndarray) -> int:
    """CRC-32 of an array; reads a few rows at a time."""
    found = 0
    for at in range(0, len(rows), AT_ONCE):
        found = zlib.crc32(np.ascontiguousarray(rows[at : at + AT_ONCE]).data, found)
    return found


def is_verified(path: Path) -> bool:
    """Whether a file was already compared with its checksums; it is trusted while its size and times stay the same. A
    copy is another file.
    """
    try:
        return bool(read_json(path.parent / VERIFIED) == _stamp(path))
    except (OSError, ValueError):
        return False


def mark_verified(path: Path) -> None:
    """Records beside a file, if possible, that it matches its checksums."""
    verified = path.parent / VERIFIED
    with suppress(OSError):
        # Writing to a pipe waits for ever, and writing through a link changes another file.
        if not verified.is_symlink() and (verified.is_file() or not verified.exists()):
            verified.write_text(json.dumps(_stamp(path)))


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Locks `folder` for this process, and removes temporary folders of killed processes beside it.

    Args:
        folder: the folder to make; it need not exist.
        wait: whether to wait for another process that makes it.

    Raises:
        InUse: if another process makes it and `wait` is False.
        OSError: if the parent folder is not writable; the message says what to do.
    """
    with ExitStack() as stack:
        with unwritable(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = folder.with_name(f"{_hidden_name(folder)}.lock")
            try:
                sure = stack.enter_context(held(lock, wait))
            except InUse as error:
                raise InUse(f"another process is writing {folder}: wait for it, or choose another folder") from error
        if sure:
            _remove_partial(folder.parent, lock)
        yield


def _hidden_name(folder: Path) -> str:
    """The beginning of the names of lock and temporary folder; short, however long the folder's name is."""
    return f".{folder.name[:40]}-{zlib.crc32(os.fsencode(folder.name)):08x}"


def _remove_partial(parent: Path, own: Path) -> None:
    """Removes temporary folders in `parent` of ended processes: their locks are free, or are our `own`."""
    with suppress(OSError):
        for path in list(parent.iterdir()):
            found = PARTIAL.fullmatch(path.name)
            if found is None or path.is_symlink():
                continue
            lock = path.with_name(f"{found[1]}.lock")
            with suppress(InUse), ExitStack() as stack:
                if lock == own or stack.enter_context(held(lock, wait=False)):
                    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def unwritable(folder: Path, advice: str = "free space, or name another folder as cache=") -> Iterator[None]:
    """Adds to an error what to do if `folder` is not writable."""
    try:
        yield
    except (InUse, CanNotRead):
        raise
    except OSError as error:
        raise OSError(f"can't write {folder} ({error}): {advice}") from error


@contextmanager
def partial(folder: Path) -> Iterator[Path]:
    """A temporary folder of that name, removed at the end unless it was moved. `folder` must be locked."""
    temporary = _unused(folder)
    temporary.mkdir()  # not mkdtemp: only this user could open its folders
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unused(folder: Path) -> Path:
    """An unused name beside a folder: process numbers repeat, so they are not enough."""
    return folder.with_name(f"{_hidden_name(folder)}.partial-{token_hex(4)}")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder that replaces `folder`, a locked cache, or is removed after an error.

    Raises:
        OSError: if it can't be written, with what to do.
    """
    with unwritable(folder), partial(folder) as temporary:
        yield temporary
        _replace(folder, temporary)


@contextmanager
def continuing(folder: Path, keep: Callable[[Path], bool]) -> Iterator[Path]:
    """The same with a folder that stays after an error, for the next call, if `keep` says so.

    Raises:
        OSError: if it can't be written, with what to do, and where the folder is.
    """
    unfinished = folder.with_name(f"{_hidden_name(folder)}.unfinished")
    advice = f"free space, or name another folder as cache=; {unfinished} holds what is done, to go on from"
    with unwritable(folder, advice):
        _remove_unless_plain(unfinished)
        unfinished.mkdir(exist_ok=True)
        try:
            yield unfinished
        except BaseException:
            if not keep(unfinished):
                shutil.rmtree(unfinished, ignore_errors=True)
            raise
        _replace(folder, unfinished)


def _remove_unless_plain(folder: Path) -> None:
    """Removes what is not a folder of plain files: it may come with someone's data, and writing through a link changes
    another file."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
    elif not all(stat.S_ISREG(found.st_mode) and found.st_nlink == 1 for found in map(Path.lstat, folder.iterdir())):
        shutil.rmtree(folder)


def check_apart(cache: Path, roots: Iterable[Path]) -> None:
    """Refuses a cache inside of data, whose next reader would take it for a part of them; hidden folders are not read.

    Raises:
        ValueError: naming both.
    """
    inside = cache.resolve()
    for root in (root.resolve() for root in roots if root.is_dir()):
        if inside.is_relative_to(root) and not any(part[0] == "." for part in inside.relative_to(root).parts):
            raise ValueError(
                f"cache={cache} lies in {root}, and would be read as a part of it: name a folder elsewhere, or a "
                f"hidden one, as {root / '.cache'}"
            )


def _replace(folder: Path, new: Path) -> None:
    old = _unused(folder)
    try:
        with suppress(FileNotFoundError):
            folder.rename(old)
        new.rename(folder)
    finally:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder`, which is locked and not there or empty. Whatever another process puts
    there meanwhile stays; what was written is then kept beside it.

    Raises:
        FileExistsError: if there is something in the folder at the end, with where the new files are.
        OSError: if it can't be written, with what to do.
    """
    advice = "free space, or choose another folder"
    with ExitStack() as stack:
        with unwritable(folder, advice):
            temporary = stack.enter_context(partial(folder))
            yield temporary
        try:
            temporary.rename(folder)  # fails unless the folder is empty
        except OSError as error:
            kept = Path(mkdtemp(prefix=f"{folder.name[:40]}.", dir=folder.parent))
            temporary.rename(kept)
            raise FileExistsError(
                f"{folder} can't be replaced any more ({error.strerror}): what was written is in {kept}"
            ) from error


def write_index(folder: Path, index: Index) -> None:
    """Writes `index.json`, with a checksum."""
    (folder / "index.json").write_text(sealed(asdict(index)))
    mark_verified(folder / "frames.npy")
