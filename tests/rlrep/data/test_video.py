"""Reading video files as a data set: what is read, cached and refused."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from rlrep.data import EpisodeDataset, decode, open_video, unfinished
from rlrep.data.sources import Source

WriteVideo = Callable[..., Path]
SMALL: dict[str, Any] = dict(image_size=16, frame_stack=1, max_gap=2)


def greys(data: EpisodeDataset) -> np.ndarray:
    """The mean of each frame, of all episodes in order."""
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
def test_a_cache_of_other_files_or_options_is_rebuilt(write_video: WriteVideo, tmp_path: Path, change: str) -> None:
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
    assert len(folders(cache)) == (2 if change == "options" else 1), "stale caches must not accumulate"
    assert not (tmp_path / "v/.rlrep-cache").exists()


def test_long_videos_are_decoded_in_pieces(write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlrep.data.formats.video.AT_ONCE", 3)
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
    message = rf"a{ending} can't be used: it is (corrupt or )?truncated"
    with pytest.raises(ValueError, match=message) as alone:
        open_video(video, **SMALL)
    assert "skip_corrupt" not in str(alone.value)  # nothing would be left
    write_video("b.mp4", frames=12)
    with pytest.raises(ValueError, match=f"{message}.*skip_corrupt=True leaves it out"):
        open_video(video.parent, **SMALL)
    assert not folders(video.parent / ".rlrep-cache"), "a failed pass must leave no cache"


def test_a_corrupt_video_is_named(write_video: WriteVideo) -> None:
    video = write_video("a.mp4", frames=12, detail=20)
    content = bytearray(video.read_bytes())
    first, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    for at in range(first + 20, end - 20, 64):  # in every picture, because x264's output varies
        content[at : at + 20] = bytes(range(20))
    video.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mp4 can't be used: (it is corrupt|the picture at .* is corrupt)"):
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
    times = [Fraction(number, 25) for number in range(100)]
    for share in (Fraction(1, 3), Fraction(24, 25), Fraction(1)):
        whole = np.concatenate(list(decode._thinned([frames], times, 25 * share, [])))
        pieces = np.concatenate(list(decode._thinned(np.split(frames, [1, 7, 50]), times, 25 * share, [])))
        assert np.array_equal(whole, pieces)
        assert whole[0] == 0
        assert len(whole) == int(np.ceil(100 * share))


@pytest.mark.parametrize("seed", range(5))
def test_frames_are_chosen_by_their_times_so_that_steps_are_even(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = rng.choice([Fraction(1, 100), Fraction(1, 30), Fraction(1, 10)], 400)
    times = [Fraction(5) + time for time in np.cumsum(steps)]
    kept: list[Fraction] = []
    chosen = np.concatenate(list(decode._thinned(np.split(np.arange(400)[:, None], 20), times, Fraction(5), kept)))
    assert [times[number] for number in chosen[:, 0]] == kept
    # Each frame is at most half of the longest step away from its tick.
    assert np.diff(np.array(kept, float)).min() >= 0.2 - 0.1 - 1e-9
    assert np.diff(np.array(kept, float)).max() <= 0.2 + 0.1 + 1e-9
    assert len(kept) == pytest.approx(5 * float(times[-1] - times[0]), abs=1.1)


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


@pytest.mark.parametrize("package", ["av", "h5py"])
def test_a_missing_package_is_named_with_what_brings_it(
    write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    path: Any = write_video("a.mp4")
    if package == "h5py":
        path = path.rename(path.with_suffix(".hdf5"))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '.*\[data\]'"):
        open_video(path, skip_corrupt=True)


def test_a_cache_that_can_not_be_written_says_where_else(write_video: WriteVideo, tmp_path: Path) -> None:
    video = write_video("v/a.mp4")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cache="):
        open_video(video, cache=tmp_path / "file", **SMALL)


def test_a_cache_tells_what_it_was_made_from(write_video: WriteVideo) -> None:
    video = write_video("a.mp4")
    open_video(video, **SMALL)
    (index,) = video.parent.glob(".rlrep-cache/*/index.json")
    made_from = json.loads(index.read_text())["content"]["made_from"]
    assert made_from["files"] == [[str(video), video.stat().st_size, video.stat().st_mtime_ns]]


def steps(data: EpisodeDataset) -> np.ndarray:
    """The seconds between the frames of `write_timed`."""
    return np.diff(greys(data)) / 100


VARYING = [0, 130, 160, 200, 230, 400, 430, 450, 600, 610, 800, 830, 1000, 1190, 1210, 1400, 1600, 1610, 1790, 2000]


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_varying_frame_rate_is_made_even_by_time_stamps(write_timed: WriteVideo, ending: str) -> None:
    path = write_timed(f"a{ending}", VARYING)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = open_video(path, fps=5, **SMALL)
    np.testing.assert_allclose(steps(data), 0.2, atol=0.03)
    assert data.lengths.tolist() == [11]
    for _ in range(2):  # also from the cache
        with pytest.warns(UserWarning, match=rf"a{ending}: its frame rate varies .*0.01 to 0.21 s.*fps=RATE"):
            assert open_video(path, **SMALL).lengths.tolist() == [20]


def test_where_frames_are_missing_steps_stay_uneven_with_a_warning(write_timed: WriteVideo) -> None:
    path = write_timed("a.mkv", [*range(0, 600, 100), *range(1500, 2000, 100)])
    message = r"varies, and fps=5 can't make it even .1 of 4 steps are uneven, 0.2 to 1.2 s"
    with pytest.warns(UserWarning, match=message) as caught:
        data = open_video(path, fps=5, **SMALL)
    assert caught[0].filename == __file__
    np.testing.assert_allclose(steps(data), [0.2, 0.2, 1.2, 0.2], atol=0.03)


def test_an_even_frame_rate_is_kept_whole(write_video: WriteVideo, tmp_path: Path) -> None:
    for fps in (24, 25, 30, 60):
        for ending in (".mp4", ".webm", ".mkv"):
            path = write_video(f"{fps}{ending}", frames=40, fps=fps, step=1)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert open_video(path, fps=fps, **SMALL).lengths.tolist() == [40]
                assert open_video(path, **SMALL).lengths.tolist() == [40]


def with_matrix(path: Path, matrix: list[int]) -> Path:
    """Writes a display matrix into an MP4's track header: 36 bytes, from byte 40 of its content on."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = np.array(matrix, ">i4").tobytes()
    path.write_bytes(content)
    return path


