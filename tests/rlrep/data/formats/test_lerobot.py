"""LeRobot data sets of version 3.0."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rlrep import Window
from rlrep.data import EpisodeDataset, open_dataset, open_video
from rlrep.data.formats import make_format
from rlrep.data.formats.lerobot import LeRobot
from tests.rlrep.data.lerobot_files import (
    FPS,
    HIGH,
    LENGTHS,
    LOW,
    SIZE,
    STEP,
    TOP,
    WRIST,
    actions,
    change_json,
    change_table,
    write_lerobot,
)

DATA, LISTED = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
INFO, STATS = "meta/info.json", "meta/stats.json"
SMALL: dict[str, Any] = dict(image_size=SIZE, frame_stack=1, max_gap=2)
BC: dict[str, Any] = dict(frame_stack=1, format=LeRobot(TOP))


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two cameras that no test changes."""
    return write_lerobot(tmp_path_factory.mktemp("lerobot") / "robot")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of one camera that no test changes."""
    return write_lerobot(tmp_path_factory.mktemp("lerobot") / "robot", cameras=(TOP,))


def shades(data: EpisodeDataset) -> np.ndarray:
    return data.frames[:, 0, SIZE // 2, SIZE // 2].astype(int)


def scaled() -> np.ndarray:
    """Scaled actions (T, 3) of all rows: from -1 to 1, and 0 in the dimension that never changes."""
    share = np.linspace(-1, 1, sum(LENGTHS))
    return np.stack([share, np.zeros_like(share), share], 1)


@pytest.mark.parametrize("kind", ["video", "image"])
def test_the_pictures_of_a_camera_are_those_of_its_episodes(tmp_path: Path, robot: Path, kind: str) -> None:
    folder = robot if kind == "video" else write_lerobot(tmp_path / "robot", kind)
    for number, camera in enumerate((TOP, WRIST)):
        data = open_video(folder, format=LeRobot(camera), cache=tmp_path / "cache", **SMALL)
        assert data.lengths.tolist() == list(LENGTHS)
        np.testing.assert_allclose(shades(data), STEP * np.arange(sum(LENGTHS)) + 3 * number, atol=2)


def test_actions_are_normalized_by_their_statistics(tmp_path: Path, robot: Path) -> None:
    data = open_video(robot, format=LeRobot(TOP), actions=True, cache=tmp_path, **SMALL)
    batch = data.sample(40)
    row = np.round(batch["observation"][:, 0, 9, 9].numpy() / STEP).astype(int)
    np.testing.assert_allclose(batch["action"], scaled()[row], atol=1e-6)


def test_behaviour_cloning_needs_no_rewards_and_others_are_refused(tmp_path: Path, robot: Path) -> None:
    data = open_dataset(robot, cache=tmp_path, **BC)
    assert data.episode_lengths.tolist() == list(LENGTHS)
    batch = data.sample(30, Window(actions=1))
    row = np.round(batch["observation"][:, 0, 9, 9].numpy() / STEP).astype(int)
    np.testing.assert_allclose(batch["action"], scaled()[row], atol=1e-6)
    assert ("next", "reward") not in data.sample(4).keys(True)
    with pytest.raises(ValueError, match="DrQV2 reads rewards, which these data lack"):
        data.check(Window(n_step=3), "DrQV2")


def test_the_inverse_of_the_normalization_is_kept(tmp_path: Path, robot: Path) -> None:
    for _ in range(2):  # the second time from the converted files
        scale = open_dataset(robot, cache=tmp_path, **BC).action_scale
        assert scale is not None
        np.testing.assert_allclose(scale.restored(scaled()), actions(), atol=1e-5)
        np.testing.assert_allclose(scale.restored(np.array([[-1, 0, -1], [1, 0, 1]])), [LOW, HIGH])


def test_rewards_and_ends_are_those_of_their_rows(tmp_path: Path) -> None:
    done = np.zeros(sum(LENGTHS), bool)
    done[LENGTHS[0] - 1] = True
    reward = np.arange(sum(LENGTHS), dtype=np.float32)
    write_lerobot(tmp_path / "robot", cameras=(TOP,), **{"next.reward": reward, "next.done": done})
    data = open_dataset(tmp_path / "robot", frame_stack=1, n_step=1)  # the only camera needs no name
    rewards = data.rows["reward"][0]
    last = np.cumsum(LENGTHS) + np.arange(len(LENGTHS))  # rows that hold the frame after the last action
    np.testing.assert_array_equal(np.delete(rewards, last), reward)
    assert np.flatnonzero(data.rows["terminated"][0]).tolist() == [LENGTHS[0] - 1]
    frames = np.asarray(data.frames[0])
    np.testing.assert_array_equal(frames[last], frames[last - 1])
    assert data.check(Window(n_step=3), "DrQV2") is None


def test_whole_episodes_are_brought_to_a_size(tmp_path: Path, robot: Path) -> None:
    data = open_dataset(
        robot, cache=tmp_path, frame_stack=1, format=make_format("lerobot", options={"camera": TOP, "image_size": 8})
    )
    assert data.observation_shape == (3, 8, 8)


def test_a_camera_is_named_where_there_are_several(robot: Path) -> None:
    with pytest.raises(ValueError, match=rf"several cameras, {TOP}, {WRIST}: name one.*format_options.camera={TOP}"):
        open_video(robot, **SMALL)
    with pytest.raises(ValueError, match=rf"has no camera front; its cameras: {TOP}, {WRIST}"):
        open_video(robot, format=LeRobot("front"), **SMALL)
    with pytest.raises(ValueError, match=r"unknown option of format lerobot: 'cam'.* did you mean camera"):
        make_format("lerobot", options={"cam": TOP})
    with pytest.raises(ValueError, match="unknown option of format npz: 'camera': known: none"):
        make_format("npz", options={"camera": TOP})


def test_several_files_are_one_data_set(tmp_path: Path, single: Path) -> None:
    folder = shutil.copytree(single, tmp_path / "robot")
    video = folder / f"videos/{TOP}/chunk-000/file-000.mp4"
    video.with_name("file-001.mp4").write_bytes(video.read_bytes())
    os.makedirs(folder / "data/chunk-007")
    (folder / "data/chunk-007/file-002.parquet").write_bytes((folder / DATA).read_bytes())
    places = {"data/chunk_index": [7, 0, 0], "data/file_index": [2, 0, 0], f"videos/{TOP}/file_index": [0, 0, 1]}
    change_table(folder / LISTED, **places)
    np.testing.assert_allclose(shades(open_video(folder, **SMALL)), STEP * np.arange(sum(LENGTHS)), atol=2)


def test_links_are_followed_into_the_blobs_of_the_hubs_cache_alone(tmp_path: Path, single: Path) -> None:
    folder = shutil.copytree(single, tmp_path / "hub/snapshots/1a2b")
    blob = tmp_path / "hub/blobs/3c4d"
    blob.parent.mkdir()
    (folder / DATA).rename(blob)
    (folder / DATA).symlink_to(blob)
    assert open_video(folder, **SMALL).num_episodes == 3
    (folder / DATA).unlink()
    blob.rename(tmp_path / "3c4d")
    (folder / DATA).symlink_to(tmp_path / "3c4d")
    with pytest.raises(ValueError, match="is a link to another place"):
        open_video(folder, cache=tmp_path / "cache", **SMALL)


def test_data_sets_of_other_bounds_are_not_one(tmp_path: Path, single: Path) -> None:
    for name, low in (("a", -3.0), ("b", -4.0)):
        folder = shutil.copytree(single, tmp_path / "all" / name)
        change_json(folder / STATS, action={"min": [low, 5, 0], "max": HIGH.tolist()})
    with pytest.raises(ValueError, match=r"normalized by different bounds.* keep each in a folder of its own"):
        open_dataset(tmp_path / "all", frame_stack=1)


def shift_times(folder: Path, seconds: float) -> None:
    starts = np.cumsum([0, *LENGTHS[:-1]]) / FPS
    change_table(folder / LISTED, **{f"videos/{TOP}/from_timestamp": starts + np.array([0, seconds, 0])})


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: change_json(folder / INFO, codebase_version="v2.1"), "version v2.1, and only v3.0 .* converts"),
        (lambda folder: change_json(folder / INFO, storage_format="lance"), "Lance"),
        (lambda folder: change_json(folder / INFO, features=[]), "has no features"),
        (lambda folder: change_json(folder / INFO, fps="10"), "how many frames a second"),
        (lambda folder: change_json(folder / INFO, total_episodes=4), "tells of 4 episodes, and .* lists 3"),
        (lambda folder: change_json(folder / INFO, data_path="../robot.parquet"), "only what is in its folder"),
        (lambda folder: change_json(folder / INFO, video_path="/dev/{video_key}"), "only what is in its folder"),
        (lambda folder: change_json(folder / INFO, data_path="{chunk_index.__class__:9999999999d}"), "is missing"),
        (lambda folder: (folder / INFO).write_text("{"), "corrupt"),
        (lambda folder: (folder / LISTED).unlink(), "no .parquet file"),
        (lambda folder: (folder / DATA).unlink(), "a file is missing"),
        (lambda folder: os.truncate(folder / DATA, 900), "begin and end with PAR1"),
        (lambda folder: os.truncate(folder / f"videos/{TOP}/chunk-000/file-000.mp4", 900), "corrupt or truncated"),
        (lambda folder: change_table(folder / DATA, timestamp=None), "must have one column timestamp, got 0"),
        (lambda folder: change_table(folder / DATA, index=np.arange(32) + 1), "must be rows 0 to 11, which are not"),
        (lambda folder: change_table(folder / LISTED, dataset_to_index=[1 << 40] * 3), "must be rows 0 to 10995116"),
        (lambda folder: change_table(folder / DATA, action=pa.array(["a"] * 32)), "its action must hold"),
        (lambda folder: change_table(folder / DATA, action=pa.array([[1.0, 5.0, None]] * 32)), "missing values"),
        (lambda folder: change_table(folder / DATA, action=pa.array([[1.0]] * 31 + [[]])), "lists of one length"),
        (lambda folder: change_json(folder / STATS, action={"min": [-1, 5, 0]}), "has no min and max"),
        (
            lambda folder: change_json(folder / STATS, action={"min": [0, 0], "max": [1, 1]}),
            "actions have 3 dimensions, and those of meta/stats.json 2",
        ),
        (
            lambda folder: change_json(folder / STATS, action={"min": [-1, 5, 0], "max": HIGH.tolist()}),
            "the action -3 in dimension 0, beyond its bounds in meta/stats.json, -1 and 3",
        ),
        (lambda folder: shift_times(folder, 60), "after the end of its video"),
        (lambda folder: shift_times(folder, -60), "episode 1 has no picture at -58.8, the nearest is at 0"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, single: Path, harm: Callable[[Path], object], message: str) -> None:
    folder = shutil.copytree(single, tmp_path / "robot")
    harm(folder)
    with pytest.raises(ValueError, match=f"{folder} .*({message})"):
        open_video(folder, actions=True, **SMALL)
