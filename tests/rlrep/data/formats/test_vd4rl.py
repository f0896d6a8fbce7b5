"""V-D4RL's HDF5 files: written for old libraries, and never incomplete; truncated files are read."""

from __future__ import annotations

import errno
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from rlrep.data import TransitionFiles, open_dataset, open_video, safe_hdf5, write_transitions
from rlrep.data.formats import vd4rl
from tests.rlrep.data.formats.numbered import SMALL, numbered, numbers
from tests.rlrep.data.transition_files import assert_equal, episode, episodes

KEPT = Path(__file__).with_name("vd4rl_84.hdf5")  # by `write_transitions([episode(0, 3), episode(1, 4, True)], …)`


def layout_versions(path: Path) -> list[int]:
    """The version of each data set's layout message, read from the bytes of its version 2 object header."""
    content, found = path.read_bytes(), []
    with h5py.File(path) as file:
        addresses = [h5py.h5o.get_info(file[name].id).addr for name in file]
    for at in addresses:
        assert content[at : at + 5] == b"OHDR\x02"
        flags = content[at + 5]
        size_bytes = 1 << (flags & 3)
        at += 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
        end = at + size_bytes + int.from_bytes(content[at : at + size_bytes], "little")
        at += size_bytes
        while at < end:
            kind, size = content[at], int.from_bytes(content[at + 1 : at + 3], "little")
            at += 4 + 2 * bool(flags & 0x4)
            if kind == 8:
                found.append(content[at])
            at += size
    return found


@pytest.mark.parametrize("path", [KEPT, None], ids=["kept", "written now"])
def test_vd4rl_files_are_of_versions_that_old_libraries_read(tmp_path: Path, path: Path | None) -> None:
    written = [episode(0, 3), episode(1, 4, True)]
    if path is None:
        write_transitions(written, tmp_path / "new", format="vd4rl_84")
        path = tmp_path / "new/data.hdf5"
    assert path.read_bytes()[:9] == b"\x89HDF\r\n\x1a\n\x02"  # superblock 2, checksummed; HDF5 1.8 and later
    assert layout_versions(path) == [3] * 5
    for found, expected in zip(TransitionFiles(path), written, strict=True):
        assert_equal(found, expected)


def cut(path: Path, rows: slice, **more: int) -> None:
    """Keeps some rows of all arrays; `more` gives how many more or fewer rows an array keeps."""
    with h5py.File(path, "a") as file:
        for name in list(file):
            array = file[name][rows]
            count = more.get(name, 0)
            array = array[:count] if count < 0 else np.concatenate([array, array[:count]])
            del file[name]
            file[name] = array


LAST = "1 incomplete episode, without a first entry .* or a last one .*: rows 23 to"


