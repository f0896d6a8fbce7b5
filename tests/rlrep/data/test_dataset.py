"""Data sets of every format: round trips, samples, and what is refused."""

from __future__ import annotations

import os
import shutil
import time
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrep.data import (
    Provenance,
    TransitionFiles,
    cache,
    open_dataset,
    open_video,
    replay_files,
    transition_files,
    write_transitions,
)
from rlrep.replay import ReplayBuffer
from rlrep.window import Gap, Window
from tests.rlrep.data.transition_files import FORMATS, PROVENANCE, assert_equal, by_hand, episode, episodes, source_path

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")
OPTIONS: dict[str, Any] = dict(frame_stack=3, n_step=3, discount=0.9, horizon=4)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_a_round_trip_is_exact(tmp_path: Path, format: str, discrete: bool) -> None:
    provenance = Provenance(**(vars(PROVENANCE) | {"num_actions": 6 if discrete else None}))
    expected = episodes(discrete)
    write_transitions(iter(expected), tmp_path / "data", provenance, format=format)
    found = TransitionFiles(source_path(tmp_path / "data", format))
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)
    assert found.provenance == provenance
    assert found.skipped == {}


@pytest.mark.parametrize("format", FORMATS)
def test_samples_are_those_computed_by_hand(tmp_path: Path, format: str) -> None:
    sources = episodes()
    write_transitions(sources, tmp_path / "data", PROVENANCE, format=format)
    data = open_dataset(source_path(tmp_path / "data", format), **OPTIONS)
    assert data.provenance == PROVENANCE
    assert len(data) == sum(map(len, sources))
    assert data.observation_shape == (9, 8, 8)
    assert (data.action_dim, data.discrete) == (2, False)
    batch = torch.cat([data.sample(20) for _ in range(10)])
    starts = {source.action[t].tobytes(): (source, t) for source in sources for t in range(len(source))}
    seen = set()
    for row in batch:
        source, t = starts[row["action"].numpy().tobytes()]
        expected = by_hand(source, t, 3, 3, 0.9, 4)
        seen.add((source.name, t))
        np.testing.assert_array_equal(row["observation"], expected["observation"])
        np.testing.assert_array_equal(row["next", "observation"], expected["next"])
        np.testing.assert_array_equal(row["future_observation"], expected["future"])
        np.testing.assert_array_equal(row["action_sequence"], expected["sequence"])
        assert float(row["next", "reward"]) == pytest.approx(expected["reward"], abs=1e-5)
        assert float(row["discount"]) == pytest.approx(expected["discount"])
        assert bool(row["next", "terminated"]) == expected["terminated"]
        assert int(row["gap"]) == expected["gap"]
    # In episodes with a time limit, no sample starts in the last three steps: the horizon is 4.
    assert seen == {(s.name, t) for s in sources for t in range(len(s) if s.terminated else len(s) - 3)}


def test_discrete_choices_are_those_recorded_or_those_seen(tmp_path: Path) -> None:
    provenance = Provenance(num_actions=6)
    write_transitions(episodes(discrete=True), tmp_path / "known", provenance, format="rlrep")
    write_transitions(episodes(discrete=True), tmp_path / "unknown", format="drqv2")
    assert open_dataset(tmp_path / "known").action_dim == 6
    assert open_dataset(tmp_path / "unknown").action_dim == 4
    assert open_dataset(tmp_path / "unknown").discrete


