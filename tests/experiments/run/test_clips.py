"""How the commands read videos for the background of environments."""

import pickle
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from rlrep.envs import make_env
from rlrep.experiments.run import sections
from rlrep.experiments.run.clips import read_clips
from rlrep.experiments.run.options import ConfigError, defaults


def write(path: Path, shade: int, length: int = 6, side: int = 32, rate: int = 10) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        for _ in range(length):
            picture = np.full((side, side, 3), shade, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder with two videos of different lengths, sizes and rates."""
    (tmp_path / "videos" / "more").mkdir(parents=True)
    write(tmp_path / "videos" / "dark.mp4", shade=50)
    write(tmp_path / "videos" / "more" / "bright.mp4", shade=200, length=4, side=64, rate=25)
    return tmp_path / "videos"


def test_videos_of_any_size_and_rate_are_read_at_the_size_of_the_frames(videos: Path) -> None:
    clips = pickle.loads(pickle.dumps(read_clips(str(videos), 20)))  # as for an environment's process
    shades = sorted((len(clip.frames()), int(clip.frames().mean())) for clip in clips)
    assert all(clip.frames().shape[1:] == (3, 20, 20) for clip in clips)
    np.testing.assert_allclose(shades, [(4, 200), (6, 50)], atol=3)
    assert read_clips(str(videos), 20) == clips and len(read_clips(str(videos / "dark.mp4"), 20)) == 1


def test_they_are_the_background_of_a_configurations_environments(videos: Path) -> None:
    plain = sections.NoiseConfig(**defaults(sections.NoiseConfig))
    assert plain.options(20) is None
    config = replace(plain, kind="video", videos=str(videos), strength=1.0)
    with closing(make_env("cartpole_balance", seed=0, image_size=20, noise=config.options(20))) as env:
        background = env.reset()[0][:, :3, :3]
    assert len(np.unique(background)) == 1 and min(abs(int(background[0, 0, 0]) - shade) for shade in (50, 200)) < 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "needs videos for the background: give noise.videos=FOLDER"),
        ("none", "noise.videos=.*none: there is no file or folder"),
        ("empty", "empty holds no videos or episode files"),
        ("notes.txt", "does not end like a file that can be read"),
        ("videos", r"noise.videos=.*videos/a.mp4 can't be used: it is corrupt or truncated"),
    ],
)
def test_what_is_no_video_is_refused_with_its_name(videos: Path, name: str | None, message: str) -> None:
    folder = videos.parent
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("to do")
    (videos / "a.mp4").write_bytes(b"")
    with pytest.raises(ConfigError, match=message) as refused:
        read_clips(None if name is None else str(folder / name), 20)
    assert "skip_corrupt" not in str(refused.value)


def test_videos_in_a_folder_that_cannot_be_written_are_read_through_links(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != videos)
    with pytest.raises(ConfigError, match="can't be written: make a folder of links to them"):
        read_clips(str(videos), 20)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "videos").symlink_to(videos)
    assert len(read_clips(str(tmp_path / "links"), 20)) == 2