@pytest.mark.parametrize(
    ("rows", "more", "kept", "message"),
    [
        (slice(28), {}, [0, 1, 2], LAST + " 27"),
        (slice(4, None), {}, [1, 2, 3], "1 incomplete episode, .*: rows 0 to 3"),
        (slice(4, 20), {}, [1], "2 incomplete episodes, .*: rows 0 to 3, 9 to 15"),
        (slice(None), {"reward": -1}, [0, 1, 2], r"rows from 28 on.*29 of pictures, .*28 of reward.*" + LAST + " 27"),
        (slice(None), {"observation": -1}, [0, 1, 2], "rows from 28 on, .*28 of pictures, 29 of step_type"),
        (slice(None), {"step_type": 1}, [0, 1, 2, 3], "rows from 29 on, .*30 of step_type"),
        (slice(None), {"action": 3, "discount": 2}, [0, 1, 2, 3], "rows from 29 on"),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_the_whole_episodes_of_a_cut_file_are_kept(
    tmp_path: Path, rows: slice, more: dict[str, int], kept: list[int], message: str, beside: bool
) -> None:
    path = tmp_path / "data/data.hdf5"
    write_transitions(episodes(), path.parent, format="vd4rl_84")
    cut(path, rows, **more)
    files = TransitionFiles(path)
    with pytest.warns(UserWarning, match=rf"(?s)only whole episodes are kept, without .*{message}"):
        found = list(files)
    for one, number in zip(found, kept, strict=True):
        assert_equal(one, episodes()[number])
    assert list(files.skipped) == [f"{path} (in part)"]
    if beside:  # complete files are not affected
        write_transitions(episodes(), tmp_path / "whole", format="vd4rl_84")
        (tmp_path / "whole/data.hdf5").rename(path.with_name("whole.hdf5"))
    for again in (False, True):
        with pytest.warns(UserWarning, match=rf"(?s){'skipped parts of' if again else 'only whole'}.*{message}"):
            data = open_dataset(path.parent, skip_corrupt=again)  # the second time from the cache
        assert list(data.skipped) == [f"{path} (in part)"]
        assert len(data.episode_lengths) == len(kept) + 4 * beside


def test_pictures_of_incomplete_episodes_are_video_all_the_same(tmp_path: Path) -> None:
    write_transitions(episodes(), tmp_path / "data", format="vd4rl_84")
    cut(tmp_path / "data/data.hdf5", slice(4, 27), step_type=2)
    data = open_video(tmp_path / "data", image_size=8, frame_stack=1, max_gap=2)
    assert data.lengths.tolist() == [4, 5, 10, 4]


def test_a_file_without_a_whole_episode_is_refused(tmp_path: Path) -> None:
    write_transitions(episodes(), tmp_path / "data", format="vd4rl_84")
    cut(tmp_path / "data/data.hdf5", slice(1, 7))
    with pytest.raises(ValueError, match="its step_type must be 0 where an episode begins"):
        list(TransitionFiles(tmp_path / "data"))
    write_transitions(episodes(), tmp_path / "more", format="vd4rl_84")
    cut(tmp_path / "more/data.hdf5", slice(3))
    with pytest.raises(ValueError, match=r"holds no whole episode, only 1 incomplete episode, .*: rows 0 to 2"):
        list(TransitionFiles(tmp_path / "more"))


@pytest.mark.parametrize("format", ["vd4rl_84", "minari"])
@pytest.mark.parametrize("limit", [0, 50, 1_000, 5_000, 20_000, 60_000])
def test_a_disk_that_fails_under_hdf5_is_an_error(tmp_path: Path, format: str, limit: int) -> None:
    """As on a system where no file may be larger than `limit`. HDF5's own driver crashes with SIGSEGV."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match=r"can't write .*File too large"):
            write_transitions((episode(number, 30) for number in range(9)), tmp_path / "data", format=format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


class FullDisk:
    """A file on a disk that is full after `room` bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        if self.file.tell() >= self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self.file.write(data[: self.room - self.file.tell()]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.close()


@pytest.mark.parametrize("room", [0, 600, 3_000, 9_000, 30_000])
@pytest.mark.parametrize("format", ["vd4rl_84", "minari"])
def test_a_full_disk_is_an_error_that_says_how_much_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, format: str
) -> None:
    start = safe_hdf5.Output.__init__

    def full(output: Any, path: Path) -> None:
        start(output, path)
        output.file = FullDisk(output.file, room)

    monkeypatch.setattr(safe_hdf5.Output, "__init__", full)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=room))
    with pytest.raises(OSError, match=r"no room for .*data.*up to 0\.\d MB are missing"):
        write_transitions((episode(number, 300) for number in range(3)), tmp_path / "data", format=format)
    assert not list(tmp_path.iterdir())


def write_vd4rl(path: Path, lengths: list[int], **changes: Any) -> Path:
    import h5py

    step_type = np.concatenate([[0, *[1] * (length - 2), 2] for length in lengths])
    led_here = np.concatenate([np.arange(length) for length in lengths]).astype(np.float32)[:, None]
    arrays = {"observation": numbered(sum(lengths)), "step_type": step_type, "action": led_here} | changes
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file.create_dataset(name, data=array, compression="gzip", chunks=(7, *array.shape[1:]))
    return path


