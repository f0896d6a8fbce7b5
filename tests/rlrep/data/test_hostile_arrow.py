"""Hostile Arrow files in a Minari data set."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rlrep.data import TransitionFiles, open_dataset, open_video, reading
from rlrep.data.safe_arrow import _Table
from tests.rlrep.data.arrow_files import column, read_columns, write_arrow, write_columns
from tests.rlrep.data.transition_files import assert_equal, episodes

SMALL: dict[str, Any] = dict(image_size=8, frame_stack=1, max_gap=2)
READERS: list[Callable[[Path], Any]] = [
    lambda path: list(TransitionFiles(path)),
    open_dataset,
    lambda path: open_video(path, **SMALL),
]
FILE = "data/0/part-0.arrow"


@pytest.fixture
def minari(tmp_path: Path) -> Path:
    write_arrow(episodes(), tmp_path / "minari")
    return tmp_path / "minari"


def refused(path: Path, message: str, readers: list[Callable[[Path], Any]] = READERS) -> None:
    for reader in readers:
        with pytest.raises(ValueError, match=rf"(?s)can't be used: .*{message}") as caught:
            reader(path)
        assert "Traceback" not in str(caught.value)


def change(minari: Path, **columns: Any) -> None:
    held = read_columns(minari / FILE) | columns
    write_columns({name: each for name, each in held.items() if each is not None}, minari / FILE)


def test_extension_types_are_refused_before_their_code_runs(minari: Path) -> None:
    class Evil(pa.ExtensionType):
        ran = 0

        def __init__(self) -> None:
            super().__init__(pa.float32(), "evil")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type: Any, serialized: bytes) -> Evil:
            cls.ran += 1
            return cls()

    pa.register_extension_type(Evil())
    try:
        change(minari, infos=pa.ExtensionArray.from_storage(Evil(), pa.array([1.0] * 8, pa.float32())))
        Evil.ran = 0
        refused(minari, "extension types")
        assert Evil.ran == 0
        pa.ipc.open_file(str(minari / FILE))  # as pyarrow without our checks does
        assert Evil.ran == 1
    finally:
        pa.unregister_extension_type("evil")


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_columns_unpack_within_a_stated_bound(
    minari: Path, compression: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = read_columns(minari / FILE)
    write_columns(written, minari / FILE, compression=compression)
    assert_equal(next(iter(TransitionFiles(minari))), episodes()[0])
    monkeypatch.setattr(reading, "UNPACKED_BYTES", 1 << 20)
    infos = pa.array(np.zeros((8, 1 << 17)).reshape(-1))  # 8 MB of zeros
    write_columns(written | {"infos": pa.FixedSizeListArray.from_arrays(infos, 1 << 17)}, minari / FILE)
    assert_equal(next(iter(TransitionFiles(minari))), episodes()[0])
    write_columns(
        written | {"infos": pa.FixedSizeListArray.from_arrays(infos, 1 << 17)}, minari / FILE, compression=compression
    )
    refused(minari, r"its columns would unpack to 8 MB, and at most 1 MB")


def test_a_buffer_can_not_claim_memory(minari: Path) -> None:
    """The eight bytes before a compressed buffer say how much memory is allocated for it."""
    frames = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(8 * 192, np.uint8)), 192)
    write_columns(read_columns(minari / FILE) | {"observations": frames}, minari / FILE, compression="zstd")
    content = (minari / FILE).read_bytes()
    zstd = b"\x28\xb5\x2f\xfd"
    claim = struct.pack("<q", 8 * 192) + zstd
    assert content.count(claim) == 1
    for claimed in (1 << 40, (1 << 63) - 1):
        (minari / FILE).write_bytes(content.replace(claim, struct.pack("<q", claimed) + zstd))
        refused(minari, "its columns would unpack to")
    for claimed in (0, 7, 8 * 192 + 1, -2):
        (minari / FILE).write_bytes(content.replace(claim, struct.pack("<q", claimed) + zstd))
        refused(minari, "corrupt or truncated")
    assert pa.total_allocated_bytes() < 1 << 20


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (dict(observations=None), "one column observations, got 0"),
        (dict(observations=column(np.zeros((8, 191), np.uint8))), "its pictures are uint8"),
        (dict(observations=column(np.zeros((8, 192), np.int8))), "its pictures are int8"),
        (dict(observations=column(np.zeros(8, np.uint8))), "its pictures are uint8"),
        (dict(observations=pa.array([b"no picture"] * 8)), "corrupt or truncated"),
        (dict(observations=pa.array(["text"] * 8)), "must hold numbers or pictures, got string"),
        (dict(observations=pa.array([None] * 8)), "8 missing values"),
        (dict(observations=pa.array([None, *[bytes(192)] * 7], pa.binary())), "1 missing values"),
        (dict(observations=pa.array([[1]] * 8)), "must hold numbers or pictures, got list"),
    ],
)
def test_pictures_are_those_of_the_observation_space(minari: Path, columns: dict[str, Any], message: str) -> None:
    change(minari, **columns)
    refused(minari, message)


@pytest.mark.parametrize("name", ["actions", "rewards", "terminations", "truncations"])
def test_steps_are_numbers_one_fewer_than_frames(minari: Path, name: str) -> None:
    held = read_columns(minari / FILE)
    whole = held[name]
    ones = column(np.ones((1, 2), np.float32)) if name == "actions" else pa.array([1]).cast(whole.type)
    for wrong, message in [
        (None, f"one column {name}, got 0"),
        (pa.array(["text"] * 8), f"its {name} must hold numbers"),
        (pa.array([b"text"] * 8), f"its {name} must be 7 numbers"),
        (pa.array([None] * 8, whole.type), f"its {name} has 8 missing values"),
        (pa.array(range(8), pa.timestamp("s")), f"its {name} must hold numbers"),
        (pa.concat_arrays([whole.slice(0, 7), ones]), f"its {name} must be 7 numbers, one fewer than frames, and then"),
    ]:
        change(minari, **(held | {name: wrong}))
        refused(minari, message, READERS[:2])


def test_actions_are_those_of_the_action_space(minari: Path) -> None:
    change(minari, actions=column(np.zeros((8, 3), np.float32)))
    refused(minari, r"its actions are lists of 3, and its action space is of shape \[2\]", READERS[:2])


def test_an_episode_is_one_record_batch_in_one_file(minari: Path) -> None:
    content = (minari / FILE).read_bytes()
    for batches in (0, 2):
        write_columns(read_columns(minari / "data/1/part-0.arrow"), minari / FILE, batches)
        refused(minari, f"one record batch, got {batches}")
    (minari / FILE).write_bytes(content)
    (minari / "data/0/part-1.arrow").write_bytes(content)
    refused(minari, r"must be one \.arrow file, got 2")
    (minari / "data/0/part-1.arrow").unlink()
    (minari / FILE).unlink()
    refused(minari, r"must be one \.arrow file, got 0")


def test_all_episodes_must_be_there(minari: Path) -> None:
    path = minari / "data/metadata.json"
    about = json.loads(path.read_text())
    for count in (3, 5, 10**15, -1, "4", None):
        path.write_text(json.dumps(about | {"total_episodes": count}))
        refused(minari, "of .* episodes, and it holds 4")
    path.write_text(json.dumps(about))
    (minari / "data/0").rename(minari / "data/9")
    refused(minari, "a file is missing")


def test_dictionaries_are_refused(minari: Path) -> None:
    change(minari, infos=pa.array(["a"] * 8).dictionary_encode())
    refused(minari, "dictionaries")


def test_what_arrow_would_unpack_or_swap_in_other_ways_is_refused(minari: Path) -> None:
    batch = pa.RecordBatch.from_pydict(read_columns(minari / FILE))
    with pa.OSFile(str(minari / FILE), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch, custom_metadata={"ARROW:experimental_compression": "zstd"})
    refused(minari, "before version 1.0")
    change(minari)
    content = bytearray((minari / FILE).read_bytes())
    start = len(content) - 10 - struct.unpack("<i", content[-10:-6])[0]
    footer = bytes(content[start:-10])
    schema = _Table(footer, struct.unpack_from("<I", footer)[0]).table(1)
    struct.pack_into("<H", content, start + schema.entries + 4, 4)  # sets the byte order
    (minari / FILE).write_bytes(content)
    refused(minari, "big-endian")


@pytest.mark.parametrize("folder", [False, True])
def test_a_link_out_of_the_data_set_is_not_followed(minari: Path, tmp_path: Path, folder: bool) -> None:
    linked = minari / ("data/0" if folder else FILE)
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    refused(minari, r"part-0.arrow is a link to another place")


@pytest.mark.parametrize("kind", ["fifo", "device", "dangling", "loop", "empty", "sparse", "folder"])
def test_what_is_not_an_arrow_file_is_never_waited_for(minari: Path, kind: str) -> None:
    path = minari / FILE
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in ("empty", "sparse"):
        path.touch()
        os.truncate(path, 1 << 38 if kind == "sparse" else 0)
    else:
        path.symlink_to({"device": "/dev/zero", "dangling": "/nowhere", "loop": "part-0.arrow"}[kind])
    refused(minari, "")


def test_damage_to_the_layout_is_refused_and_values_alone_may_change(minari: Path) -> None:
    """Flips one bit in every 41st byte. Arrow has no checksums, so pixels and numbers may change."""
    content = (minari / FILE).read_bytes()
    whole = episodes()[0]
    for at in range(0, len(content), 41):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        (minari / FILE).write_bytes(damaged)
        try:
            found = next(iter(TransitionFiles(minari)))
        except ValueError as error:
            assert "can't be used" in str(error)
        else:
            assert (found.frames.shape, found.action.shape) == (whole.frames.shape, whole.action.shape)
    for length in range(0, len(content), 97):
        (minari / FILE).write_bytes(content[:length])
        refused(minari, "corrupt or truncated", READERS[:1])


def test_pyarrow_is_named_with_what_brings_it(minari: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.ipc", None)
    for reader in READERS:
        with pytest.raises(ModuleNotFoundError, match=r"Arrow files needs pyarrow: run `pip install -e '.*\[data\]'`"):
            reader(minari)


def test_other_storage_is_refused_by_name(minari: Path) -> None:
    path = minari / "data/metadata.json"
    for other in ("parquet", ["arrow"], None):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data_format": other}))
        refused(minari, "only Minari's hdf5 and arrow are read")
