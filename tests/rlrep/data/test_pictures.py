"""Which axis of pictures holds their channels, and which channels are the newest frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlrep.data import open_dataset, open_video
from rlrep.data.pictures import Layout, newest_frames
from rlrep.data.reading import Unreadable


def stacks(frames: int, stack: int, channels: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Stacks of moving pictures, (T, stack · C, H, W), and their newest frames."""
    rng = np.random.default_rng(0)
    newest = rng.integers(0, 256, (frames, channels, height, width), np.uint8)
    rows = np.maximum(np.arange(frames)[:, None] - np.arange(stack)[::-1], 0)
    return newest[rows].reshape(frames, -1, height, width), newest


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(48, 48), (12, 12), (20, 24), (24, 20), (36, 64), (84, 84), (96, 96)])
@pytest.mark.parametrize(("stack", "channels"), [(1, 1), (1, 3), (2, 3), (3, 3)])
def test_the_smallest_axis_holds_the_channels(
    size: tuple[int, int], stack: int, channels: int, channels_last: bool
) -> None:
    pictures, newest = stacks(6, stack, channels, *size)
    if channels_last:
        pictures = np.moveaxis(pictures, 1, 3)
    np.testing.assert_array_equal(newest_frames(pictures), newest)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("stack", [2, 3, 4, 6, 12])
@pytest.mark.parametrize("moving_from", [0, 12])
def test_stacks_of_grey_frames_are_read_only_as_such(stack: int, channels_last: bool, moving_from: int) -> None:
    pictures, newest = stacks(20, stack, 1, 20, 24)
    pictures[:moving_from], newest[:moving_from] = pictures[moving_from], newest[moving_from]
    if channels_last:
        pictures = np.moveaxis(pictures, 1, 3)
    with pytest.raises(Unreadable, match="frame_channels=1"):
        newest_frames(pictures)
    np.testing.assert_array_equal(newest_frames(pictures, Layout(frame_channels=1)), newest)


def test_still_pictures_and_grey_values_are_not_taken_for_stacks() -> None:
    still = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 3, 20, 24), np.uint8), 20, 0)
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (20, 1, 20, 24), np.uint8), 3, 1)
    black_then_blue = np.zeros((20, 3, 20, 24), np.uint8)
    black_then_blue[-1, 2] = 200
    for pictures in (still, grey, black_then_blue, np.zeros((20, 3, 20, 24), np.uint8)):
        np.testing.assert_array_equal(newest_frames(pictures), pictures)


@pytest.mark.parametrize("shape", [(9, 9, 9), (3, 8, 3), (48, 48, 48), (36, 40, 36), (1, 7, 1)])
def test_a_shape_that_can_be_read_in_two_ways_needs_to_be_told(shape: tuple[int, ...]) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    with pytest.raises(Unreadable, match="channels_last=True or False"):
        newest_frames(pictures)
    first, _, last = shape
    for channels_last, channels in ((True, last), (False, first)):
        frames = newest_frames(pictures, Layout(channels_last))
        moved = np.moveaxis(pictures, 3, 1) if channels_last else pictures
        np.testing.assert_array_equal(frames, moved[:, -(1 if channels == 1 else 3) :])


def test_where_no_axis_is_the_smallest_the_only_one_that_can_holds_the_channels() -> None:
    for shape in [(9, 8, 8), (9, 4, 4), (48, 40, 40)]:
        first = np.zeros((2, *shape), np.uint8)
        assert newest_frames(first).shape == (2, 3, *shape[1:])
        assert newest_frames(np.moveaxis(first, 1, 3)).shape == (2, 3, *shape[1:])


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (np.zeros((2, 20, 24, 3), np.float32), "must be uint8 .* got float32"),
        (np.zeros((2, 20, 24, 4), np.uint8), "of RGBA leave the alpha channel out"),
        (np.zeros((2, 20, 24), np.uint8), r"got uint8 of shape \(2, 20, 24\)"),
        (np.zeros((2, 20, 24, 51), np.uint8), "20 channels, which could be 20 grey frames"),
        ((np.zeros((2, 20, 24, 3), np.uint8),) * 2, "got a tuple"),
    ],
    ids=["float", "RGBA", "grey without an axis", "too many", "tuple"],
)
def test_other_pictures_are_refused_with_the_reason_alone(pictures: Any, message: str) -> None:
    with pytest.raises(Unreadable, match=message) as caught:
        newest_frames(pictures)
    assert "corrupt" not in str(caught.value)


def test_any_channels_can_be_kept_together() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 20, 24, 8), np.uint8)
    frames = newest_frames(pictures, Layout(frame_channels=4))
    np.testing.assert_array_equal(frames, np.moveaxis(pictures, 3, 1)[:, 4:])
    with pytest.raises(Unreadable, match="frame_channels=3 does not divide"):
        newest_frames(pictures, Layout(frame_channels=3))
    with pytest.raises(ValueError, match="frame_channels must be at least 1"):
        Layout(frame_channels=0)


def write(path: Path, pictures: np.ndarray) -> Path:
    steps = len(pictures)
    arrays = dict(
        observation=pictures,
        action=np.zeros((steps, 2), np.float32),
        reward=np.zeros(steps, np.float32),
        discount=np.ones(steps, np.float32),
    )
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        import h5py

        step_type = np.ones(steps, np.int64)
        step_type[0], step_type[-1] = 0, 2
        with h5py.File(path, "w") as file:
            for name, array in (arrays | {"step_type": step_type}).items():
                file.create_dataset(name, data=array, chunks=(7, *array.shape[1:]))
    return path


@pytest.mark.parametrize("ending", [".npz", ".hdf5"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("stack", "channels", "options"),
    [(3, 3, {}), (4, 1, {"frame_channels": 1}), (3, 1, {"frame_channels": 1}), (1, 3, {"channels_last": None})],
)
def test_every_reader_decides_alike(
    tmp_path: Path, ending: str, channels_last: bool, stack: int, channels: int, options: dict[str, Any]
) -> None:
    pictures, newest = stacks(20, stack, channels, 48, 48)
    path = write(tmp_path / f"a{ending}", np.moveaxis(pictures, 1, 3) if channels_last else pictures)
    video = open_video(path, image_size=48, frame_stack=1, **options)
    np.testing.assert_array_equal(video.frames, newest)
    np.testing.assert_array_equal(open_dataset(path, **options).frames[0].numpy(), newest)
    if options.get("frame_channels"):
        for opener in (open_video, open_dataset):
            with pytest.raises(ValueError, match=r"a\.\w+ can't be used: (?!it is corrupt).*frame_channels=1"):
                opener(path, cache=tmp_path / "other")


@pytest.mark.parametrize("ending", [".npz", ".hdf5"])
def test_an_ambiguous_file_is_read_as_it_is_said_to_be(tmp_path: Path, ending: str) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 12), np.uint8)
    path = write(tmp_path / f"a{ending}", pictures)
    with pytest.raises(ValueError, match="channels_last"):
        open_video(path, image_size=12)
    for channels_last in (True, False):
        data = open_video(path, image_size=12, frame_stack=1, channels_last=channels_last)
        moved = np.moveaxis(pictures, 3, 1) if channels_last else pictures
        np.testing.assert_array_equal(data.frames, moved[:, -3:])
