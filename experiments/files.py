"""Writes files so that a kill or a full disk never leaves an incomplete file."""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import subprocess
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rlrep import arguments

# The name of an unfinished file, with the number of its process.
TEMPORARY = re.compile(r"\..+\.partial-(\d+)", re.DOTALL)


def as_path(text: str) -> Path:
    """An argument of a command that is a file or folder."""
    try:
        return arguments.as_path(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


class FolderInUse(OSError):
    """Another process works in a folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a folder and locks it for this process; the lock always ends with its process. First removes unfinished
    files of killed processes; at the end removes the folder if it is empty. Without locks in the file system, warns and
    does not lock.

    Raises:
        FolderInUse: if another process holds it.
        OSError: if it can't be made; the message says what to do.
    """
    from rlrep.data.locks import InUse, held  # takes a second to import, and most writers of files need no lock

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
    """Removes unfinished files of ended processes, including sub-folders."""
    for path in folder.rglob(".*"):
        found = TEMPORARY.fullmatch(path.name)
        if found is not None and not is_running(int(found[1])):
            path.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Whether another process has this number; this process's own number does not count."""
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


def git(folder: Path, *words: str) -> str:
    """What a git command prints in a folder.

    Raises:
        OSError, subprocess.CalledProcessError: without git, or outside of a repository.
    """
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def check_writable(folder: Path) -> None:
    """Makes a folder if necessary, and checks before long work that its result can be written there.

    Raises:
        OSError: if that is not possible, naming the folder.
    """
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / ".writable", b"")
    (folder / ".writable").unlink()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the file's name to system errors; errors of writing have none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


class CsvLog:
    """A table that grows by a row at a time; columns may join later.

    Args:
        path: of the file; its rows up to `until` stay.
        until: rows with a later `counter` are dropped: the run wrote them after the checkpoint that it resumes from,
            and will repeat them.
        counter: the column with the time of a row.

    Raises:
        ValueError: if the file at `path` is not such a table.
    """

    def __init__(self, path: Path, until: int | None = None, counter: str = "frame") -> None:
        self.path, self.counter = path, counter
        self.columns: list[str] = []
        self.rows: list[dict[str, Any]] = []
        if path.exists() and until is not None:
            self._read(until)
        self._rewrite()

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row: the counter and all measured values."""
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
        """Reads line by line, so that a stray quote does not join the following lines."""
        number = 1
        try:
            complete = self.path.read_text(encoding="utf-8").rpartition("\n")[0]  # a kill may cut the last line short
            for number, line in enumerate(complete.splitlines(), 1):
                (values,) = csv.reader([line], strict=True)
                if number == 1:
                    self.columns = values
                    continue
                row = dict(zip(self.columns, values, strict=True))
                numbers = [float(value) for value in values if value]  # checks each value before its use
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
