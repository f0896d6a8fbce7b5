"""Writing files so that a kill or a full disk never leaves half of one."""

from __future__ import annotations

import csv
import errno
import io
import os
import re
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

# Of a file that is being written, with the number of the process that writes it.
TEMPORARY = re.compile(r"\..+\.partial-(\d+)", re.DOTALL)


def as_path(text: str) -> Path:
    """An argument of a command that is a file or folder."""
    from rlrep import arguments  # with torch, which takes a second or two to import

    try:
        return arguments.as_path(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


class FolderInUse(OSError):
    """Another process works in a folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a folder and holds it for this process; a lock ends with its process, however that ends. Files that
    processes were killed in the middle of writing are removed first, and at the end a folder that nothing was put in.
    On a file system without locks it is not held, with a warning.

    Raises:
        FolderInUse: if another process holds it.
        OSError: if it can't be made; the message says what to do.
    """
    from rlrep.data.locks import InUse, held  # takes a second to import, and most that write files need no lock

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "there is a file of that name" if folder.is_file() else error.strerror
        advice = "free space, or choose another folder" if error.errno == errno.ENOSPC else "choose another folder"
        raise type(error)(f"the folder {folder} can't be made: {why}; {advice}") from error
    lock = folder / ".lock"
    with ExitStack() as stack:
        try:
            sure = stack.enter_context(held(lock, wait=False, remove=False))
        except InUse as error:
            raise FolderInUse(f"another process works in {folder}: wait for it, or choose another folder") from error
        if sure:
            remove_temporaries(folder)
        try:
            yield
        finally:
            if list(folder.iterdir()) == [lock]:
                lock.unlink()
                folder.rmdir()


def remove_temporaries(folder: Path) -> None:
    """Removes what is left of files that were being written by processes that have ended, sub-folders included."""
    for path in folder.rglob(".*"):
        found = TEMPORARY.fullmatch(path.name)
        if found is not None and not is_running(int(found[1])):
            path.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Whether there is another process of that number: this one has its number since it started."""
    try:
        os.kill(process, 0)
    except (OverflowError, ProcessLookupError):
        return False
    except PermissionError:  # of another user
        return True
    return process != os.getpid()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file beside its place, waits for the disk, and renames it; the old one stays until then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Makes a folder if it is not there, and writes in it, before the work is done whose result goes there.

    Raises:
        OSError: if that is not possible, naming the folder.
    """
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / ".writable", b"")
    (folder / ".writable").unlink()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives errors of the operating system the name of the file; those of writing have none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


class CsvLog:
    """A table that grows by a row at a time; columns may join later.

    Args:
        path: of the file; what it holds is kept, up to `until`.
        until: rows with a later `counter` are dropped: they were written after the checkpoint that a run resumes from,
            and will be written again.
        counter: the column that tells when a row was written.

    Raises:
        ValueError: if the file at `path` is no such table.
    """

    def __init__(self, path: Path, until: int | None = None, counter: str = "frame") -> None:
        self.path, self.counter = path, counter
        self.columns: list[str] = []
        self.rows: list[dict[str, Any]] = []
        if path.exists() and until is not None:
            self._read(until)
        self._rewrite()

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row: the counter and whatever else was measured."""
        row = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
        self.rows.append(row)
        new = [name for name in row if name not in self.columns]
        if new:
            self.columns += new
            self._rewrite()
            return
        whole = self.path.stat().st_size
        try:
            with naming(self.path), self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        except OSError:
            os.truncate(self.path, whole)
            raise

    def _read(self, until: int) -> None:
        """Line by line, so that a stray quote can't swallow the lines after it."""
        number = 1
        try:
            complete = self.path.read_text(encoding="utf-8").rpartition("\n")[0]  # a kill may cut the last line short
            for number, line in enumerate(complete.splitlines(), 1):
                (values,) = csv.reader([line], strict=True)
                if number == 1:
                    self.columns = values
                    continue
                row = dict(zip(self.columns, values, strict=True))
                numbers = [float(value) for value in values if value]  # each, before it is believed
                if numbers and int(row[self.counter]) <= until:
                    self.rows.append(row)
        except (KeyError, ValueError, csv.Error) as error:
            raise ValueError(f"{self.path} is damaged at line {number}: fix it or move it away") from error

    def _rewrite(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        if self.columns:
            writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, text.getvalue().encode())
