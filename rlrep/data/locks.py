"""Locks between processes; a lock ends with its process."""

from __future__ import annotations

import errno
import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class InUse(OSError):
    """Another process holds a lock."""


@contextmanager
def held(path: Path, wait: bool = True, remove: bool = True) -> Iterator[bool]:
    """Locks the file `path`, and creates it if necessary.

    Args:
        path: of the lock file.
        wait: whether to wait until it is free.
        remove: whether the file is removed at the end.

    Yields:
        Whether the lock is held; False, with a warning, on file systems without locks.

    Raises:
        InUse: if another process holds it and `wait` is False.
        OSError: if the file can't be created.
    """
    while True:
        with open(path, "w", opener=_not_through_links) as file:
            sure = _acquire(file, wait)
            if sure and not _is_at(file, path):
                continue  # the previous holder has removed the file
            try:
                yield sure
            finally:
                if remove:
                    path.unlink(missing_ok=True)
            return


def _not_through_links(path: str, flags: int) -> int:
    """Opens a lock file without following links or waiting at a pipe, because it may come with someone's data."""
    return os.open(path, flags & ~os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _acquire(file: IO[str], wait: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise InUse(errno.EAGAIN, "another process holds the lock", file.name) from error
    except OSError as error:
        warnings.warn(
            f"no lock on {file.name}, whose file system has none ({error.strerror}): take care yourself that no other "
            f"process writes there",
            stacklevel=5,
        )
        return False
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file.fileno()), found)