ONE, LAST = 1 << 16, 1 << 30
SHOWN = {
    "as it is": ([ONE, 0, 0, 0, ONE, 0, 0, 0, LAST], lambda p: p),
    "90 clockwise": ([0, ONE, 0, -ONE, 0, 0, 32 * ONE, 0, LAST], lambda p: np.rot90(p, -1)),
    "180": ([-ONE, 0, 0, 0, -ONE, 0, 64 * ONE, 32 * ONE, LAST], lambda p: np.rot90(p, 2)),
    "90 the other way": ([0, -ONE, 0, ONE, 0, 0, 0, 64 * ONE, LAST], lambda p: np.rot90(p, 1)),
    "mirrored": ([-ONE, 0, 0, 0, ONE, 0, 64 * ONE, 0, LAST], lambda p: p[:, ::-1]),
    "upside down": ([ONE, 0, 0, 0, -ONE, 0, 0, 32 * ONE, LAST], lambda p: p[::-1]),
    "transposed": ([0, ONE, 0, ONE, 0, 0, 0, 0, LAST], lambda p: p.swapaxes(0, 1)),
}


@pytest.mark.parametrize("how", SHOWN)
@pytest.mark.parametrize("ending", [".mp4", ".mov", ".m4v"])
def test_videos_are_turned_and_mirrored_as_players_show_them(tmp_path: Path, how: str, ending: str) -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32], picture[:16, 32:], picture[16:, :32], picture[16:, 32:] = 40, 100, 160, 220
    path = tmp_path / f"a{ending}"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for _ in range(4):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    matrix, turn = SHOWN[how]
    data = open_video(with_matrix(path, matrix), image_size=4, frame_stack=1, max_gap=2)
    expected = turn(picture)
    corners = expected[:: expected.shape[0] - 1, :: expected.shape[1] - 1, 0]
    np.testing.assert_allclose(data.frames[0, 0, ::3, ::3], corners, atol=6)


