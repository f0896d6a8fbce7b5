"""Reads untrusted HDF5 files without access to other files, and writes HDF5 files so that all errors are raised.

The HDF5 library follows links to other files, reads external storage, fills missing data with zeros, loads filters by
number, and unpacks as much as a header claims. This module opens every HDF5 file for reading, and gives access only to
checked data.
"""

from __future__ import annotations

import errno
import math
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.data.reading import Unreadable, check_unpacked, missing_extra, regular_size, reported_as_unreadable

# The largest possible compression of Deflate; a header that claims more is false.
MOST_DEFLATED = 1100
# Superblock 2 and object headers with checksums, for HDF5 1.8 and later. "latest" would mean the format of the
# installed library, which older ones can't read.
LIBVER = ("v108", "v108")
DEFLATE, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
FILTERS = {DEFLATE: "gzip", SHUFFLE: "shuffle", FLETCHER32: "fletcher32", LZF: "lzf"}
LARGEST_ATTRIBUTE = 1 << 20


@contextmanager
def opened(path: Path) -> Iterator[Group]:
    """The root of the HDF5 file at `path`.

    Raises:
        ModuleNotFoundError: if h5py is not installed.
        Unreadable: if it is not a regular file, or not HDF5.
    """
    h5py = _h5py()
    with reported_as_unreadable():
        size = regular_size(path)
        file = h5py.File(path, "r")
    with file:
        yield Group(file, size)