@pytest.mark.parametrize("storage", ["disk", "memory"])
def test_a_data_set_is_only_read(tmp_path: Path, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_transitions(episodes(), tmp_path / "data", format="rlrep")
    before = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays that are read-only
        if storage == "disk":  # mapped from the file: data may be larger than memory
            monkeypatch.delattr("rlrep.data.dataset.frame_memory")
        data = open_dataset(tmp_path / "data", storage=storage)
    assert not hasattr(data, "add")
    data.sample(4)
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before


def test_files_are_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_transitions(episodes(), tmp_path / "data", format="drqv2")
    first = open_dataset(tmp_path / "data", cache=tmp_path / "cache", seed=1).sample(4)
    with monkeypatch.context() as patch:
        patch.setattr("rlrep.data.dataset.TransitionFiles", None)
        again = open_dataset(tmp_path / "data", cache=tmp_path / "cache", seed=1).sample(4)
    assert (first == again).all()
    cached = next((tmp_path / "cache").glob("transitions-*"))
    (cached / "reward.npy").write_bytes((cached / "reward.npy").read_bytes()[:-1])
    assert len(open_dataset(tmp_path / "data", cache=tmp_path / "cache")) == 25  # converted again
    next((tmp_path / "data").glob("*000003_5.npz")).unlink()
    assert len(open_dataset(tmp_path / "data", cache=tmp_path / "cache")) == 20


def test_files_are_converted_again_when_their_provenance_changes(tmp_path: Path) -> None:
    write_transitions(episodes(), tmp_path / "data", PROVENANCE, format="drqv2")
    open_dataset(tmp_path / "data")
    changed = Provenance(**(vars(PROVENANCE) | {"task": "another"}))
    (tmp_path / "data/provenance.json").write_text(changed.to_json())
    assert open_dataset(tmp_path / "data").provenance == changed


def test_files_are_converted_again_by_a_version_that_reads_them_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_transitions(episodes(), tmp_path / "data", format="drqv2")
    open_dataset(tmp_path / "data", cache=tmp_path / "cache")
    monkeypatch.setattr("rlrep.data.cache.FORMAT_VERSION", 99)
    with monkeypatch.context() as patch, pytest.raises(AttributeError):
        patch.setattr("rlrep.data.dataset.TransitionFiles", None)
        open_dataset(tmp_path / "data", cache=tmp_path / "cache")
    assert len(open_dataset(tmp_path / "data", cache=tmp_path / "cache")) == 25


@pytest.mark.parametrize(("opener", "name"), [(open_dataset, "replacing"), (open_video, "continuing")])
def test_several_that_open_at_once_convert_once(
    tmp_path: Path, opener: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_transitions(episodes(), tmp_path / "data", format="drqv2")
    made = []
    writing = getattr(cache, name)

    @contextmanager
    def slowly(folder: Path, *rest: Any) -> Iterator[Path]:
        made.append(folder)
        with writing(folder, *rest) as temporary:
            time.sleep(0.3)  # long enough for the other threads to find no cache
            yield temporary

    monkeypatch.setattr(cache, name, slowly)
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(opener, [tmp_path / "data"] * 4))
    assert len(made) == 1
    assert len({len(data) if opener is open_dataset else len(data.frames) for data in opened}) == 1


def fill(replay: ReplayBuffer, count: int, first: int = 0, steps: int = 7) -> None:
    """Adds the first `steps` steps of `count` episodes, from number `first` on."""
    for number in range(first, first + count):
        source = episode(number)
        stacks = np.maximum(np.arange(8)[:, None] - np.arange(3)[::-1], 0)
        observation = source.frames[stacks].reshape(8, 9, 8, 8)
        for t in range(steps):
            replay.add(
                observation=observation[t : t + 1],
                action=source.action[t : t + 1],
                reward=source.reward[t : t + 1],
                next_observation=observation[t + 1 : t + 2],
                terminated=np.array([number % 2 == 1 and t == 6]),
                truncated=np.array([t == 6]),
            )


@pytest.mark.parametrize(("written", "whole"), [(3, [0, 1, 2]), (8, [4, 5, 6, 7])], ids=["half full", "wrapped"])
@pytest.mark.parametrize("part", ["run", "run/replay"])
def test_a_finished_runs_replay_is_a_data_set(tmp_path: Path, written: int, whole: list[int], part: str) -> None:
    replay = ReplayBuffer((9, 8, 8), spaces.Box(-1, 1, (2,)), 35, storage="disk", path=tmp_path / "run" / "replay")
    fill(replay, written)
    replay.flush()
    for found, number in zip(TransitionFiles(tmp_path / part), whole, strict=True):
        expected = episode(number, terminated=number % 2 == 1)
        assert_equal(found, expected)
    data = open_dataset(tmp_path / part)
    assert len(data) == 7 * len(whole)
    assert data.provenance.made == {"run": str(tmp_path / "run")}


def test_a_replay_among_other_episodes_hides_none_of_them(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    for name in "ab":
        np.savez(tmp_path / f"{name}.npz", observation=pictures)
    replay = ReplayBuffer((9, 8, 8), spaces.Box(-1, 1, (2,)), 35, path=tmp_path / "replay")
    fill(replay, 2)
    replay.flush()
    assert open_video(tmp_path, image_size=8, frame_stack=3, max_gap=1).num_episodes == 4
    (tmp_path / "replay" / "replay.json").write_text("{")
    with pytest.raises(ValueError, match=r"can't be used: it is corrupt.*skip_corrupt=True leaves it out"):
        open_video(tmp_path, image_size=8, frame_stack=3, max_gap=1)
    with pytest.warns(UserWarning, match="skipped 1 of 3 files"):
        assert open_video(tmp_path, image_size=8, max_gap=1, skip_corrupt=True).num_episodes == 2


def test_every_process_of_a_run_has_a_part_of_its_replay(tmp_path: Path) -> None:
    for number, folder in enumerate(("run/replay", "run/rank_1/replay")):
        replay = ReplayBuffer((9, 8, 8), spaces.Box(-1, 1, (2,)), 35, path=tmp_path / folder)
        fill(replay, 2, first=2 * number)
        replay.flush()
    (tmp_path / "run" / "config.yaml").touch()
    data = TransitionFiles(tmp_path / "run")
    for found, number in zip(data, range(4), strict=True):
        assert_equal(found, episode(number, terminated=number % 2 == 1))
    assert data.provenance.made == {"run": str(tmp_path / "run")}
    assert len(open_dataset(tmp_path / "run")) == 28


@pytest.mark.parametrize("reserve", [0, 10])
@pytest.mark.parametrize(("written", "whole"), [(2, [0, 1]), (8, [5, 6, 7])], ids=["half full", "wrapped"])
def test_frames_newer_than_the_last_flush_are_not_read(
    tmp_path: Path, written: int, whole: list[int], reserve: int
) -> None:
    """Frames reach the disk immediately, and the other rows at a flush: a run may be killed between the two."""
    replay = ReplayBuffer(
        (9, 8, 8), spaces.Box(-1, 1, (2,)), 35 - reserve, storage="disk", path=tmp_path, reserve=reserve
    )
    fill(replay, written)
    replay.flush()
    fill(replay, 1, first=written)
    for found, number in zip(TransitionFiles(tmp_path), whole, strict=True):
        assert_equal(found, episode(number, terminated=number % 2 == 1))


def test_a_resumed_runs_episodes_do_not_go_on_in_those_of_the_killed_one(tmp_path: Path) -> None:
    options: Any = dict(storage="disk", path=tmp_path, reserve=20)
    replay = ReplayBuffer((9, 8, 8), spaces.Box(-1, 1, (2,)), 40, **options)
    fill(replay, 2)
    replay.flush()
    saved = replay.state_dict()
    fill(replay, 1, first=2)
    replay.flush()  # killed before the checkpoint that counts these rows
    resumed = ReplayBuffer((9, 8, 8), spaces.Box(-1, 1, (2,)), 40, **options)
    resumed.load_state_dict(saved)
    fill(resumed, 1, first=4, steps=3)
    resumed.flush()
    found = list(TransitionFiles(tmp_path))
    assert [len(one) for one in found] == [7, 7, 3]
    np.testing.assert_array_equal(found[2].frames, episode(4).frames[:4])


@pytest.mark.parametrize("format", ["drqv2", "vd4rl_64"])
def test_a_corrupt_file_is_named_and_can_be_left_out(tmp_path: Path, format: str) -> None:
    write_transitions(episodes(), tmp_path / "data", format=format)
    bad = sorted((tmp_path / "data").glob("*.npz"))[1]
    bad.write_bytes(bad.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{bad.name} can't be used: it is corrupt or truncated.*skip_corrupt"):
        open_dataset(tmp_path / "data")
    for _ in range(2):  # the second time with a cache
        with pytest.warns(UserWarning, match=rf"skipped 1 of 4 files:\n.*{bad.name}"):
            data = open_dataset(tmp_path / "data", skip_corrupt=True)
        assert len(data) == 21
        assert list(data.skipped) == [str(bad)]
    with pytest.raises(ValueError, match=bad.name):
        open_dataset(tmp_path / "data")


ARRAYS: dict[str, Any] = dict(
    observation=np.repeat(np.arange(6, dtype=np.uint8), 192).reshape(6, 3, 8, 8),
    action=np.zeros((6, 2), np.float32),
    reward=np.zeros(6, np.float32),
    discount=np.ones(6, np.float32),
)


def changed(name: str, at: int, value: float) -> dict[str, Any]:
    array = ARRAYS[name].copy()
    array[at] = value
    return {name: array}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": None}, "holds none of reward"),
        ({"action": None}, "holds none of action"),
        ({"discount": None}, "holds none of discount, is_terminal"),
        (changed("reward", 3, np.nan), "rewards must be finite, and that of step 2 is nan"),
        (changed("reward", 3, -np.inf), "rewards must be finite, and that of step 2 is -inf"),
        ({"reward": np.full(6, 1e300)}, "rewards must be finite"),
        ({"reward": np.zeros(6, np.int64)}, "rewards must be float32 or float64, got int64"),
        ({"reward": np.zeros((6, 2), np.float32)}, r"one value for each of 6 frames .* \(6, 2\)"),
        ({"reward": np.zeros(4, np.float32)}, "one value for each of 6 frames"),
        (changed("action", 2, 1.5), r"lie in \[-1, 1\], and one of step 1 is 1.5"),
        (changed("action", 2, np.nan), "and one of step 1 is nan"),
        (changed("discount", 2, 0), "continues after its end"),
        (changed("discount", 2, 0.5), "must hold 0 and 1 alone"),
        ({"observation": ARRAYS["observation"].astype(np.int8)}, "must be uint8"),
        ({"observation": ARRAYS["observation"][:1]}, "its discount must have one value for each of 1 frames"),
        ({"observation": np.repeat(ARRAYS["observation"], 3, 1)}, "stacked frames are not those"),
        ({"is_first": np.zeros(6, bool)}, "is_first is not that of one whole episode"),
        ({"is_last": np.ones(6, bool)}, "is_last is not that of one whole episode"),
        ({"is_terminal": np.arange(6) == 5}, "contradict each other"),
        ({"reward": np.array([{}] * 6, object)}, "pickled objects, which can run any code"),
    ],
)
def test_a_file_that_is_no_episode_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arrays = {name: array for name, array in (ARRAYS | changes).items() if array is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=rf"(?s)bad\.npz can't be used: .*{message}"):
        open_dataset(tmp_path)


def test_files_that_differ_are_both_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **ARRAYS)
    for change in ({"action": np.zeros((6, 3), np.float32)}, {"observation": ARRAYS["observation"][..., :7]}):
        np.savez(tmp_path / "b.npz", **(ARRAYS | change))
        with pytest.raises(ValueError, match=r"episodes with different .*a\.npz has .*b\.npz has"):
            open_dataset(tmp_path)