def test_turned_videos_are_as_large_as_they_are_shown(write_video: WriteVideo, tmp_path: Path) -> None:
    write_video("a.mp4", size=(32, 64))
    with_matrix(write_video("b.mp4", size=(64, 32)), SHOWN["90 clockwise"][0])
    assert open_video(tmp_path, **SMALL).num_episodes == 2
    with_matrix(write_video("c.mp4", size=(32, 64)), [46341, 46341, 0, -46341, 46341, 0, 0, 0, LAST])
    with pytest.raises(ValueError, match=r"c\.mp4 can't be used: its pictures are to be turned by -?45 degrees"):
        open_video(tmp_path, **SMALL)


@pytest.mark.parametrize("ending", [".mov", ".m4v", ".ts", ".mpg", ".ogv", ".wmv", ".3gp", ".flv", ".MTS", ".mpeg"])
def test_the_videos_of_phones_cameras_and_archives_are_found(write_video: WriteVideo, ending: str) -> None:
    video = write_video(f"v/a{ending}", frames=8, step=20)
    data = open_video(video.parent, **SMALL)
    np.testing.assert_allclose(greys(data), 20.0 * np.arange(8), atol=8)


def test_a_matroska_video_may_be_shorter_than_its_sound(write_timed: WriteVideo) -> None:
    path = write_timed("a.mkv", [0, 100, 200, 300], sound=3000)
    content = path.read_bytes()
    assert content.count(b"00:00:00.400") == 1
    for name, other in (
        ("untagged", content.replace(b"DURATION", b"XURATION")),
        ("stale", content.replace(b"00:00:00.400", b"00:00:09.400")),
        ("nonsense", content.replace(b"00:00:00.400", b"once upon a ")),
    ):
        path.with_name(f"{name}.mkv").write_bytes(other)
        assert open_video(path.with_name(f"{name}.mkv"), **SMALL).lengths.tolist() == [4]
        path.with_name(f"{name}.mkv").write_bytes(other[: len(other) // 2])
        with pytest.raises(ValueError, match=r"can't be used: it is (corrupt or )?truncated"):
            open_video(path.with_name(f"{name}.mkv"), **SMALL)


@pytest.mark.parametrize("between", [b"", b"\0\0", b"junk"])
def test_two_gifs_in_a_file_are_not_one_episode(write_video: WriteVideo, between: bytes) -> None:
    path = write_video("a.gif", frames=8, detail=60)
    content = path.read_bytes()
    for second in (content, content[: len(content) // 2]):
        path.write_bytes(content + between + second)
        with pytest.raises(ValueError, match=r"a\.gif can't be used: another GIF follows the byte that ends it"):
            open_video(path, **SMALL)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), 1e-9, True])
def test_frame_rates_that_mean_nothing_are_refused(write_video: WriteVideo, fps: float) -> None:
    with pytest.raises(ValueError, match=r"fps must be (greater than 0|at least|finite|a number)"):
        open_video(write_video("a.mp4"), **SMALL, fps=fps)


def test_what_follows_or_lacks_a_gifs_last_byte_does_no_harm(write_video: WriteVideo) -> None:
    content = write_video("a.gif", frames=8, detail=60).read_bytes()
    assert content.endswith(b";")
    path = write_video("b.gif")
    for more in (b"", b"\n", bytes(100)):
        path.write_bytes(content + more)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert open_video(path, **SMALL).lengths.tolist() == [8]
    path.write_bytes(content + b"made by hand")
    with pytest.warns(UserWarning, match=r"b\.gif: left out the 12 bytes after the one that ends a GIF"):
        assert open_video(path, **SMALL).lengths.tolist() == [8]
    path.write_bytes(content[:-1])
    with pytest.warns(UserWarning, match=r"b\.gif: left out what may follow its last whole picture"):
        assert open_video(path, **SMALL).lengths.tolist() == [8]
    for cut in (2, 3, 50):
        path.write_bytes(content[:-cut])
        with pytest.raises(ValueError, match=r"b\.gif can't be used: it is truncated"):
            open_video(path, **SMALL)


def test_where_no_duration_is_stated_a_missing_end_is_refused_or_reported(write_video: WriteVideo) -> None:
    for ending, mark in ((".ogv", "truncated: it breaks off within a page"), (".ts", "breaks off within one")):
        path = write_video(f"a{ending}", frames=12, detail=60)
        content = path.read_bytes()
        for share in (0.5, 0.7, 0.9):
            path.write_bytes(content[: int(share * len(content)) | 1])
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with pytest.raises((ValueError, UserWarning), match=rf"{mark}|is corrupt"):
                    open_video(path, **SMALL)
    path = write_video("b.ogv", frames=12, detail=60)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"OggS") + 5] &= ~4
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"b\.ogv: left out what may follow .*none is marked as the end"):
        open_video(path, **SMALL)


