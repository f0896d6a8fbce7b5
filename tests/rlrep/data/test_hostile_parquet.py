"""Hostile Parquet files, and the variants that honest writers make."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from rlrep.data import reading, safe_arrow
from rlrep.data.reading import Unreadable
from rlrep.data.safe_arrow import ParquetRows
from tests.rlrep.data.lerobot_files import png

NUMBERS = np.arange(100, dtype=np.float32)
VARIANTS: list[dict[str, Any]] = [
    {},
    dict(data_page_version="2.0", compression="zstd"),
    dict(use_dictionary=False, compression="gzip", row_group_size=7),
    dict(use_compliant_nested_type=False, write_page_checksum=True),
    dict(store_schema=False, version="1.0", compression="none"),
]


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    parquet.write_table(pa.table(columns), path, **options)
    return path


def opened(path: Path) -> ParquetRows:
    return ParquetRows(path, path.parent)


@pytest.mark.parametrize("options", VARIANTS)
def test_what_honest_writers_write_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(NUMBERS), 5)
    pictures = [png(shade) for shade in range(20)]
    columns = {"one": NUMBERS[:20], "one.more": ["a"] * 20, "several": lists, "done": NUMBERS[:20] == 19}
    columns["picture"] = pa.array([{"bytes": each, "path": "a.png"} for each in pictures])
    rows = opened(write(tmp_path / "a.parquet", columns, **options))
    np.testing.assert_array_equal(rows.numbers("one"), NUMBERS[:20])
    np.testing.assert_array_equal(rows.numbers("several"), NUMBERS.reshape(20, 5))
    np.testing.assert_array_equal(rows.numbers("done"), NUMBERS[:20] == 19)
    assert list(rows.strings("picture")) == pictures


def test_strings_that_repeat_their_beginnings_are_read(tmp_path: Path) -> None:
    strings = [b"a" * n for n in range(50)]
    encoded = dict(use_dictionary=False, column_encoding={"picture": "DELTA_BYTE_ARRAY"})
    assert list(opened(write(tmp_path / "a.parquet", {"picture": strings}, **encoded)).strings("picture")) == strings


def test_the_code_of_extension_types_does_not_run(tmp_path: Path) -> None:
    ran = []

    class Evil(pa.ExtensionType):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(pa.float32(), "rlrep.evil")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Evil:
            ran.append(storage)
            return cls()

    path = write(tmp_path / "a.parquet", {"one": pa.ExtensionArray.from_storage(Evil(), pa.array(NUMBERS))})
    pa.register_extension_type(Evil())
    try:
        np.testing.assert_array_equal(opened(path).numbers("one"), NUMBERS)
        assert not ran
        parquet.read_table(path)  # as pyarrow without our checks does
        assert ran
    finally:
        pa.unregister_extension_type("rlrep.evil")


@pytest.mark.parametrize("encoding", ["PLAIN", "RLE_DICTIONARY", "DELTA_BYTE_ARRAY"])
def test_columns_can_not_unpack_to_far_more_than_their_file(
    tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "UNPACKED_BYTES", 1 << 20)
    encoded: dict[str, Any] = dict(compression="zstd")
    if encoding != "RLE_DICTIONARY":
        encoded |= dict(use_dictionary=False, column_encoding={"picture": encoding, "one": "PLAIN"})
    pictures = [b"a" * 100_000] * 40
    rows = opened(write(tmp_path / "a.parquet", {"one": np.zeros(40), "picture": pictures}, **encoded))
    assert rows.size < 10_000
    with pytest.raises(Unreadable, match=r"its picture would unpack to .* MB, and at most 1 MB"):
        next(rows.strings("picture"))
    many = opened(write(tmp_path / "b.parquet", {"one": np.zeros(100_000)}))
    assert many.size < 10_000
    with pytest.raises(Unreadable, match=r"its one would unpack to .* MB, and at most 1 MB"):
        many.numbers("one")


def test_metadata_of_many_small_parts_take_no_memory(tmp_path: Path) -> None:
    """Row groups with 100,000 columns of three bytes each: 4 MB, for which pyarrow takes hundreds of MB."""
    columns = b"\x19\xfc\xa0\x8d\x06" + b"\x26\x00\x00" * 100_000
    group = columns + b"\x16\x00\x16\x00\x00"
    footer = b"\x15\x02\x19\x1c\x48\x01a\x15\x00\x00\x16\x00\x19\xdc" + group * 13 + b"\x00"
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(Unreadable, match="its metadata have more than 262144 parts"):
        opened(path)


def test_pages_must_match_the_metadata(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"one": NUMBERS}, use_dictionary=False, compression="none")
    content = path.read_bytes()
    # Fields in the header of the only page: 407 bytes unpacked, 407 bytes packed, and 100 values.
    assert content[4:12] == b"\x15\x00\x15\xae\x06\x15\xae\x06" and content.count(b"\x2c\x15\xc8\x01", 0, 99) == 1
    for old, new, message in (
        (b"\x2c\x15\xc8\x01", b"\x2c\x15\xfe\x7f", "a column has 8191 values, where its metadata say 100"),
        (b"\x15\xae\x06\x15\xae\x06", b"\x15\xae\x06\x15\xad\x06", "a page has a negative size"),
        (b"\x15\xae\x06\x15\xae\x06", b"\x15\xae\x06\x15\xfe\x7f", "corrupt"),
        (b"\x15\x00\x15\xae\x06", b"\x1d\x00\x15\xae\x06", "a field of type 13"),
    ):
        path.write_bytes(content.replace(old, new, 1))
        with pytest.raises(Unreadable, match=message):
            opened(path).numbers("one")


def test_large_metadata_missing_ends_and_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", {"one": NUMBERS})
    monkeypatch.setattr(safe_arrow, "LARGEST_FOOTER", 100)
    with pytest.raises(Unreadable, match=r"its metadata have \d+ bytes, and at most 100 are read"):
        opened(path)
    os.truncate(path, 0)
    with pytest.raises(Unreadable, match="corrupt or truncated"):
        opened(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Unreadable, match="not a regular file"):
        opened(path)