def test_episodes_shorter_than_a_sample_are_reported(tmp_path: Path) -> None:
    write_transitions([episode(0, 2), episode(1, 6), episode(2, 2, terminated=True)], tmp_path / "data", format="rlrep")
    with pytest.warns(UserWarning, match=r"1 of the 3 episodes .* shorter than a sample.* 3 steps.*: 0$"):
        data = open_dataset(tmp_path / "data")
    assert len(data.sample(8)) == 8
    write_transitions([episode(number, 4) for number in range(4)], tmp_path / "short", format="rlrep")
    for options in ({"n_step": 5}, {"horizon": 5}):
        with pytest.raises(ValueError, match=r"no episode in .*short is as long as a sample.*the longest has 4"):
            open_dataset(tmp_path / "short", **options)


def test_episodes_that_a_learner_never_sees_are_listed_once(tmp_path: Path) -> None:
    """Episodes that are too short for the learner's window; random gaps may be short."""
    made = [episode(seed, length) for seed, length in enumerate((4, 9))]
    write_transitions(made, tmp_path / "data")
    data = open_dataset(tmp_path / "data", n_step=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.check(Window(observations=(Gap(6),)), "Learner", "the data")
    with pytest.warns(UserWarning, match=r"1 of the 2 episodes in the data .* what Learner reads, 6 actions, .*: 0$"):
        data.check(Window(actions=6), "Learner", "the data")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.check(Window(rewards=5), "Another", "the data")


def test_one_episode_as_long_as_a_sample_is_enough(tmp_path: Path) -> None:
    source = episode(0, 3)
    write_transitions([source], tmp_path / "data", format="rlrep")
    batch = open_dataset(tmp_path / "data", n_step=3).sample(1)
    assert float(batch["next", "reward"]) == pytest.approx(float(source.reward @ 0.99 ** np.arange(3)), rel=1e-5)
    with pytest.raises(ValueError, match=r"no episode in .*data is as long as a sample.*the longest has 3"):
        open_dataset(tmp_path / "data", n_step=4)


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no videos or episode files"):
        open_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        open_dataset(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("step_type", [0, 1, 1, 2, 0, 1, 5, 2], "and entry 6 is 5"),
        ("step_type", [1, 1, 1, 2, 1, 1, 1, 1], "holds no 0"),
        ("step_type", [0, 1, 1, 1, 1, 1, 1, 1], "no whole episode, only 1 incomplete episode"),
        ("reward", [0, 1, np.nan, 1, 0, 1, 1, 1], r"episode 0: rewards must be finite, and that of step 1 is nan"),
        ("reward", [0, 1, 1], r"rows from 3 on, which not all arrays have \(8 of pictures, .* 3 of reward"),
    ],
)
def test_a_wrong_entry_of_an_hdf5_file_is_named(tmp_path: Path, name: str, value: list[float], message: str) -> None:
    import h5py

    write_transitions([episode(0, 3), episode(1, 3)], tmp_path / "data", format="vd4rl_84")
    with h5py.File(tmp_path / "data/data.hdf5", "a") as file:
        dtype = file[name].dtype
        del file[name]
        file[name] = np.array(value, dtype)
    with pytest.raises(ValueError, match=rf"data\.hdf5 can't be used: .*{message}"):
        open_dataset(tmp_path / "data")


