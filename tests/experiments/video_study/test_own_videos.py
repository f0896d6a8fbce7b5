"""The study on a user's own videos: what is measured, kept and refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from rlrep import CURL, Objective
from rlrep.data import EpisodeDataset
from rlrep.experiments import video_theory
from rlrep.experiments.video_study import own_videos
from rlrep.experiments.video_study.domain import under_noise
from rlrep.experiments.video_study.own_videos import cut
from rlrep.experiments.video_study.pixels import Settings


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """One video of 260 frames, a square that wanders over a grey picture."""
    frames = np.full((260, 56, 56, 3), 90, np.uint8)
    for t, frame in enumerate(frames):
        frame[t % 40 : t % 40 + 12, 20:32] = (200, 40, 40)
    folder = tmp_path / "videos"
    folder.mkdir()
    np.savez(folder / "one.npz", frames=frames)
    return folder


def test_videos_are_measured_under_each_noise_and_once(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["--source", str(videos), "--quick", "--methods", "random", "curl", "--out", str(out)]
    assert video_theory.main(command) == 0
    files = sorted((out / "quick" / "videos").glob("*.json"))
    assert len(files) == 2 * 3
    rows = {path.stem: json.loads(path.read_text()) for path in files}
    assert rows["curl-none-seed0"]["noise_read"] is None and rows["curl-iid-seed0"]["noise_read"] <= 1
    assert all(1 <= row["effective_rank"] <= 128 for row in rows.values())
    assert "| CURL " in capsys.readouterr().out and len((out / "quick" / "videos.csv").read_text().splitlines()) == 7
    before = [path.stat().st_mtime_ns for path in files]
    assert video_theory.main(command) == 0
    assert [path.stat().st_mtime_ns for path in files] == before
    files[0].write_text(json.dumps(json.loads(files[0].read_text()) | {"source": "elsewhere"}))
    assert video_theory.main(command) == 1
    assert "is of other videos or sizes (source=elsewhere): choose another folder" in capsys.readouterr().err
    files[0].unlink()
    np.savez(videos / "one.npz", frames=255 - np.load(videos / "one.npz")["frames"])
    assert video_theory.main(command) == 1
    assert "is of other videos or sizes (checksum=" in capsys.readouterr().err


def test_videos_of_several_sizes_and_unusable_files_are_no_dead_end(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(videos / "small.npz", frames=np.full((120, 30, 40, 3), 90, np.uint8))
    (videos / "zzz.npz").write_bytes(b"no archive")
    command = ["--source", str(videos), "--quick", "--methods", "random", "--out", str(tmp_path / "out")]
    assert video_theory.main(command) == 1
    assert "zzz.npz" in (told := capsys.readouterr().err) and "; --skip-corrupt leaves" in told
    assert video_theory.main([*command, "--skip-corrupt"]) == 0
    with pytest.raises(SystemExit):
        video_theory.main(["--skip-corrupt", "--out", str(tmp_path / "out")])
    assert "give --source" in capsys.readouterr().err


def test_a_training_that_diverges_is_a_row_and_the_others_are_measured(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(objective: Objective, *_: object, **__: object) -> None:
        if isinstance(objective, CURL):
            raise FloatingPointError("the validation loss is nan")

    monkeypatch.setattr(own_videos, "pretrain", diverge)
    command = ["--source", str(videos), "--quick", "--methods", "curl", "autoencoder", "--out", str(tmp_path)]
    assert video_theory.main(command) == 0
    rows = [line.split("|")[1:-1] for line in (tmp_path / "quick" / "videos.md").read_text().splitlines()[2:8]]
    found = {(method.strip(), content.strip() == "", seeds.strip()) for method, _, content, *_, seeds in rows}
    assert found == {("CURL", True, "1, 1 diverged"), ("autoencoder", False, "1")}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("inverse_model", "inverse_model reads actions, which --source lacks"),
        ("supervised", "supervised reads labels of the state, which --source lacks"),
        ("sepclr", "sepclr reads video and its background, which --source lacks"),
        ("temporal", "unknown method 'temporal'"),
    ],
)
def test_methods_that_read_more_than_videos_are_refused_before_anything_runs(
    method: str, message: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert video_theory.main(["--source", str(videos), "--methods", method, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "out" / "videos").exists()


def test_a_missing_source_and_a_study_beside_one_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert video_theory.main(["--source", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    assert "none" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        video_theory.main(["core", "--source", str(tmp_path), "--out", str(tmp_path / "out")])
    assert "--source takes no studies" in capsys.readouterr().err


def test_long_videos_are_cut_into_clips() -> None:
    frames = np.arange(250, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 8, 8), np.uint8)
    clips = cut(EpisodeDataset(frames, [230, 20]), Settings(frames=240))
    assert clips.lengths.tolist() == [115, 115, 20] and (clips.frames == frames).all()
    assert cut(EpisodeDataset(frames, [230, 20]), Settings(frames=150)).lengths.tolist() == [115, 115]
    # No clip is a rest of a few frames, which alone would be held out.
    assert cut(EpisodeDataset(frames, [201, 2, 47]), Settings()).lengths.tolist() == [101, 100, 47]
    with pytest.raises(ValueError, match="90 frames, which are less than two clips"):
        cut(EpisodeDataset(frames[:90], [90]), Settings())


def test_noise_on_frames_is_the_noise_alone_where_it_lies() -> None:
    lengths, noise = np.array([3, 5]), {"num_shapes": 2, "size": 0.4}
    grey, black = np.full((8, 3, 16, 16), 90, np.uint8), np.zeros((8, 3, 16, 16), np.uint8)
    on_grey, alone = under_noise(grey, lengths, noise, 0), under_noise(black, lengths, noise, 0)
    covered = (alone > 0).any(1, keepdims=True)
    assert 0.1 < covered.mean() < 0.6 and (on_grey == np.where(covered, alone, grey)).all()