@pytest.mark.parametrize("part", ["frames", "index", "action"])
def test_one_flipped_bit_in_a_cache_makes_it_anew(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (6, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "a.npz", observation=pictures, action=rng.normal(size=(5, 2)))
    options: dict[str, Any] = SMALL | dict(cache=tmp_path / "cache", actions=True)
    first = open_video(tmp_path / "a.npz", **options)
    expected, taken = first.frames.copy(), np.array(first.action)
    (path,) = (tmp_path / "cache").glob(f"*/{part}.*")
    whole = path.read_bytes()
    for _ in range(25):
        content = bytearray(whole)
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        found = open_video(tmp_path / "a.npz", **options)
        np.testing.assert_array_equal(found.frames, expected)
        np.testing.assert_array_equal(found.action, taken)
        assert found.lengths.tolist() == [6]


@pytest.mark.parametrize("brackets", [1, 70])
@pytest.mark.parametrize("name", ["frames.npy", "action.npy"])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_cache_with_a_header_that_python_can_not_parse_is_rebuilt(
    tmp_path: Path, name: str, stopped: bool, brackets: int
) -> None:
    """Too few closing brackets raise a TokenError, and too many opening ones a MemoryError."""
    (data := tmp_path / "data").mkdir()
    for number in range(2):
        np.savez(data / f"{number}.npz", observation=np.zeros((6, 16, 16, 3), np.uint8), action=np.ones((5, 2)))
    options: dict[str, Any] = SMALL | dict(actions=True)
    if stopped:
        with pytest.raises(KeyboardInterrupt):
            open_video(data, progress=stopped_at(1), **options)
    else:
        open_video(data, **options)
    (path,) = (data / ".rlrep-cache").glob(f"*/{name}")
    content = path.read_bytes()
    header = content[:128].replace(b")", b"(") if brackets == 1 else content[:10] + b"(" * 118
    path.write_bytes(header + content[128:])
    found = open_video(data, **options)
    assert found.lengths.tolist() == [6, 6] and found.action is not None
    assert (found.action.reshape(2, 6, 2)[:, :5] == 1).all()


@pytest.mark.parametrize("content", [b"", b"x"])
@pytest.mark.parametrize("name", ["frames.npy", "index.json", "action.npy", "verified.json"])
def test_a_cache_with_an_empty_or_wrong_file_is_rebuilt(tmp_path: Path, name: str, content: bytes) -> None:
    np.savez(tmp_path / "a.npz", observation=np.zeros((6, 16, 16, 3), np.uint8), action=np.zeros((5, 2)))
    options: dict[str, Any] = SMALL | dict(actions=True)
    open_video(tmp_path / "a.npz", **options)
    (folder,) = (tmp_path / ".rlrep-cache").iterdir()
    (folder / name).write_bytes(content)
    assert open_video(tmp_path / "a.npz", **options).lengths.tolist() == [6]
    with (folder / name).open("wb") as file:
        np.savez(file, frames=np.zeros(3))
    assert open_video(tmp_path / "a.npz", **options).lengths.tolist() == [6]


PASSING = [PermissionError(13, "Permission denied"), BlockingIOError(11, "locked"), OSError(24, "Too many open files")]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: error.strerror)
@pytest.mark.parametrize("ending", [".mp4", ".npz", ".hdf5"])
@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_errors_that_pass_are_neither_remembered_nor_called_corrupt(
    write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch, error: OSError, ending: str, skip_corrupt: bool
) -> None:
    import zipfile

    import h5py

    write_video("v/good.mp4", size=(16, 16))
    bad = write_video("v/bad.mp4", size=(16, 16)).with_suffix(ending)
    if ending != ".mp4":
        bad.with_suffix(".mp4").unlink()
    if ending == ".npz":
        np.savez(bad, observation=np.zeros((6, 3, 16, 16), np.uint8))
    elif ending == ".hdf5":
        with h5py.File(bad, "w") as file:
            file["observation"] = np.zeros((6, 3, 16, 16), np.uint8)
            file["step_type"] = np.array([0, 1, 1, 1, 1, 2])
    module, name = {".mp4": (av, "open"), ".npz": (zipfile, "ZipFile"), ".hdf5": (h5py, "File")}[ending]
    opened = getattr(module, name)

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if "bad" in str(path):
            raise error
        return opened(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, refuse)
        message = rf"bad{ending} can't be read now.*{error.strerror}.*it may be whole"
        with pytest.raises(OSError, match=message) as caught:
            open_video(bad.parent, skip_corrupt=skip_corrupt, **SMALL)
    assert "corrupt" not in str(caught.value) and caught.value.errno == error.errno
    assert open_video(bad.parent, skip_corrupt=skip_corrupt, **SMALL).num_episodes == 2


