"""Minari data sets, read and written without Minari, compared with what Minari itself writes and reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from rlrep.data import Provenance, TransitionFiles, open_dataset, open_video, write_transitions
from tests.rlrep.data.arrow_files import read_columns, write_arrow, write_columns
from tests.rlrep.data.formats.numbered import SMALL, numbered, numbers
from tests.rlrep.data.transition_files import assert_equal, episodes


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
@pytest.mark.parametrize("keyed", [False, True])
def test_a_minari_data_set_is_read_by_folder_and_by_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyed: bool
) -> None:
    import minari
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    pictures = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    episodes = []
    for number, length in enumerate((5, 4)):
        seen = list(numbered(length, 10 * number).transpose(0, 2, 3, 1))
        taken = np.arange(length - 1) + 10 * number
        observations: Any = {"image": seen, "goal": [np.zeros(2, np.float32)] * length} if keyed else seen
        zeros = [0.0] * (length - 1)
        episodes.append(
            EpisodeBuffer(
                id=number,
                observations=observations,
                actions=list(taken),
                rewards=zeros,
                terminations=[False] * (length - 1),
                truncations=[False] * (length - 2) + [True],
            )
        )
    space = spaces.Dict(image=pictures, goal=spaces.Box(-1, 1, (2,), np.float32)) if keyed else pictures
    minari.create_dataset_from_buffers(
        "test/small-v0",
        episodes,
        observation_space=space,
        action_space=spaces.Discrete(30),
        data_format="hdf5",
        jpeg_encoding=False,
    )
    data = open_video("test/small-v0", actions=True, **SMALL)
    assert data.lengths.tolist() == [5, 4]
    assert numbers(data) == [0, 1, 2, 3, 4, 10, 11, 12, 13]
    batch = data.sample(20)
    assert (batch["action"] == batch["observation"][:, 0, 0, 0].long()).all()
    assert numbers(open_video(tmp_path / "minari/test/small-v0", **SMALL)) == numbers(data)
    with pytest.raises(FileNotFoundError, match=r"minari download test/other-v0"):
        open_video("test/other-v0", **SMALL)


def write_minari(folder: Path, seen: np.ndarray, action: np.ndarray, space: spaces.Box) -> Path:
    """A data set of one episode, as Minari writes it."""
    from minari.serialization import serialize_space

    steps = len(action)
    (folder / "data").mkdir(parents=True)
    with h5py.File(folder / "data/main_data.hdf5", "w") as file:
        group = file.create_group("episode_0")
        group.attrs.update({"id": 0, "total_steps": steps})
        ends = np.arange(steps) == steps - 1
        arrays = {"observations": seen, "actions": action, "rewards": np.zeros(steps), "terminations": ends & False}
        for name, array in (arrays | {"truncations": ends}).items():
            group[name] = array
    pictures = spaces.Box(0, 255, seen.shape[1:], np.uint8)
    about = {"observation_space": serialize_space(pictures), "action_space": serialize_space(space)}
    about |= {"data_format": "hdf5", "total_episodes": 1, "total_steps": steps}
    (folder / "data/metadata.json").write_text(json.dumps(about))
    return folder


def test_actions_are_normalized_by_the_bounds_of_their_space(tmp_path: Path) -> None:
    seen = numbered(9, 0).transpose(0, 2, 3, 1)
    low, high = np.array([-0.4, 0.0], np.float32), np.array([0.4, 1.0], np.float32)
    action = np.random.default_rng(0).uniform(low, high, (8, 2)).astype(np.float32)
    folder = write_minari(tmp_path / "set-v0", seen, action, spaces.Box(low, high))
    data = open_dataset(folder, cache=tmp_path / "cache", frame_stack=1, n_step=1)
    assert data.action_scale is not None
    batch = data.sample(8)["action"].numpy()
    assert batch.min() < -0.5 and batch.max() > 0.5
    restored = data.action_scale.restored(batch)
    nearest = abs(restored[:, None] - action).max(2).min(1)
    np.testing.assert_allclose(nearest, 0, atol=1e-6)
    usual = write_minari(tmp_path / "usual-v0", seen, action, spaces.Box(-1, 1, (2,)))
    assert open_dataset(usual, cache=tmp_path / "cache", frame_stack=1, n_step=1).action_scale is None
    outside = write_minari(tmp_path / "outside-v0", seen, 2 * action, spaces.Box(low, high))
    with pytest.raises(ValueError, match="beyond its bounds in its action space"):
        open_dataset(outside, cache=tmp_path / "cache", frame_stack=1, n_step=1)


def test_grey_pictures_have_one_channel(tmp_path: Path) -> None:
    seen = numbered(9, 0)[:, 0]
    action = np.zeros((8, 2), np.float32)
    folder = write_minari(tmp_path / "grey-v0", seen, action, spaces.Box(-1, 1, (2,)))
    data = open_video(folder, **SMALL)
    assert data.frames.shape == (9, 1, 8, 8) and numbers(data) == list(range(9))


def test_minari_files_are_those_of_minari(tmp_path: Path) -> None:
    import minari

    for discrete in (False, True):
        written = episodes(discrete)
        choices = 4 if discrete else None
        write_transitions(written, tmp_path / f"{discrete}", Provenance(num_actions=choices), format="minari")
        data = minari.MinariDataset(tmp_path / f"{discrete}/data")
        assert (data.total_episodes, data.total_steps) == (4, sum(map(len, written)))
        assert data.observation_space.shape == (3, 8, 8)
        for found, expected in zip(data.iterate_episodes(), written, strict=True):
            np.testing.assert_array_equal(found.observations, expected.frames)
            np.testing.assert_array_equal(found.actions, expected.action)
            np.testing.assert_array_equal(found.rewards, expected.reward)
            assert found.terminations.tolist() == [False] * (len(expected) - 1) + [expected.terminated]
            assert found.truncations.tolist() == [False] * (len(expected) - 1) + [not expected.terminated]
            assert data.action_space.contains(found.actions[0])


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("jpeg", [False, True])
@pytest.mark.parametrize(
    "action_space", [spaces.Box(-1, 1, (2,), np.float32), spaces.Box(-1, 1, (), np.float32), spaces.Discrete(5)]
)
def test_arrow_is_read_as_hdf5_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyed: bool, jpeg: bool, action_space: spaces.Space[Any]
) -> None:
    import minari
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    size = 32 if jpeg else 8  # Minari leaves smaller pictures as they are
    pictures = spaces.Box(0, 255, (size, size, 3), np.uint8)
    space = spaces.Dict(image=pictures, goal=spaces.Box(-1, 1, (2,), np.float32)) if keyed else pictures
    rng = np.random.default_rng(0)
    action_space.seed(0)
    buffers = []
    for number, steps in enumerate((6, 1, 20)):
        seen = list(rng.integers(0, 256, (steps + 1, size, size, 3), np.uint8))
        last = [False] * (steps - 1)
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations={"image": seen, "goal": [np.zeros(2, np.float32)] * (steps + 1)} if keyed else seen,
                actions=[action_space.sample() for _ in range(steps)],
                rewards=list(rng.normal(size=steps)),
                terminations=[*last, number == 1],
                truncations=[*last, number != 1],
                infos={"position": list(rng.normal(size=(steps + 1, 3))), "name": ["a"] * (steps + 1)},
            )
        )
    read = {}
    for format in ("hdf5", "arrow"):
        minari.create_dataset_from_buffers(
            f"test/{format}-v0",
            buffers,
            observation_space=space,
            action_space=action_space,
            data_format=format,
            jpeg_encoding=jpeg,
        )
        read[format] = list(TransitionFiles(f"test/{format}-v0"))
        data = open_video(f"test/{format}-v0", actions=True, **SMALL)
        read[format + " video"] = [np.asarray(data.frames), data.lengths]
    for found, expected in zip(read["arrow"], read["hdf5"], strict=True):
        assert_equal(found, expected)
    for found, expected in zip(read["arrow video"], read["hdf5 video"], strict=True):
        np.testing.assert_array_equal(found, expected)


def cut_group(folder: Path, number: int, **kept: int) -> None:
    """Keeps the given number of rows of each named array; -1 removes the array."""
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        group = file[f"episode_{number}"]
        for name, rows in kept.items():
            array = group[name][: max(rows, 0)]
            del group[name]
            if rows >= 0:
                group[name] = array


def test_incomplete_episodes_are_left_out_and_reported(tmp_path: Path) -> None:
    whole = episodes()
    write_transitions(whole, tmp_path / "data", format="minari")
    cut_group(tmp_path / "data", 0, observations=1, actions=0, rewards=0, terminations=0, truncations=0)
    cut_group(tmp_path / "data", 2, actions=5, rewards=-1)
    with pytest.warns(UserWarning, match="only whole episodes are kept, without 2 incomplete episodes") as caught:
        found = list(TransitionFiles(tmp_path / "data"))
    assert "episode 0 has 1 pictures, 0 actions" in str(caught[0].message)
    assert "episode 2 has 10 pictures, 5 actions, 0 rewards, 9 terminations" in str(caught[0].message)
    for one, expected in zip(found, (whole[1], whole[3]), strict=True):
        assert_equal(one, expected)
    with pytest.warns(UserWarning, match="without 2 incomplete episodes"):
        assert open_dataset(tmp_path / "data").episode_lengths.tolist() == [4, 5]
    with pytest.warns(UserWarning, match="left out 1 incomplete episode "):
        assert open_video(tmp_path / "data", actions=True, **SMALL).lengths.tolist() == [1, 5, 6]
    assert open_video(tmp_path / "data", **SMALL).lengths.tolist() == [1, 5, 10, 6]
    for number in (1, 3):
        cut_group(tmp_path / "data", number, observations=3)
    with pytest.raises(ValueError, match="holds no whole episode, only 4 incomplete episodes"):
        list(TransitionFiles(tmp_path / "data"))


def test_episodes_without_a_step_in_arrow_are_left_out_and_reported(tmp_path: Path) -> None:
    write_arrow(episodes(), tmp_path / "data")
    for number, rows in ((1, 1), (3, 0)):
        path = tmp_path / f"data/data/{number}/part-0.arrow"
        write_columns({name: each.slice(0, rows) for name, each in read_columns(path).items()}, path)
    with pytest.warns(UserWarning, match=r"without 2 incomplete episodes \(episode 1 has 1 pictures, 0 actions"):
        assert [len(one) for one in TransitionFiles(tmp_path / "data")] == [7, 9]
    with pytest.warns(UserWarning, match=r"left out 1 incomplete episode \(episode 3 has 0 pictures\)"):
        assert open_video(tmp_path / "data", **SMALL).lengths.tolist() == [8, 1, 10]


def test_a_group_in_place_of_pictures_is_named(tmp_path: Path) -> None:
    write_transitions(episodes(), tmp_path / "data", format="minari")
    with h5py.File(tmp_path / "data/data/main_data.hdf5", "a") as file:
        del file["episode_0/observations"]
        file["episode_0/observations"] = file["episode_0"]  # a link in a circle
    for reader in (lambda path: list(TransitionFiles(path)), lambda path: open_video(path, **SMALL)):
        with pytest.raises(ValueError, match="its observations is a group of arrays"):
            reader(tmp_path / "data")


@pytest.mark.parametrize("count", [-1, 0, True, 10**400])
def test_impossible_numbers_of_choices_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="num_actions of a data set's provenance can't be"):
        Provenance(num_actions=count)