class Group(Mapping[str, Any]):
    """A group's entries: each is a `Group`, or an `h5py.Dataset` of numbers that is completely in the file.

    Args:
        group: of h5py.
        size: bytes of the file.
    """

    def __init__(self, group: Any, size: int) -> None:
        self.group, self.size = group, size

    def __iter__(self) -> Iterator[str]:
        return iter(self.group)

    def __len__(self) -> int:
        return len(self.group)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and "/" not in name and self.group.get(name, getlink=True) is not None

    def __getitem__(self, name: str) -> Any:
        """Raises: Unreadable for a link, and for a data set that is incomplete, not of numbers, or stored elsewhere."""
        if name not in self:
            raise KeyError(name)
        entry = self._entry(name)
        if isinstance(entry, Group):
            return entry
        if entry.dtype.kind not in "biuf" or entry.dtype.itemsize > 8:
            raise Unreadable(f"its {name} must hold numbers, got {entry.dtype}")
        self._check_is_whole(entry, name)
        return entry

    def pick(self, *names: str) -> Any:
        """The first existing data set of `names`; groups do not count."""
        for name in names:
            if name in self and not isinstance(entry := self[name], Group):
                return entry
        held = ", ".join(sorted(self)) or "nothing"
        raise Unreadable(f"it holds none of {', '.join(names)}, only {held}")

    def packed(self, name: str) -> Any:
        """A data set (T,) of T byte strings of any length, such as JPEG pictures."""
        entry = self._entry(name)
        if isinstance(entry, Group) or _h5py().check_vlen_dtype(entry.dtype) != np.dtype(np.uint8):
            return self[name]
        self._check_is_whole(entry, name)
        return entry

    def _entry(self, name: str) -> Any:
        h5py = _h5py()
        with reported_as_unreadable():
            if not isinstance(self.group.get(name, getlink=True), h5py.HardLink):
                raise Unreadable(f"its {name} is a link, perhaps to another file: only what is in the file is read")
            entry = self.group[name]
            if isinstance(entry, h5py.Group):
                return Group(entry, self.size)
            if not isinstance(entry, h5py.Dataset):
                raise Unreadable(f"its {name} is neither a group nor a data set")
            if entry.is_virtual or entry.external:
                raise Unreadable(f"its {name} is stored in other files: only what is in the file is read")
            if not entry.shape:
                raise Unreadable(f"its {name} must have a row for each step, got a single value or none")
            return entry

    def attribute(self, name: str) -> bytes | None:
        """The bytes of an opaque attribute of up to 1 MiB, None if it is missing."""
        with reported_as_unreadable():
            if name not in self.group.attrs:
                return None
            found = self.group.attrs.get_id(name)
            if found.dtype.kind != "V" or found.shape != () or found.dtype.itemsize > LARGEST_ATTRIBUTE:
                raise Unreadable(f"its attribute {name} must be opaque bytes, at most {LARGEST_ATTRIBUTE} of them")
            return bytes(self.group.attrs[name])

    def _check_is_whole(self, entry: Any, name: str) -> None:
        with reported_as_unreadable():
            whole = self._chunks_are_whole(entry, name) if entry.chunks else self._is_in_the_file(entry)
        if not whole:
            raise Unreadable(f"it is corrupt or truncated: parts of its {name} are missing")

    def _is_in_the_file(self, entry: Any) -> bool:
        claimed = math.prod(entry.shape) * entry.id.get_type().get_size()
        if claimed > self.size or entry.id.get_storage_size() != claimed:
            return False
        at = entry.id.get_offset()  # None for data within the header
        compact = entry.id.get_create_plist().get_layout() == _h5py().h5d.COMPACT
        return compact or claimed == 0 or (at is not None and at + claimed <= self.size)

    def _chunks_are_whole(self, entry: Any, name: str) -> bool:
        """Whether each chunk is in the file once, at a position of the data set's shape, with the right length."""
        plist = entry.id.get_create_plist()
        filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
        other = [number for number in filters if number not in FILTERS]
        if other or len(set(filters)) < len(filters) or {DEFLATE, LZF} <= set(filters):
            raise Unreadable(
                f"its {name} is stored through the HDF5 filters {filters}: only {', '.join(FILTERS.values())} are "
                f"read, each once and one of gzip and lzf"
            )
        bytes_each = math.prod(entry.chunks) * entry.id.get_type().get_size()
        check_unpacked(f"{name} (a chunk of it)", bytes_each, self.size)
        counts = [-(-rows // chunk) for rows, chunk in zip(entry.shape, entry.chunks, strict=True)]
        expected = math.prod(counts)
        times = MOST_DEFLATED if {DEFLATE, LZF} & set(filters) else 1
        if expected * bytes_each > times * self.size or entry.id.get_num_chunks() != expected:
            return False
        stored = bytes_each + 4 * (FLETCHER32 in filters)
        may_skip = sum(1 << place for place, number in enumerate(filters) if number in (DEFLATE, LZF))
        places: set[tuple[int, ...]] = set()

        def add(chunk: Any) -> None:
            # A chunk that gzip would enlarge is stored uncompressed, and then its length is known.
            skipped = chunk.filter_mask & may_skip or not may_skip
            right = chunk.filter_mask & ~may_skip == 0 and (chunk.size == stored or not skipped)
            on_grid = all(at % step == 0 for at, step in zip(chunk.chunk_offset, entry.chunks, strict=True))
            inside = all(at < rows for at, rows in zip(chunk.chunk_offset, entry.shape, strict=True))
            if right and on_grid and inside and chunk.byte_offset + chunk.size <= self.size:
                places.add(chunk.chunk_offset)

        entry.id.chunk_iter(add)
        return len(places) == expected


@contextmanager
def writing(path: Path) -> Iterator[tuple[Any, Output]]:
    """A new HDF5 file, with the object that collects its errors; an incomplete file is removed.

    Raises:
        ModuleNotFoundError: if h5py is not installed.
        OSError: if it can't be written.
    """
    h5py = _h5py()
    output = Output(path)
    try:
        with _deferred_signals(output), output.file:
            try:
                with h5py.File(output, "w", libver=LIBVER) as file:
                    yield file, output
            finally:
                output.check()  # HDF5 would report another error, or none
        output.check()
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _deferred_signals(output: Output) -> Iterator[None]:
    """Defers exceptions of signals, such as KeyboardInterrupt, to `Output.check`: HDF5 would drop an exception in a
    write, and continue.
    """
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # Python runs its handlers there
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if callable(handler := signal.getsignal(each)):
                handlers[int(each)] = handler

    def defer(number: int, frame: Any) -> None:
        output.signalled = output.signalled or (lambda: handlers[number](number, frame))

    try:
        for number in handlers:
            signal.signal(number, defer)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if output.signalled is not None:
        output.signalled()


def create_rows(group: Any, name: str, array: np.ndarray, chunk: int) -> None:
    """Creates a data set of `array`'s rows that can grow: compressed, with checksums, in chunks of `chunk` rows."""
    group.create_dataset(
        name,
        data=array,
        maxshape=(None, *array.shape[1:]),
        chunks=(chunk, *array.shape[1:]),
        compression="gzip",
        compression_opts=1,
        fletcher32=True,
    )


class Output:
    """The file that HDF5 writes to; it hides errors from HDF5. After a failed write, as on a full disk, HDF5 would
    crash the process with SIGSEGV when the file is closed. This class drops all data after an error, and `check` raises
    the error.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("w+b", buffering=0)
        self.error: OSError | None = None
        self.signalled: Callable[[], object] | None = None
        self.needed = self.free = 0

    def expect(self, needed: int) -> None:
        """Announces the size of the next part, at most so many bytes, for the message of a full disk.

        Raises:
            OSError: the first error so far.
        """
        self.check()
        self.needed, self.free = needed, shutil.disk_usage(self.path.parent).free

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += self.file.write(view[done:])
        except OSError as error:
            self.error = error
        return len(view)

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    def readinto(self, buffer: Any) -> int:
        return self.file.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def truncate(self, size: int) -> int:
        try:
            return self.file.truncate(size) if self.error is None else size
        except OSError as error:
            self.error = error
            return size

    def flush(self) -> None:
        pass

    def check(self) -> None:
        """Raises: OSError: the first error so far; or the exception of a signal."""
        if self.signalled is not None:
            self.signalled()
        if self.error is None:
            return
        if self.error.errno != errno.ENOSPC:
            raise self.error
        free, needed = self.free / 1e6, self.needed / 1e6
        raise OSError(
            errno.ENOSPC,
            f"no room for {self.path}: the next episode takes up to {needed:.1f} MB and {free:.1f} MB were free, so up "
            f"to {max(needed - free, 0.1):.1f} MB are missing for it alone",
        ) from self.error


def _h5py() -> Any:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise missing_extra("h5py", "HDF5 files") from error
    return h5py
