"""Decoded episodes in a folder: `frames.npy`, perhaps `action.npy`, and `index.json`: what they came from."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FORMAT_VERSION = 1
HEADER = 192


@dataclass
class Index:
    """What a cache holds.

    Attributes:
        made_from: the files, their sizes and times, and the options; a cache made from other ones is stale.
        files: of each episode, the file it came from.
        lengths: frames of each episode.
        skipped: files left out, and why.
        has_action: whether there is `action.npy`.
    """

    made_from: dict[str, Any]
    files: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    has_action: bool = False
    version: int = FORMAT_VERSION


@dataclass
class Stored:
    """An open cache; the arrays are mapped into memory."""

    index: Index
    frames: np.ndarray
    action: np.ndarray | None


class GrowingArray:
    """A `.npy` file of uint8 that rows are appended to, so that they need not fit into memory.

    Args:
        path: of the file.
        leading: axes of size 1 before that of the rows.
    """

    def __init__(self, path: Path, leading: int = 0) -> None:
        self.file = path.open("wb")
        self.leading = leading
        self.shape: tuple[int, ...] = ()
        self.rows = 0

    def append(self, rows: np.ndarray) -> None:
        if self.rows == 0:
            self.shape = rows.shape[1:]
            self._write_header()
        self.file.write(np.ascontiguousarray(rows).data)
        self.rows += len(rows)

    def cut(self, rows: int) -> None:
        """Forgets all but the first `rows` rows."""
        self.file.flush()
        self.rows = rows
        self._write_header()
        self.file.truncate(self.file.tell() + rows * int(np.prod(self.shape)))
        self.file.seek(0, os.SEEK_END)

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
        # Always of one size, so that the rows may grow in place.
        self.file.write(np.lib.format.magic(1, 0) + (HEADER - 10).to_bytes(2, "little"))
        self.file.write(text.ljust(HEADER - 11).encode() + b"\n")


def load(folder: Path, made_from: dict[str, Any]) -> Stored | None:
    """The cache in `folder`, or None if there is none, it is damaged, or it was made from something else."""
    try:
        index = Index(**json.loads((folder / "index.json").read_text()))
        if index.version != FORMAT_VERSION or index.made_from != made_from:
            return None
        frames = np.load(folder / "frames.npy", mmap_mode="r", allow_pickle=False)
        action = np.load(folder / "action.npy", mmap_mode="r", allow_pickle=False) if index.has_action else None
    except (OSError, TypeError, ValueError):
        return None
    return Stored(index, frames, action) if len(frames) == sum(index.lengths) else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Waits until no other process makes `folder`, and holds it for this one; a lock ends with its process.

    Raises:
        OSError: if it can't be written beside the folder, with what to do.
    """
    with unwritable(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = folder.with_name(f".{folder.name}.lock").open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Tells what to do where `folder` can't be written."""
    try:
        yield
    except OSError as error:
        raise OSError(f"can't write {folder} ({error}): free space, or name another folder as cache=") from error


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` at the end, or vanishes after an error.

    Raises:
        OSError: if it can't be written, with what to do.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with unwritable(folder):
            temporary.mkdir(parents=True, exist_ok=True)
            yield temporary
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_index(folder: Path, index: Index) -> None:
    (folder / "index.json").write_text(json.dumps(asdict(index)))
