"""From video files to a data set: what is read, kept and refused."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlrep.data import EpisodeDataset, decode, open_video

WriteVideo = Callable[..., Path]
SMALL: dict[str, Any] = dict(image_size=16, frame_stack=1, max_gap=2)


def greys(data: EpisodeDataset) -> np.ndarray:
    """The mean of each frame of each episode, all episodes one after the other."""
    return data.frames[data.index].astype(float).mean((1, 2, 3))


def folders(cache: Path, pattern: str = "*") -> list[Path]:
    return [path for path in cache.glob(pattern) if path.is_dir()]


@pytest.mark.parametrize("ending", [".mp4", ".webm", ".gif", ".mkv", ".avi", ".MP4"])
def test_every_kind_of_video_is_read(write_video: WriteVideo, ending: str) -> None:
    data = open_video(write_video(f"a{ending}", frames=8, step=20), **SMALL)
    assert data.frames.shape == (8, 3, 16, 16)
    np.testing.assert_allclose(greys(data), 20.0 * np.arange(8), atol=18)  # GIF's palette is coarse
    batch = data.sample(4)
    assert batch["observation"].shape == batch["future_observation"].shape == (4, 3, 16, 16)
    assert set(batch.keys()) == {"observation", "index", "future_observation", "gap"}


def test_a_folder_is_one_episode_a_video_in_the_order_of_names(write_video: WriteVideo, tmp_path: Path) -> None:
    write_video("b.mp4", frames=5, step=0)
    write_video("sub/c.webm", frames=4, step=30)
    write_video("a.mp4", frames=6, step=30)
    write_video(".hidden.mp4")
    (tmp_path / "notes.txt").write_text("not a video")
    data = open_video(tmp_path, **SMALL)
    assert data.lengths.tolist() == [6, 5, 4]
    assert greys(data)[5:8].round().tolist() == pytest.approx([150, 0, 0], abs=4)


def test_a_list_may_mix_files_and_folders(write_video: WriteVideo, tmp_path: Path) -> None:
    one = write_video("x/one.mp4", frames=5)
    write_video("y/two.mp4", frames=4)
    assert open_video([tmp_path / "y", str(one)], **SMALL).lengths.tolist() == [4, 5]


def test_pictures_are_squared_without_cutting(write_video: WriteVideo, tmp_path: Path) -> None:
    picture = np.zeros((4, 32, 64, 3), np.uint8)
    picture[:, :, 32:] = 200
    np.savez(tmp_path / "wide.npz", image=picture)
    small = open_video(tmp_path / "wide.npz", **SMALL).frames[0, 0]
    assert small.shape == (16, 16)
    assert (small[:, :7] == 0).all()
    assert (small[:, 9:] == 200).all()


def test_a_second_opening_decodes_nothing(write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_video("a.mp4", detail=30)
    first = open_video(video, **SMALL)
    assert isinstance(first.frames, np.memmap)
    assert not folders(video.parent / ".rlrep-cache", ".*"), "a temporary folder was left"
    monkeypatch.setattr("rlrep.data.video.decode", None)
    again = open_video(video, image_size=16, frame_stack=2, max_gap=5, skip_corrupt=True)
    assert np.array_equal(first.frames, again.frames)
    assert again.observation_shape == (6, 16, 16)


@pytest.mark.parametrize("change", ["size", "time", "file", "damage", "options"])
def test_a_cache_that_is_not_of_these_files_and_options_is_made_anew(
    write_video: WriteVideo, tmp_path: Path, change: str
) -> None:
    write_video("v/a.mp4", frames=5)
    cache = tmp_path / "cache"
    open_video(tmp_path / "v", cache=cache, **SMALL)
    expected, options = [5], dict(SMALL)
    if change == "size":
        write_video("v/a.mp4", frames=7)
        expected = [7]
    elif change == "time":
        path = write_video("w/a.mp4", frames=5, step=0).replace(tmp_path / "v/a.mp4")
        path.touch()
    elif change == "file":
        write_video("v/b.mp4", frames=6)
        expected = [5, 6]
    elif change == "damage":
        (frames,) = cache.glob("*/frames.npy")
        frames.write_bytes(frames.read_bytes()[:-100])
    else:
        options["image_size"] = 8
    data = open_video(tmp_path / "v", cache=cache, **options)
    assert data.lengths.tolist() == expected
    assert data.frames.shape[-1] == options["image_size"]
    if change == "time":
        assert greys(data).max() < 4
    assert len(folders(cache)) == (2 if change == "options" else 1), "stale caches must not pile up"
    assert not (tmp_path / "v/.rlrep-cache").exists()


def test_long_videos_are_decoded_in_pieces(write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlrep.data.video_files.AT_ONCE", 3)
    pieces: list[int] = []
    small = decode.resize

    def counted(frames: np.ndarray, size: int) -> np.ndarray:
        pieces.append(len(frames))
        return small(frames, size)

    monkeypatch.setattr(decode, "resize", counted)
    data = open_video(write_video("a.mp4", frames=8), **SMALL)
    assert pieces == [3, 3, 2]
    np.testing.assert_allclose(greys(data), 20.0 * np.arange(8), atol=4)


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


@pytest.mark.parametrize("ending", [".mp4", ".webm", ".gif", ".mkv", ".avi"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_truncated_video_is_named(write_video: WriteVideo, ending: str, share: float) -> None:
    video = cut(write_video(f"a{ending}", frames=12, detail=20), share)
    with pytest.raises(ValueError, match=rf"a{ending} can't be used: it is (corrupt or )?truncated.*skip_corrupt"):
        open_video(video, **SMALL)
    assert not folders(video.parent / ".rlrep-cache"), "a failed pass must leave no cache"


def test_a_corrupt_video_is_named(write_video: WriteVideo) -> None:
    video = write_video("a.mp4", frames=12, detail=20)
    content = bytearray(video.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(range(200))
    video.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mp4 can't be used: it is corrupt"):
        open_video(video, **SMALL)


def test_what_is_skipped_is_counted_and_listed(
    write_video: WriteVideo, write_audio: Callable[[str], Path], tmp_path: Path
) -> None:
    write_video("good.mp4", frames=6, step=0)
    cut(write_video("cut.webm", frames=12, detail=20), 0.7)
    write_video("short.mp4", frames=2)
    write_video("zlast.mp4", frames=5, step=0)
    write_audio("sound.mp4")
    np.savez(tmp_path / "other.npz", reward=np.zeros(3))
    with pytest.warns(UserWarning, match=r"skipped 4 of 6 files:") as caught:
        data = open_video(tmp_path, skip_corrupt=True, **SMALL)
    assert {Path(name).name for name in data.skipped} == {"cut.webm", "short.mp4", "sound.mp4", "other.npz"}
    for name, reason in data.skipped.items():
        assert f"{name}: {reason}" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert data.lengths.tolist() == [6, 5]
    assert greys(data).max() < 4
    assert data.split(0.5)[0].skipped == data.skipped
    with pytest.warns(UserWarning, match="skipped 4 of 6"):
        open_video(tmp_path, skip_corrupt=True, **SMALL)
    with pytest.raises(ValueError, match=r"cut\.webm can't be used.*3 more.*skip_corrupt"):
        open_video(tmp_path, **SMALL)


def test_a_video_shorter_than_the_largest_gap_is_named(write_video: WriteVideo, tmp_path: Path) -> None:
    write_video("long.mp4", frames=9)
    write_video("short.mp4", frames=4)
    told = r"short\.mp4 can't be used: it is too short: 4 frames, and a gap of up to 4 steps needs 5"
    with pytest.raises(ValueError, match=told):
        open_video(tmp_path, image_size=16, max_gap=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_video(tmp_path, image_size=16, max_gap=3).num_episodes == 2
    for skip_corrupt in (False, True):
        with pytest.raises(ValueError, match=r"long\.mp4 can't be used: it is too short.*1 more.*no other file"):
            open_video(tmp_path, image_size=16, max_gap=20, skip_corrupt=skip_corrupt)


def test_nothing_left_is_an_error(write_video: WriteVideo, write_audio: Callable[[str], Path], tmp_path: Path) -> None:
    write_audio("a.mp4")
    with pytest.raises(ValueError, match=r"none of the 1 files can be used.*a\.mp4: it has no pictures, only audio"):
        open_video(tmp_path, skip_corrupt=True, **SMALL)


def test_mixed_resolutions_are_refused_unless_asked_for(write_video: WriteVideo, tmp_path: Path) -> None:
    write_video("a.mp4", size=(32, 32))
    write_video("b.mp4", size=(48, 32))
    with pytest.raises(ValueError, match=r"a\.mp4 has 32x32, .*b\.mp4 has 48x32; with mixed_sizes=True"):
        open_video(tmp_path, skip_corrupt=True, **SMALL)
    assert open_video(tmp_path, mixed_sizes=True, **SMALL).frames.shape == (16, 3, 16, 16)


def test_a_skipped_video_does_not_set_what_the_others_must_be_like(write_video: WriteVideo, tmp_path: Path) -> None:
    cut(write_video("a.webm", frames=12, size=(48, 48), fps=25, detail=20), 0.7)
    write_video("b.mp4")
    write_video("c.mp4")
    with pytest.warns(UserWarning, match="skipped 1 of 3"):
        assert open_video(tmp_path, skip_corrupt=True, **SMALL).num_episodes == 2


def test_mixed_frame_rates_are_refused_unless_one_is_chosen(write_video: WriteVideo, tmp_path: Path) -> None:
    write_video("a.mp4", frames=8, fps=10, step=20)
    write_video("b.mp4", frames=8, fps=25, step=20)
    with pytest.raises(ValueError, match=r"a\.mp4 has 10, .*b\.mp4 has 25; with fps=RATE"):
        open_video(tmp_path, **SMALL)
    data = open_video(tmp_path, fps=10, **SMALL)
    assert data.lengths.tolist() == [8, 3]
    np.testing.assert_allclose(greys(data)[8:] / 20, [0, 3, 5], atol=0.2)
    with pytest.raises(ValueError, match=r"a\.mp4 has 10 frames a second, fewer than fps=20"):
        open_video(tmp_path, fps=20, **SMALL)


def test_dropping_frames_does_not_depend_on_the_pieces() -> None:
    frames = np.arange(100)[:, None]
    for share in (decode.Fraction(1, 3), decode.Fraction(24, 25)):
        whole = np.concatenate(list(decode._thinned(iter([frames]), share)))
        pieces = np.concatenate(list(decode._thinned(iter(np.split(frames, [1, 7, 50])), share)))
        assert np.array_equal(whole, pieces)
        assert whole[0] == 0
        assert len(whole) == int(np.ceil(100 * share))


def test_a_folder_without_videos_says_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "song.mp3").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds no videos.*\.mp4, \.webm.*it holds \.mp3"):
        open_video(tmp_path)
    with pytest.raises(ValueError, match=r"song\.mp3 does not end like.*\.mp4"):
        open_video(tmp_path / "song.mp3")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_gap": 0}, "max_gap must be at least 1, got 0"),
        ({"frame_stack": 0}, "frame_stack must be at least 1"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"fps": 0}, "fps must be greater than 0"),
        ({"fps": 5, "actions": True}, "do not go together"),
        ({"actions": True}, "holds no actions"),
    ],
)
def test_options_that_can_not_work_are_refused(write_video: WriteVideo, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_video(write_video("a.mp4"), **options)


def test_a_path_to_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_video(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="empty list"):
        open_video([])


@pytest.mark.parametrize(("package", "name"), [("av", "a.mp4"), ("h5py", "a.hdf5"), ("minari", "group/data-v0")])
def test_a_missing_package_is_named_with_what_brings_it(
    write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    path: Any = write_video("a.mp4")
    if package == "h5py":
        path = path.rename(path.with_suffix(".hdf5"))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "rlrep\[data\]"'):
        open_video(name if package == "minari" else path, skip_corrupt=True)


def test_a_cache_that_can_not_be_written_says_where_else(write_video: WriteVideo, tmp_path: Path) -> None:
    video = write_video("v/a.mp4")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cache="):
        open_video(video, cache=tmp_path / "file", **SMALL)


def test_a_cache_tells_what_it_was_made_from(write_video: WriteVideo) -> None:
    video = write_video("a.mp4")
    open_video(video, **SMALL)
    (index,) = video.parent.glob(".rlrep-cache/*/index.json")
    made_from = json.loads(index.read_text())["made_from"]
    assert made_from["files"] == [[str(video), video.stat().st_size, video.stat().st_mtime_ns]]