def test_unread_entries_of_an_hdf5_file_may_hold_anything(tmp_path: Path) -> None:
    import h5py

    write_transitions(episodes(), tmp_path / "data", format="vd4rl_84")
    with h5py.File(tmp_path / "data/data.hdf5", "a") as file:
        file["task"] = "cheetah_run"
        file["elsewhere"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "reward")
        file.create_dataset("state", (25, 17), np.float32, chunks=(5, 17))  # none of its chunks was written
        file.create_group("obs")
    assert len(open_dataset(tmp_path / "data")) == 25
    with h5py.File(tmp_path / "data/data.hdf5", "a") as file:
        del file["reward"]
    with pytest.raises(ValueError, match=r"holds none of reward, only .*elsewhere.*task"):
        open_dataset(tmp_path / "data")


def test_an_hdf5_file_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    import h5py

    write_transitions(episodes(), tmp_path / "data", format="vd4rl_84")
    shutil.copy(tmp_path / "data/data.hdf5", tmp_path / "other.hdf5")
    with h5py.File(tmp_path / "data/data.hdf5", "a") as file:
        del file["reward"]
        file["reward"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "reward")
    with pytest.raises(ValueError, match="its reward is a link"):
        open_dataset(tmp_path / "data")


def test_a_damaged_data_set_of_our_own_is_named(tmp_path: Path) -> None:
    write_transitions(episodes(), tmp_path / "data", format="rlrep")
    for name in ("frame", "reward", "step"):
        shutil.copytree(tmp_path / "data", tmp_path / name)
        content = bytearray((tmp_path / name / f"{name}.npy").read_bytes())
        content[-70] ^= 16
        (tmp_path / name / f"{name}.npy").write_bytes(content)
        with pytest.raises(ValueError, match=rf"(?s){name} can't be used.*checksum mismatch"):
            list(TransitionFiles(tmp_path / name))
        with pytest.raises(ValueError, match=rf"(?s){name} can't be used.*checksum mismatch: restore it from a copy"):
            open_dataset(tmp_path / name)


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    write_transitions(episodes(), tmp_path / "data", format="drqv2")
    expected = open_dataset(tmp_path / "data").frames.clone()
    frames = next((tmp_path / "data/.rlrep-cache").glob("*/frame.npy"))
    content = bytearray(frames.read_bytes())
    content[-1000:] = bytes(1000)
    frames.write_bytes(content)
    assert torch.equal(open_dataset(tmp_path / "data").frames, expected)


