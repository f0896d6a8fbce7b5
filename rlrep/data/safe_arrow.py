"""Reads untrusted Arrow and Parquet files without running their code and within a memory bound.

The Arrow library builds extension types by code that any package has registered, and allocates the size that a
compressed buffer claims. This module checks both in the file's metadata before the library reads them. Arrow has no
checksums, and Parquet's are optional: a changed value may not be detected.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlrep.data.reading import (
    AT_ONCE,
    UNPACKED_BYTES,
    Unreadable,
    check_inside,
    check_unpacked,
    missing_extra,
    regular_size,
    reported_as_unreadable,
)

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

PARQUET_MAGIC = b"PAR1"
ARROW_SCHEMA = b"ARROW:schema"
LARGEST_FOOTER = 1 << 22
# The library takes up to 1 kB for a structure of the metadata, which may take only 3 bytes in the file.
MOST_STRUCTURES = UNPACKED_BYTES // 1024
NUMBERS = ("BOOLEAN", "INT32", "INT64", "FLOAT", "DOUBLE")
BYTES_OF_A_NUMBER = 16  # and of the two levels that Parquet stores with each
# Numbers of fields in Parquet's page headers (parquet.thrift), and of an encoding.
UNPACKED, PACKED, DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 2, 3, 5, 7, 8
VALUES, ENCODING, ENCODING_V2 = 1, 2, 4
DELTA_BYTE_ARRAY = 7


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
        """The `pyarrow.Array` (T,) of a column, or of a field in its structures, by further keys.

        Raises:
            Unreadable: if no column or several have that name, if values are missing, or if it is damaged.
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
        """(T,) numbers of a column, or (T, n) if each row has a list of n numbers, perhaps read-only; or T byte
        strings.

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
    """The columns of the Arrow file at `path`, mapped into memory: uncompressed data are read when they are used. As
    with any mapping, the process crashes if another process truncates the file meanwhile.

    Args:
        root: the folder that must contain it; links to outside are not followed.

    Raises:
        ModuleNotFoundError: if pyarrow is not installed.
        Unreadable: if it is not a regular file, or not an Arrow file with one record batch; for extension types,
            dictionaries, big-endian numbers, and columns that would unpack to far more than the file.
    """
    pa = _pyarrow()
    with reported_as_unreadable():
        check_inside(path, root)
        size = regular_size(path)
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _check_metadata(data)
        # Without `included_fields`: with it, the library would allocate as much as the metadata claim.
        options = pa.ipc.IpcReadOptions(use_threads=False)
        return Columns(pa.ipc.open_file(pa.py_buffer(data), options=options).get_batch(0), size)


def _check_metadata(data: mmap.mmap) -> None:
    """Refuses metadata that the library must not read; the library checks the rest."""
    tail = len(data) - len(MAGIC) - 4
    if data[: len(MAGIC)] != MAGIC or data[tail + 4 :] != MAGIC:
        raise Unreadable(f"it is corrupt or truncated: an Arrow file must begin and end with {MAGIC.decode()}")
    footer = _Table.root(data, tail - _read("<i", data, tail), tail)
    if EXTENSION in footer.data:
        raise Unreadable("it has columns of extension types, which can run code of other packages")
    if footer.table(SCHEMA).place(ENDIANNESS) is not None:  # little-endian is the default, so the field is missing
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
        # Each buffer begins with its unpacked size in bytes, or -1 if it is not compressed.
        unpacked = sum(max(_read("<q", data, offset + length + at), 0) for at, used in buffers if used)
        check_unpacked("columns", unpacked, len(data))


class _Table:
    """A FlatBuffers table, the format of Arrow's metadata."""

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
        """The position of a field's value; None for a missing field."""
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
    if at < 0:  # struct would count a negative offset from the end
        raise Unreadable("it is corrupt: its metadata point out of the file")
    value: int = struct.unpack_from(kind, data, at)[0]
    return value