def test_a_video_without_a_decoder_is_read_once_there_is_one(
    write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video("v/a.mp4")
    bad = write_video("v/b.mp4")
    whole = bad.read_bytes()
    at = whole.index(b"avc1", whole.index(b"stsd"))
    bad.write_bytes(whole[:at] + b"zzzz" + whole[at + 4 :])
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"b\.mp4: no decoder for it is installed"):
            assert open_video(bad.parent, skip_corrupt=True, **SMALL).num_episodes == 1
    opened = av.open
    (bad.parent.parent / "whole.mp4").write_bytes(whole)
    monkeypatch.setattr(
        av, "open", lambda path, **options: opened(str(path).replace("v/b.mp4", "whole.mp4"), **options)
    )
    assert open_video(bad.parent, skip_corrupt=True, **SMALL).num_episodes == 2, "the other decoder reads the file"


def test_linked_folders_are_read_once_and_cycles_end(write_video: WriteVideo, tmp_path: Path) -> None:
    write_video("v/a.mp4", frames=4)
    write_video("far/b.mp4", frames=5)
    write_video("far/deep/c.mp4", frames=6)
    (tmp_path / "v/link").symlink_to(tmp_path / "far")
    (tmp_path / "v/again").symlink_to(tmp_path / "far/deep")
    (tmp_path / "far/deep/up").symlink_to(tmp_path / "v")
    (tmp_path / "far/self").symlink_to(".")
    assert sorted(open_video(tmp_path / "v", **SMALL).lengths) == [4, 5, 6]
    write_video("far/deep/d.mp4", frames=7)
    assert sorted(open_video(tmp_path / "v", **SMALL).lengths) == [4, 5, 6, 7]


def test_a_link_to_nothing_is_named_and_read_once_it_leads_somewhere(write_video: WriteVideo, tmp_path: Path) -> None:
    write_video("v/a.mp4", frames=4)
    (tmp_path / "v/b.mp4").symlink_to("../far/b.mp4")
    (tmp_path / "v/folder").symlink_to("../nowhere")
    (tmp_path / "v/.hidden").symlink_to("../nowhere")
    with pytest.raises(ValueError, match=r"b\.mp4 can't be used: it is a link to \.\./far/b\.mp4, where nothing is"):
        open_video(tmp_path / "v", **SMALL)
    with pytest.warns(UserWarning, match=r"(?s)skipped 2 of 3 files:.*b\.mp4: it is a link.*folder: it is a link"):
        assert open_video(tmp_path / "v", skip_corrupt=True, **SMALL).lengths.tolist() == [4]
    write_video("far/b.mp4", frames=5)
    (tmp_path / "v/folder").unlink()
    assert open_video(tmp_path / "v", skip_corrupt=True, **SMALL).lengths.tolist() == [4, 5]


