"""Folders of numbered pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rlrep.data import open_dataset, open_video
from tests.rlrep.data.formats.numbered import SMALL, numbered, numbers


def write(folder: Path, first: int = 0, ending: str = "png", grey: bool = False, action: Any = None) -> Path:
    """Writes eleven pictures from frame_5 to frame_15: sorted as text, the last ones come first."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(numbered(11, first)):
        Image.fromarray(frame[0] if grey else frame.transpose(1, 2, 0)).save(folder / f"frame_{number + 5}.{ending}")
    if action is not None:
        np.save(folder / "actions.npy", action, allow_pickle=True)
    return folder


@pytest.mark.parametrize("ending", ["png", "jpg", "JPEG"])
@pytest.mark.parametrize("grey", [False, True])
def test_a_folder_of_pictures_is_an_episode(tmp_path: Path, ending: str, grey: bool) -> None:
    write(tmp_path / "all/b", 20, ending, grey)
    write(tmp_path / "all/a", 0, ending, grey)
    (tmp_path / "all/cover.png").touch()  # beside the episodes, not in one
    data = open_video(tmp_path / "all", **SMALL)
    assert data.frames.shape[1] == (1 if grey else 3)
    np.testing.assert_allclose(numbers(data), [*range(11), *range(20, 31)], atol=1)  # JPEG is not exact
    assert open_video(tmp_path / "all/a", **SMALL).lengths.tolist() == [11]


def test_pictures_are_upright_by_their_exif_orientation(tmp_path: Path) -> None:
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:, :8] = 200
    lying = Image.Exif()
    lying[0x0112] = 6  # to be turned clockwise
    Image.fromarray(upright).save(tmp_path / "frame_1.png")
    Image.fromarray(np.rot90(upright)).save(tmp_path / "frame_2.png", exif=lying)
    Image.fromarray(upright).save(tmp_path / "frame_3.png")
    data = open_video(tmp_path, image_size=8, frame_stack=1, max_gap=1)
    assert data.lengths.tolist() == [3] and (data.frames[1] == data.frames[0]).all()
    assert len(np.unique(data.frames[0])) > 1


@pytest.mark.parametrize("rows", [10, 11])
def test_actions_are_those_taken_at_their_pictures(tmp_path: Path, rows: int) -> None:
    write(tmp_path / "a", 1, action=np.arange(1, rows + 1))
    batch = open_video(tmp_path / "a", actions=True, **SMALL).sample(20)
    assert (batch["action"] == batch["observation"][:, 0, 0, 0].long()).all()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "frame_7.png").unlink(), "between frame_6.png and frame_8.png are missing"),
        (lambda folder: (folder / "frame_05.png").write_bytes(b""), r"frame_05\.png and frame_5\.png have one number"),
        (lambda folder: (folder / "frame_6.png").write_bytes(b"GIF89a"), "it is corrupt or truncated"),
        (lambda folder: os.truncate(folder / "frame_6.png", 40), "it is corrupt or truncated"),
        (lambda folder: Image.new("RGB", (9, 8)).save(folder / "frame_6.png"), "alike, got 8x8 RGB and 9x8 RGB"),
        (lambda folder: Image.new("RGBA", (8, 8)).save(folder / "frame_6.png"), "alike, got 8x8 RGB and 8x8 RGBA"),
        (lambda folder: Image.new("L", (9000, 9000)).save(folder / "frame_5.png"), "would unpack to 1296 MB"),
        (lambda folder: (folder / "actions.npy").write_bytes(b"\x93NUMPY\x01\0" + b"[" * 99), "corrupt"),
        (lambda folder: np.save(folder / "actions.npy", np.array([{}] * 10), allow_pickle=True), "pickled objects"),
        (lambda folder: np.save(folder / "actions.npy", np.zeros(4)), "for each of 11 frames or one fewer"),
        (lambda folder: ((folder / "frame_6.png").unlink(), os.mkfifo(folder / "frame_6.png")), "not a regular file"),
        (lambda folder: os.mkfifo(folder / "actions.npy"), "not a regular file"),
        (lambda folder: (folder / "actions.npy").symlink_to("none.npy"), "a file is missing"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path, harm: Any, message: str) -> None:
    harm(write(tmp_path / "a"))
    with pytest.raises(ValueError, match=rf"a can't be used: .*{message}"):
        open_video(tmp_path / "a", actions=True, **SMALL)


@pytest.mark.parametrize("name", ["cover.png", "thumb.jpg", "clip.mp4", "masks/0001.png"])
def test_a_file_among_the_pictures_is_named_and_takes_no_episode_away_in_silence(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b", 20)
    (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "a" / name).touch()
    wrong = name.split("/")[0]
    with pytest.raises(ValueError, match=rf"a can't be used: {wrong} is not one of the numbered pictures: move it"):
        open_video(tmp_path, **SMALL)
    with pytest.warns(UserWarning, match=wrong):
        data = open_video(tmp_path, skip_corrupt=True, **SMALL)
    np.testing.assert_array_equal(numbers(data), range(20, 31))
    assert [wrong in reason for reason in data.skipped.values()] == [True]


def test_previews_beside_videos_or_episodes_are_no_episode(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / name)
    for number in range(3):
        (tmp_path / f"preview_{number}.png").touch()
    assert open_video(tmp_path, **SMALL).lengths.tolist() == [11, 11]


def test_notes_among_the_pictures_are_passed_over(tmp_path: Path) -> None:
    for folder, name in enumerate(("readme.txt", "Meta.JSON", ".DS_Store")):
        (write(tmp_path / str(folder)) / name).touch()
    assert open_video(tmp_path, **SMALL).lengths.tolist() == [11, 11, 11]


def test_pictures_without_numbers_are_no_episode(tmp_path: Path) -> None:
    for path in write(tmp_path / "a").iterdir():
        path.rename(path.with_stem(path.stem.translate(str.maketrans("0123456789", "abcdefghij"))))
    with pytest.raises(ValueError, match=r"holds no videos or episode files.*it holds \.png"):
        open_video(tmp_path, **SMALL)
    with pytest.raises(ValueError, match="it holds no actions and no rewards: open_video is for such files"):
        open_dataset(write(tmp_path / "c"))