def test_frames_are_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_transitions(episodes(), tmp_path / "data", format="rlrep")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")  # keeps the times of the files
    verified = []
    verify = replay_files.check_frames
    monkeypatch.setattr(replay_files, "check_frames", lambda *args: verified.append(name) or verify(*args))
    for name in ("data", "copy", "copy", "data"):
        open_dataset(tmp_path / name)
    assert verified == ["copy"]


def test_nothing_is_left_of_a_data_set_that_could_not_be_written(tmp_path: Path) -> None:
    def breaking() -> Any:
        yield episode(0)
        raise RuntimeError("interrupted")

    for format in FORMATS:
        with pytest.raises(RuntimeError, match="interrupted"):
            write_transitions(breaking(), tmp_path / format, format=format)
        with pytest.raises(ValueError, match="no episodes to write"):
            write_transitions([], tmp_path / format, format=format)
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    with pytest.raises(ValueError, match="is there already"):
        write_transitions(episodes(), tmp_path / "mine", format="rlrep")
    with pytest.raises(ValueError, match=r"unknown format 'tfrecord': known: .*rlrep"):
        write_transitions(episodes(), tmp_path / "other", format="tfrecord")


def test_a_description_with_other_keys_is_named(tmp_path: Path) -> None:
    from rlrep.data.transitions import sealed, unsealed

    write_transitions(episodes(), tmp_path / "data", format="rlrep")
    path = tmp_path / "data/dataset.json"
    whole = unsealed(path.read_text())
    changes: list[dict[str, Any]] = [{name: None} for name in ("provenance", "rows", "frames")]
    changes += [
        {"provenance": {"task": "a", "colour": "red"}},
        {"provenance": {"task": 3}},
        {"rows": {}},
        {"frames": whole["frames"][:2]},
        {"frames": [None] * 4},
    ]
    for change in changes:
        path.write_text(sealed({key: value for key, value in (whole | change).items() if value is not None}))
        (tmp_path / "data/verified.json").unlink(missing_ok=True)
        with pytest.raises(ValueError, match="data can't be used"):
            open_dataset(tmp_path / "data")
        with pytest.raises(ValueError, match="data can't be used"):
            list(TransitionFiles(tmp_path / "data"))
    path.write_text(sealed(whole | {"colour": "red"}))
    assert len(open_dataset(tmp_path / "data")) == 25