class ParquetRows:
    """The columns of a Parquet file, each read on request.

    A file may store an Arrow schema beside Parquet's schema. This class hides it from the library, and so also
    extension types.

    Args:
        path: of the file, which is mapped into memory; see `read_columns`.
        root: the folder that must contain it; links to outside are not followed.

    Attributes:
        size: bytes of the file.

    Raises:
        ModuleNotFoundError: if pyarrow is not installed.
        Unreadable: if it is not a regular file, or not a Parquet file.
    """

    def __init__(self, path: Path, root: Path) -> None:
        pa = _pyarrow()
        from pyarrow import parquet

        with reported_as_unreadable():
            check_inside(path, root)
            self.size = regular_size(path)
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            _hide_arrow_schema(self._data)
            self._file = parquet.ParquetFile(pa.py_buffer(self._data), page_checksum_verification=True)

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def numbers(self, name: str) -> np.ndarray:
        """(T,) numbers of a column, or (T, n) if each row has a list of n numbers.

        Raises:
            Unreadable: if no column has that name, for values other than numbers, missing values, lists of different
                lengths, and a column that would unpack to far more than the file.
        """
        with reported_as_unreadable():
            leaf, unpacked = self._leaf(name, ".list.", NUMBERS)
            check_unpacked(name, unpacked, self.size)
            array = self._file.read(columns=[leaf], use_threads=False).column(name).combine_chunks()
            array.validate(full=True)
            if len(array) != len(self):
                raise Unreadable(f"it is corrupt: its {name} has {len(array)} of {len(self)} rows")
            types = _pyarrow().types
            nested = types.is_list(array.type) or types.is_large_list(array.type)
            values = array.flatten() if nested else array
            _check_is_complete(array, name)
            _check_is_complete(values, name)
            if not any(is_kind(values.type) for is_kind in (types.is_integer, types.is_floating, types.is_boolean)):
                raise Unreadable(f"its {name} must hold numbers, got {array.type}")
            numbers: np.ndarray = values.to_numpy(zero_copy_only=False)
            if not nested:
                return numbers
            lengths = np.diff(array.offsets.to_numpy())
            if (lengths != lengths[:1]).any():
                raise Unreadable(f"its {name} must be lists of one length, got {lengths.min()} to {lengths.max()}")
            return numbers.reshape(len(array), -1)

    def strings(self, name: str) -> Iterator[bytes]:
        """The T byte strings of a column, `AT_ONCE` in memory at a time.

        Raises:
            Unreadable: as `numbers` does.
        """
        with reported_as_unreadable():
            leaf, unpacked = self._leaf(name, ".bytes", ("BYTE_ARRAY",))
            check_unpacked(name, unpacked, self.size)
            for batch in self._file.iter_batches(AT_ONCE, columns=[leaf], use_threads=False):
                array = batch.column(name)
                _check_is_complete(array, name)
                if _pyarrow().types.is_struct(array.type):
                    array = array.field(0)
                    _check_is_complete(array, name)
                yield from array.to_pylist()

    def _leaf(self, name: str, inside: str, kinds: tuple[str, ...]) -> tuple[str, int]:
        """The path of a column's values or of those `inside` it, and the number of bytes that they claim."""
        schema, metadata = self._file.schema, self._file.metadata
        paths = [schema.column(at).path for at in range(len(schema.names))]
        found = [at for at, path in enumerate(paths) if path == name or path.startswith(name + inside)]
        if len(found) != 1:
            raise Unreadable(f"it must have one column {name}, got {len(found)}")
        kind = schema.column(found[0]).physical_type
        if kind not in kinds:
            raise Unreadable(f"its {name} must hold {' or '.join(kinds)}, got {kind}")
        leaf = paths[found[0]]
        # The library also reads all columns whose names continue with a dot.
        read = [at for at, path in enumerate(paths) if path == leaf or path.startswith(f"{leaf}.")]
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        chunks = (group.column(at) for group in groups for at in read)
        return leaf, sum(_claimed(self._data, chunk) for chunk in chunks)