def test_vd4rl_files_fall_into_their_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = []
    newest_frames = vd4rl.newest_frames
    monkeypatch.setattr(vd4rl, "AT_ONCE", 4)
    monkeypatch.setattr(vd4rl, "newest_frames", lambda frames, _: blocks.append(len(frames)) or newest_frames(frames))
    data = open_video(write_vd4rl(tmp_path / "part.hdf5", [6, 9, 5]), actions=True, **SMALL)
    assert blocks == [7, 7, 6], "each compressed block must be read once"
    assert data.lengths.tolist() == [6, 9, 5]
    assert numbers(data) == list(range(20))
    assert data.action is not None
    for first, end in data.episodes:
        assert data.action[first : end - 1, 0].tolist() == list(range(1, end - first))


def test_a_short_episode_beside_longer_ones_serves_the_smaller_gaps(tmp_path: Path) -> None:
    data = open_video(write_vd4rl(tmp_path / "part.hdf5", [2, 6]), **(SMALL | {"max_gap": 3}))
    assert data.lengths.tolist() == [2, 6]
    batch = data.sample(300)
    assert set(batch["gap"][batch["observation"][:, 0, 0, 0] < 2].tolist()) == {1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_type": None}, "has no step_type"),
        ({"step_type": np.ones(11)}, "holds no 0"),
        ({"observation": None}, "holds none of observation"),
    ],
)
def test_an_hdf5_file_of_another_layout_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_vd4rl(tmp_path / "part.h5", [6, 5], **changes)
    with pytest.raises(ValueError, match=rf"part\.h5 can't be used: .*{message}"):
        open_video(path, **SMALL)


def test_a_truncated_hdf5_file_is_named_and_none_of_it_is_kept(tmp_path: Path) -> None:
    write_vd4rl(tmp_path / "good.hdf5", [6, 5])
    path = write_vd4rl(tmp_path / "bad.hdf5", [60, 50])
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"bad\.hdf5 can't be used: it is corrupt or truncated"):
        open_video(tmp_path, **SMALL)
    with pytest.warns(UserWarning, match=r"skipped 1 of 2"):
        assert open_video(tmp_path, skip_corrupt=True, **SMALL).lengths.tolist() == [6, 5]


def test_a_file_without_rows_says_so(tmp_path: Path) -> None:
    names = {"observation": (3, 8, 8), "action": (2,), "reward": (), "discount": (), "step_type": ()}
    for rows, message in ((0, r"it holds no rows \(0 of pictures"), (4, "it holds no rows that all arrays have")):
        with h5py.File(tmp_path / "empty.hdf5", "w") as file:
            for name, shape in names.items():
                file[name] = np.zeros((0 if name == "observation" else rows, *shape), np.uint8)
        for reader in (lambda path: list(TransitionFiles(path)), open_dataset, lambda path: open_video(path, **SMALL)):
            with pytest.raises(ValueError, match=rf"empty\.hdf5 can't be used: {message}"):
                reader(tmp_path / "empty.hdf5")


@pytest.mark.parametrize(
    ("step_type", "message"),
    [
        (lambda marks: np.stack([marks, marks], 1), "its step_type must have one value for each"),
        (lambda marks: np.where(marks == 1, 7, marks), "entry 1 is 7"),
        (lambda marks: np.where(marks == 1, np.nan, marks), "entry 1 is nan"),
    ],
)
def test_marks_are_read_alike_with_rewards_and_without(tmp_path: Path, step_type: Any, message: str) -> None:
    write_transitions(episodes(), tmp_path / "data", format="vd4rl_84")
    with h5py.File(tmp_path / "data/data.hdf5", "a") as file:
        marks = file["step_type"][:]
        del file["step_type"]
        file["step_type"] = step_type(marks)
    for reader in (lambda path: list(TransitionFiles(path)), lambda path: open_video(path, **SMALL)):
        with pytest.raises(ValueError, match=rf"can't be used: .*{message}"):
            reader(tmp_path / "data")