@pytest.mark.parametrize("format", FORMATS)
def test_names_need_not_be_utf_8(tmp_path: Path, format: str) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write_transitions(episodes(), folder, format=format)
    for _ in range(2):
        assert len(open_dataset(source_path(folder, format))) == 25


def test_errors_that_pass_are_neither_remembered_nor_called_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_transitions(episodes(), tmp_path / "data", format="drqv2")
    opened = zipfile.ZipFile

    def refuse(path: Any, *args: Any) -> Any:
        if "000002" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args)

    for skip_corrupt in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(zipfile, "ZipFile", refuse)
            with pytest.raises(OSError, match=r"000002_9\.npz can't be read now .*Permission denied.*may be whole"):
                open_dataset(tmp_path / "data", skip_corrupt=skip_corrupt)
            with pytest.raises(OSError, match=r"000002_9\.npz can't be read now"):
                list(TransitionFiles(tmp_path / "data", skip_corrupt))
    assert len(open_dataset(tmp_path / "data", skip_corrupt=True)) == 25


def test_a_file_whose_filter_is_missing_is_read_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import h5py

    for number in range(2):
        write_transitions([episode(number)], tmp_path / f"{number}", format="vd4rl_84")
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / f"{number}/data.hdf5").rename(tmp_path / f"data/{number}.hdf5")
    opened = h5py.File

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if "1.hdf5" in str(path):
            raise OSError("Can't synchronously read data (required filter 'blosc' is not registered)")
        return opened(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", refuse)
        for _ in range(2):
            with pytest.warns(UserWarning, match=r"1\.hdf5: no decoder for it is installed"):
                assert len(open_dataset(tmp_path / "data", skip_corrupt=True)) == 7
    assert len(open_dataset(tmp_path / "data", skip_corrupt=True)) == 14


def test_episodes_of_one_file_that_are_held_back_need_one_file_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transition_files, "HELD_IN_MEMORY", 1)
    before, opened = len(os.listdir("/proc/self/fd")), []
    made = [episode(number) for number in range(20)]
    for ours, theirs in zip(transition_files._held(iter(made)), made, strict=True):
        opened.append(len(os.listdir("/proc/self/fd")) - before)
        assert (ours.frames == theirs.frames).all() and ours.frames.shape == theirs.frames.shape
        assert (ours.action == theirs.action).all()
    assert max(opened) == 1