def _hide_arrow_schema(data: mmap.mmap) -> None:
    """Renames the entry of the footer that holds it, in this process's copy of the file.

    Raises:
        Unreadable: for a footer that is damaged, or for which the library would take too much memory.
    """
    tail = len(data) - len(PARQUET_MAGIC) - 4
    if tail < 4 or data[:4] != PARQUET_MAGIC or data[tail + 4 :] != PARQUET_MAGIC:
        raise Unreadable("it is corrupt or truncated: a Parquet file must begin and end with PAR1")
    length = _read("<I", data, tail)
    if length > LARGEST_FOOTER:
        raise Unreadable(
            f"its metadata have {length} bytes, and at most {LARGEST_FOOTER} are read: write it with fewer row groups"
        )
    at = max(tail - length, 0)
    _Compact(data, at).struct()  # which counts the structures
    while (at := data.find(ARROW_SCHEMA, at, tail)) >= 0:
        data[at] = ord("#")


def _claimed(data: mmap.mmap, chunk: Any) -> int:
    """Bytes that a column of a row group takes in memory at a time, by the claims of its page headers. If each string
    may be as long as a page, by a dictionary or a repeated beginning, the page counts `AT_ONCE` times.
    """
    at, of_strings = chunk.data_page_offset, chunk.physical_type not in NUMBERS
    if chunk.dictionary_page_offset:
        at = min(at, chunk.dictionary_page_offset)
    end, values, claimed = at + chunk.total_compressed_size, 0, 0
    if not 0 <= at <= end <= len(data):
        raise Unreadable("it is corrupt or truncated: a column is not in the file")
    while at < end:
        page = _Compact(data, at)
        header = page.struct()
        of_data = header.get(DATA_PAGE) or header.get(DATA_PAGE_V2) or {}
        repeats = DICTIONARY_PAGE in header or of_data.get(ENCODING if DATA_PAGE in header else ENCODING_V2) == (
            DELTA_BYTE_ARRAY
        )
        count, unpacked, packed = of_data.get(VALUES, 0), header[UNPACKED], header[PACKED]
        if min(count, unpacked, packed) < 0:
            raise Unreadable("it is corrupt: a page has a negative size")
        values += count
        claimed += count * BYTES_OF_A_NUMBER + unpacked * (AT_ONCE if repeats and of_strings else 1)
        at = page.at + packed
    if values != chunk.num_values:  # otherwise the library would look for further pages
        raise Unreadable(f"it is corrupt: a column has {values} values, where its metadata say {chunk.num_values}")
    return claimed


class _Compact:
    """Reads Thrift's compact protocol, the format of Parquet's metadata and page headers."""

    def __init__(self, data: mmap.mmap, at: int) -> None:
        self.data, self.at, self.structures = data, at, 0

    def struct(self) -> dict[int, Any]:
        """The numbers and structures in a structure, by field number; other fields are skipped."""
        self.structures += 1
        if self.structures > MOST_STRUCTURES:
            raise Unreadable(
                f"its metadata have more than {MOST_STRUCTURES} parts, which would take more than "
                f"{UNPACKED_BYTES / 1e6:.0f} MB: write it with fewer row groups"
            )
        found: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._signed()
            found[field] = self._value(head & 15)
        return found

    def _value(self, kind: int) -> Any:
        if kind in (1, 2):  # a boolean, whose type is its value
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 8:  # a string, by its length
            length = self._unsigned()
            self.at += length
            return None
        if kind in (9, 10):  # a list or a set
            return self._pass_over_list()
        if kind == 12:
            return self.struct()
        raise Unreadable(f"it is corrupt: its metadata have a field of type {kind}")

    def _pass_over_list(self) -> None:
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._unsigned()
        for _ in range(count):
            if head & 15 in (1, 2):  # in a list, a boolean takes one byte
                self._byte()
            else:
                self._value(head & 15)

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _unsigned(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            part = self._byte()
            number |= (part & 127) << shift
            if part < 128:
                return number
        raise Unreadable("it is corrupt: a number in the header of a page does not end")

    def _signed(self) -> int:
        number = self._unsigned()
        return number >> 1 ^ -(number & 1)


def _check_is_complete(array: Any, name: str) -> None:
    array.validate()
    if array.null_count:
        raise Unreadable(f"its {name} has {array.null_count} missing values")


def _pyarrow() -> Any:
    try:
        import pyarrow.ipc
    except ModuleNotFoundError as error:
        raise missing_extra("pyarrow", "Parquet and Arrow files") from error
    return pyarrow