def test_a_folder_that_can_not_be_listed_is_named(
    write_video: WriteVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video("v/a.mp4")
    write_video("v/locked/b.mp4")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        with pytest.raises(OSError, match=r"the folder .*locked can't be read"):
            open_video(tmp_path / "v", skip_corrupt=True, **SMALL)
    assert open_video(tmp_path / "v", **SMALL).num_episodes == 2


def test_names_need_not_be_utf_8(write_video: WriteVideo, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    for ending in (".mp4", ".gif"):
        write_video(f"a{ending}", frames=4).rename(folder / f"a{ending}")
        write_video(f"a{ending}", frames=4).rename(folder / os.fsdecode(b"\xff" + ending.encode()))
    for _ in range(2):
        assert open_video(folder, mixed_sizes=True, **SMALL).lengths.tolist() == [4, 4, 4, 4]


def test_a_file_is_read_once_whatever_links_lead_to_it(write_video: WriteVideo, tmp_path: Path) -> None:
    write_video("v/b.mp4", frames=4)
    write_video("v/deep/c.mp4", frames=5)
    write_video("far/d.mp4", frames=6)
    for link, target in (("a.mp4", "b.mp4"), ("z.mkv", "b.mp4"), ("up.mp4", "deep/c.mp4"), ("1.mp4", "../far/d.mp4")):
        (tmp_path / "v" / link).symlink_to(target)
    (tmp_path / "v/2.mp4").symlink_to(tmp_path / "v/1.mp4")
    (tmp_path / "v/loop.mp4").symlink_to("loop.mp4")
    with pytest.raises(ValueError, match=r"loop\.mp4 can't be used: it is a link to loop\.mp4, where nothing is"):
        open_video(tmp_path / "v", **SMALL)
    (tmp_path / "v/loop.mp4").unlink()
    assert open_video(tmp_path / "v", **SMALL).lengths.tolist() == [6, 4, 5]
    again = [tmp_path / "v", tmp_path / "far", tmp_path / "v/a.mp4", tmp_path / "v/b.mp4"]
    assert sorted(open_video(again, **SMALL).lengths) == [4, 5, 6], "nor if a list names it again"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read, as they are."""
    names: list[str] = []
    read = Source.read

    def noting(source: Source, *arguments: Any) -> Any:
        names.append(source.path.name)
        return read(source, *arguments)

    monkeypatch.setattr(Source, "read", noting)
    return names


def stopped_at(number: int) -> Callable[[int, int, int], None]:
    """Ctrl-C in the middle of a file."""

    def progress(done: int, files: int, frames: int) -> None:
        if done == number:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("kind", ["stopped", "killed"])
def test_a_decoding_that_was_stopped_goes_on_after_the_files_that_it_had_finished(
    write_video: WriteVideo, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for number in range(4):
        write_video(f"v/{number}.mp4", frames=5 + number, detail=30)
    whole = open_video(tmp_path / "v", cache=tmp_path / "whole", **SMALL)
    decoded.clear()
    cache = tmp_path / "v" / ".rlrep-cache"
    monkeypatch.setattr(unfinished, "INTERVAL", 0.0)

    def progress(done: int, files: int, frames: int) -> None:
        if done == 2:
            (place,) = folders(cache, ".*.unfinished")
            shutil.copytree(place, tmp_path / place.name)  # what a kill would leave
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_video(tmp_path / "v", progress=progress, **SMALL)
    (place,) = folders(cache, ".*.unfinished")
    if kind == "killed":
        shutil.rmtree(place)
        shutil.move(tmp_path / place.name, place)
    data = open_video(tmp_path / "v", **SMALL)
    assert decoded == ["0.mp4", "1.mp4", "2.mp4", "2.mp4", "3.mp4"]
    assert data.lengths.tolist() == whole.lengths.tolist() and (data.frames == whole.frames).all()
    assert not folders(cache, ".*")


def test_what_was_decoded_is_used_as_far_as_files_and_options_are_the_same(
    write_video: WriteVideo, tmp_path: Path, decoded: list[str]
) -> None:
    for number in range(4):
        write_video(f"{number}.mp4", frames=5, size=(32, 32) if number < 3 else (48, 32))
    with pytest.raises(ValueError, match=r"different pictures .*3\.mp4 has 48x32; with mixed_sizes=True"):
        open_video(tmp_path, **SMALL)
    write_video("1.mp4", frames=7)
    decoded.clear()
    with pytest.raises(ValueError, match="different pictures"):
        open_video(tmp_path, **SMALL)
    assert decoded == ["1.mp4", "2.mp4", "3.mp4"]  # the first has not changed
    decoded.clear()
    assert open_video(tmp_path, mixed_sizes=True, **SMALL).lengths.tolist() == [5, 7, 5, 5]
    assert decoded == ["3.mp4"]
    decoded.clear()
    with pytest.raises(ValueError, match="different pictures"):  # the finished ones had permission
        open_video(tmp_path, **SMALL)
    assert decoded == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]


def test_skipped_files_and_remarks_are_not_forgotten_by_a_stop(
    write_video: WriteVideo, tmp_path: Path, decoded: list[str]
) -> None:
    (tmp_path / "0.mp4").write_bytes(b"no video")
    write_video("1.mp4", frames=5)
    write_video("2.mp4", frames=5)
    with pytest.raises(KeyboardInterrupt):
        open_video(tmp_path, skip_corrupt=True, progress=stopped_at(2), **SMALL)
    decoded.clear()
    with pytest.warns(UserWarning, match=r"skipped 1 of 3 files:\n.*0\.mp4"):
        data = open_video(tmp_path, skip_corrupt=True, **SMALL)
    assert decoded == ["2.mp4"] and data.lengths.tolist() == [5, 5] and len(data.skipped) == 1


def test_frames_that_changed_after_a_stop_are_decoded_again(
    write_video: WriteVideo, tmp_path: Path, decoded: list[str]
) -> None:
    for number in range(2):
        write_video(f"{number}.mp4", frames=5)
    with pytest.raises(KeyboardInterrupt):
        open_video(tmp_path, progress=stopped_at(1), **SMALL)
    (place,) = folders(tmp_path / ".rlrep-cache", ".*.unfinished")
    content = bytearray((place / "frames.npy").read_bytes())
    content[-1] ^= 1
    (place / "frames.npy").write_bytes(content)
    decoded.clear()
    data = open_video(tmp_path, **SMALL)
    assert decoded == ["0.mp4", "1.mp4"]
    np.testing.assert_allclose(greys(data), [20.0 * i for i in range(5)] * 2, atol=6)


def test_actions_outlive_a_stop(tmp_path: Path, decoded: list[str]) -> None:
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (3, 5, 2)).astype(np.float32)
    for number in range(3):
        frames = rng.integers(0, 256, (6, 16, 16, 3), np.uint8)
        np.savez(tmp_path / f"{number}.npz", observation=frames, action=actions[number])
    with pytest.raises(KeyboardInterrupt):
        open_video(tmp_path, actions=True, progress=stopped_at(2), **SMALL)
    decoded.clear()
    data = open_video(tmp_path, actions=True, **SMALL)
    assert decoded == ["2.npz"] and data.action is not None
    np.testing.assert_array_equal(data.action.reshape(3, 6, 2)[:, :5], actions)


@pytest.mark.parametrize("left", ["longer", "shorter", "empty"])
def test_actions_that_do_not_fit_the_notes_of_a_stop_do_not_stay(tmp_path: Path, left: str) -> None:
    """A kill between the two, or a full disk."""
    rng = np.random.default_rng(0)
    for number in range(3):
        frames = rng.integers(0, 256, (6, 16, 16, 3), np.uint8)
        np.savez(tmp_path / f"{number}.npz", observation=frames, action=np.full((5, 1), number, np.float32))
    with pytest.raises(KeyboardInterrupt):
        open_video(tmp_path, actions=True, progress=stopped_at(2), **SMALL)
    (place,) = folders(tmp_path / ".rlrep-cache", ".*.unfinished")
    action = np.load(place / "action.npy")
    if left == "empty":
        (place / "action.npy").write_bytes(b"")
    else:
        np.save(place / "action.npy", np.concatenate([action, action]) if left == "longer" else action[:-1])
    data = open_video(tmp_path, actions=True, **SMALL)
    assert data.action is not None
    np.testing.assert_array_equal(data.action.reshape(3, 6)[:, :5], np.repeat([[0], [1], [2]], 5, 1))


@pytest.mark.parametrize("frames", [10, 16, 17])
def test_pictures_that_change_their_size_are_refused_wherever_they_do(write_video: WriteVideo, frames: int) -> None:
    """Pictures are handed on 16 at a time."""
    first, second = write_video("a.ts", frames=frames, step=10), write_video("b.ts", size=(64, 64))
    first.write_bytes(first.read_bytes() + second.read_bytes())
    second.unlink()
    with pytest.raises(ValueError, match=r"a\.ts can't be used: its pictures change from 32x32 to 64x64"):
        open_video(first, **SMALL)


@pytest.mark.parametrize("place", ["", "cache", "cache/frames"])
def test_a_cache_that_would_be_read_as_data_is_refused(write_video: WriteVideo, tmp_path: Path, place: str) -> None:
    write_video("v/a.mp4")
    with pytest.raises(ValueError, match=r"would be read as a part of it: name a folder elsewhere, or a hidden one"):
        open_video(tmp_path / "v", cache=tmp_path / "v" / place, **SMALL)
    open_video(tmp_path / "v", cache=tmp_path / "v/.cache" / place, **SMALL)
