"""Arrow files from anywhere, read so that they run nothing and take no memory beyond a bound.

Arrow builds the extension types that a schema names with whatever code a package registered for them, and allocates
what a compressed buffer claims to hold. Both are looked up in the file's metadata before the library reads them. Arrow
has no checksums: a changed value is not noticed.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.data.reading import Unreadable, check_unpacked, missing_extra, regular_size, reported_as_unreadable

MAGIC = b"ARROW1"
EXTENSION = b"ARROW:extension:"
OLD_COMPRESSION = b"ARROW:experimental_compression"
CONTINUATION = 0xFFFFFFFF
LARGEST_METADATA = 1 << 20
# Numbers of fields in Arrow's tables (format/File.fbs and Message.fbs), and the structs in them: a block's offset, and
# the lengths of its metadata and body; a buffer's offset and length.
SCHEMA, DICTIONARIES, BATCHES = 1, 2, 3
ENDIANNESS = 0
HEADER = 2
BUFFERS, COMPRESSION = 2, 3
BLOCK, BUFFER = struct.Struct("<qi4xq"), struct.Struct("<qq")


class Columns:
    """The columns of an Arrow file with one record batch.

    Attributes:
        count: T, the rows.
        size: bytes of the file.
    """

    def __init__(self, batch: Any, size: int) -> None:
        self._batch, self.size = batch, size
        self.count: int = batch.num_rows

    def array(self, *keys: str) -> Any:
        """The `pyarrow.Array` (T,) of a column, or the one that further keys lead to in its structures.

        Raises:
            Unreadable: if there is none or several of that name, if values are missing, or if it is damaged.
        """
        pa = _pyarrow()
        with reported_as_unreadable():
            found = self._batch.to_struct_array()
            for depth, key in enumerate(keys, 1):
                if not pa.types.is_struct(found.type):
                    raise Unreadable(f"its {keys[depth - 2]} is an array, where its spaces say that there are several")
                places = found.type.get_all_field_indices(key)
                if len(places) != 1:
                    raise Unreadable(f"it must have one column {'/'.join(keys[:depth])}, got {len(places)}")
                found = found.field(places[0])
                _check_is_complete(found, key)
            found.validate(full=True)
            return found

    def rows(self, *keys: str) -> np.ndarray | list[bytes]:
        """(T,) numbers of a column, or (T, n) of one with a list of n in each row, perhaps read-only; or T strings of
        bytes.

        Raises:
            Unreadable: as `array` does, and for anything else.
        """
        types, name = _pyarrow().types, "/".join(keys)
        with reported_as_unreadable():
            array = self.array(*keys)
            if types.is_binary(array.type):
                strings: list[bytes] = array.to_pylist()
                return strings
            values = array.flatten() if types.is_fixed_size_list(array.type) else array
            _check_is_complete(values, name)
            if not any(is_kind(values.type) for is_kind in (types.is_integer, types.is_floating, types.is_boolean)):
                raise Unreadable(f"its {name} must hold numbers or pictures, got {array.type}")
            numbers: np.ndarray = values.to_numpy(zero_copy_only=False)
            return numbers if values is array else numbers.reshape(len(array), array.type.list_size)


def read_columns(path: Path, root: Path) -> Columns:
    """The columns of the Arrow file at `path`, which is mapped into memory: what is not compressed is read when it is
    used. As with any mapping, the process ends if another one cuts the file short meanwhile.

    Args:
        root: the folder that it must be in; a link that leads out of it is not followed.

    Raises:
        ModuleNotFoundError: if pyarrow is not installed.
        Unreadable: if it is not a regular file, or not an Arrow file with one record batch; for extension types,
            dictionaries, big-endian numbers, and columns that would unpack to far more than the file.
    """
    pa = _pyarrow()
    with reported_as_unreadable():
        if not path.resolve().is_relative_to(root.resolve()):
            raise Unreadable(f"its {path.name} is a link to another place: only what is in its folder is read")
        size = regular_size(path)
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _check_metadata(data)
        # Without `included_fields`, with which the library would allocate as much as the metadata claim.
        options = pa.ipc.IpcReadOptions(use_threads=False)
        return Columns(pa.ipc.open_file(pa.py_buffer(data), options=options).get_batch(0), size)


def _check_metadata(data: mmap.mmap) -> None:
    """Refuses what must not reach the library, which verifies the rest."""
    tail = len(data) - len(MAGIC) - 4
    if data[: len(MAGIC)] != MAGIC or data[tail + 4 :] != MAGIC:
        raise Unreadable(f"it is corrupt or truncated: an Arrow file must begin and end with {MAGIC.decode()}")
    footer = _Table.root(data, tail - _read("<i", data, tail), tail)
    if EXTENSION in footer.data:
        raise Unreadable("it has columns of extension types, which can run code of other packages")
    if footer.table(SCHEMA).place(ENDIANNESS) is not None:  # little-endian is the default, and left out
        raise Unreadable("it is big-endian: write it on a little-endian machine")
    if any(footer.structs(DICTIONARIES, BLOCK)):
        raise Unreadable("it has columns with dictionaries: store their values themselves")
    batches = list(footer.structs(BATCHES, BLOCK))
    if len(batches) != 1:
        raise Unreadable(f"it must hold an episode in one record batch, got {len(batches)}")
    ((offset, length, _),) = batches
    if _read("<I", data, offset) != CONTINUATION or _read("<i", data, offset + 4) != length - 8:
        raise Unreadable("it is corrupt, or of a version of Arrow before 0.15")
    message = _Table.root(data, offset + 8, offset + length)
    if OLD_COMPRESSION in message.data:
        raise Unreadable("it is compressed as Arrow did before version 1.0: write it anew")
    batch = message.table(HEADER)
    if batch.place(COMPRESSION) is not None:
        buffers = batch.structs(BUFFERS, BUFFER)
        # Each begins with the bytes that it unpacks to, or -1 where it is stored as it is.
        unpacked = sum(max(_read("<q", data, offset + length + at), 0) for at, used in buffers if used)
        check_unpacked("columns", unpacked, len(data))


class _Table:
    """A table of FlatBuffers, in which Arrow's metadata are written."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.entries = at - _read("<i", data, at)
        self.bytes = _read("<H", data, self.entries)

    @classmethod
    def root(cls, data: mmap.mmap, start: int, end: int) -> _Table:
        if not 0 <= start < end <= len(data):
            raise Unreadable("it is corrupt: its metadata are not in the file")
        if end - start > LARGEST_METADATA:
            raise Unreadable(f"its metadata have {end - start} bytes, and at most {LARGEST_METADATA} are read")
        part = data[start:end]
        return cls(part, _read("<I", part, 0))

    def place(self, field: int) -> int | None:
        """Where the value of a field is; None for a field that is left out."""
        entry = 4 + 2 * field
        offset = _read("<H", self.data, self.entries + entry) if entry < self.bytes else 0
        return self.at + offset if offset else None

    def table(self, field: int) -> _Table:
        at = self.place(field)
        if at is None:
            raise Unreadable("it is corrupt: a part of its metadata is missing")
        return _Table(self.data, at + _read("<I", self.data, at))

    def structs(self, field: int, kind: struct.Struct) -> Iterator[tuple[int, ...]]:
        at = self.place(field)
        if at is None:
            return iter(())
        at += _read("<I", self.data, at)
        end = at + 4 + _read("<I", self.data, at) * kind.size
        if end > len(self.data):
            raise Unreadable("it is corrupt: its metadata are longer than the file says")
        return kind.iter_unpack(self.data[at + 4 : end])


def _read(kind: str, data: bytes | mmap.mmap, at: int) -> int:
    if at < 0:  # which struct would count from the end
        raise Unreadable("it is corrupt: its metadata point out of the file")
    value: int = struct.unpack_from(kind, data, at)[0]
    return value


def _check_is_complete(array: Any, name: str) -> None:
    array.validate()
    if array.null_count:
        raise Unreadable(f"its {name} has {array.null_count} missing values")


def _pyarrow() -> Any:
    try:
        import pyarrow.ipc
    except ModuleNotFoundError as error:
        raise missing_extra("pyarrow", "Minari's Arrow files") from error
    return pyarrow
