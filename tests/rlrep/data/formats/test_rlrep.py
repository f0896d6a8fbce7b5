"""Reading the replay of a run."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlrep.data import open_dataset, open_video, replay_files
from rlrep.replay import ReplayBuffer
from tests.rlrep.data.formats.numbered import SMALL, numbered, numbers, stacked


def play(replay: ReplayBuffer, start: int, lengths: list[int], frame_stack: int = 3) -> None:
    """Adds episodes of `lengths` transitions; frames hold their numbers, and so do actions, in hundredths."""
    at = start
    for length in lengths:
        stacks = stacked(numbered(length + 1, at), frame_stack)
        for t in range(length):
            replay.add(
                observation=stacks[t : t + 1],
                action=np.full((1, 1), (at + t) / 100, np.float32),
                reward=np.zeros(1),
                next_observation=stacks[t + 1 : t + 2],
                terminated=np.array([False]),
                truncated=np.array([t == length - 1]),
            )
        at += length + 1


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ([4, 5], [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10]]),
        ([4, 5, 6, 5], [[8, 9, 10], [11, 12, 13, 14, 15, 16, 17], [18, 19, 20, 21, 22, 23]]),
    ],
    ids=["half full", "written over"],
)
@pytest.mark.parametrize("run", [False, True])
def test_a_runs_replay_is_read_in_the_order_it_was_written(
    tmp_path: Path, lengths: list[int], kept: list[list[int]], run: bool
) -> None:
    box = spaces.Box(-1, 1, (1,))
    replay = ReplayBuffer((9, 8, 8), box, 16, n_step=1, storage="disk", path=tmp_path / "run" / "replay")
    play(replay, 0, lengths)
    replay.flush()
    data = open_video(tmp_path / "run" if run else tmp_path / "run/replay", actions=True, **SMALL)
    assert numbers(data) == [number for episode in kept for number in episode]
    assert data.lengths.tolist() == [len(episode) for episode in kept]
    batch = data.sample(50)
    assert ((batch["action"][:, 0] * 100).round() == batch["observation"][:, 0, 0, 0]).all()


def test_rows_that_a_resumed_run_overwrote_are_not_joined_to_the_old_ones() -> None:
    episode = np.array([2, 2, 2, 3, 3, 3, 1, 1, 1, 1])
    step = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 3])
    assert replay_files._written(episode, step).tolist() == [6, 7, 8, 9, 0, 1, 2, 3, 4, 5]
    step[5] = 9  # a row of the killed run
    assert replay_files._written(episode, step).tolist() == [6, 7, 8, 9, 0, 1, 2, 3, 4]


def test_several_lanes_are_all_read(tmp_path: Path) -> None:
    replay = ReplayBuffer((3, 8, 8), spaces.Discrete(3), 40, frame_stack=1, n_step=1, num_envs=2, path=tmp_path)
    for t in range(4):
        now, then = (np.stack([numbered(1, t + k)[0], numbered(1, 20 + t + k)[0]]) for k in (0, 1))
        replay.add(
            observation=now,
            action=np.array([1, 2]),
            reward=np.zeros(2),
            next_observation=then,
            terminated=np.zeros(2, bool),
            truncated=np.zeros(2, bool),
        )
    replay.flush()
    data = open_video(tmp_path, actions=True, **SMALL)
    assert numbers(data) == [0, 1, 2, 3, 4, 20, 21, 22, 23, 24]
    assert data.action is not None
    assert data.action.tolist() == [1, 1, 1, 1, 0, 2, 2, 2, 2, 0]


def test_a_damaged_replay_is_named(tmp_path: Path) -> None:
    replay = ReplayBuffer((9, 8, 8), spaces.Box(-1, 1, (1,)), 16, n_step=1, path=tmp_path / "replay")
    play(replay, 0, [5])
    replay.flush()
    (tmp_path / "replay/step.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"replay can't be used: it is corrupt or truncated"):
        open_video(tmp_path, **SMALL)


@pytest.mark.parametrize("lengths", [[40], [9, 9, 9, 9], [9, 9, 9, 9, 9, 9, 9, 9]], ids=["one", "half full", "wrapped"])
@pytest.mark.parametrize("reserve", [0, 12])
@pytest.mark.parametrize("name", ["step", "episode"])
def test_one_flipped_bit_never_drops_a_part_of_a_replay_in_silence(
    tmp_path: Path, name: str, reserve: int, lengths: list[int]
) -> None:
    options: Any = dict(n_step=1, storage="disk", path=tmp_path / "replay", reserve=reserve)
    replay = ReplayBuffer((3, 8, 8), spaces.Box(-1, 1, (1,)), 64 - reserve, frame_stack=1, **options)
    play(replay, 0, lengths, frame_stack=1)
    replay.flush()
    expected = numbers(open_video(tmp_path, **SMALL))
    path = tmp_path / f"replay/{name}.npy"
    whole = path.read_bytes()
    size = 4 if name == "step" else 8
    rng = np.random.default_rng(0)
    ends = {"equal": 0, "told": 0, "refused": 0}
    for at in range(len(whole) - 64 * size, len(whole), 3 * size):
        content = bytearray(whole)
        content[at + rng.integers(size)] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = numbers(open_video(tmp_path, **SMALL))
            except ValueError as error:
                assert re.search(r"corrupt: \d+ of the \d+ rows of environment 0 do not continue", str(error))
                ends["refused"] += 1
                continue
        if found == expected:
            ends["equal"] += 1
        else:
            assert len(found) >= len(expected) - 1
            assert any("of the" in str(each.message) and "rows" in str(each.message) for each in caught)
            ends["told"] += 1
    assert ends["refused"] > 9
    assert ends["told"] <= 2


def test_rows_after_a_checkpoint_are_counted_and_left_out(tmp_path: Path) -> None:
    options: Any = dict(frame_stack=1, n_step=1, storage="disk", path=tmp_path / "replay", reserve=20)
    replay = ReplayBuffer((3, 8, 8), spaces.Box(-1, 1, (1,)), 40, **options)
    play(replay, 0, [7, 7], frame_stack=1)
    replay.flush()
    saved = replay.state_dict()
    play(replay, 70, [8], frame_stack=1)
    replay.flush()  # killed before the checkpoint that counts these rows
    resumed = ReplayBuffer((3, 8, 8), spaces.Box(-1, 1, (1,)), 40, **options)
    resumed.load_state_dict(saved)
    play(resumed, 50, [3], frame_stack=1)
    resumed.flush()
    for _ in range(2):
        with pytest.warns(UserWarning, match="left out 4 of the 24 rows of environment 0, which were written after"):
            data = open_video(tmp_path, **SMALL)
        assert numbers(data) == [*range(16), 50, 51, 52, 53]


def test_a_restarted_run_is_not_read_as_the_one_before(tmp_path: Path) -> None:
    """The old run was killed between writing its rows and its first checkpoint, and had more rows than the new one."""
    for start, length in ((0, 30), (60, 9)):
        options: Any = dict(frame_stack=1, n_step=1, storage="disk", path=tmp_path / "replay", reserve=20)
        replay = ReplayBuffer((3, 8, 8), spaces.Box(-1, 1, (1,)), 40, **options)
        replay.empty()
        play(replay, start, [length], frame_stack=1)
        replay.flush()
    with pytest.warns(UserWarning, match="left out 20 of the 30 rows"):
        assert numbers(open_video(tmp_path, **SMALL)) == list(range(60, 70))


@pytest.mark.parametrize("name", ["frame", "action", "reward", "terminated", "step", "episode"])
@pytest.mark.parametrize("content", ["empty", "archive", "missing"])
def test_a_replay_with_a_wrong_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    replay = ReplayBuffer((9, 8, 8), spaces.Box(-1, 1, (1,)), 16, n_step=1, path=tmp_path / "replay")
    play(replay, 0, [5])
    replay.flush()
    path = tmp_path / f"replay/{name}.npy"
    path.unlink()
    if content == "empty":
        path.touch()
    elif content == "archive":
        with path.open("wb") as file:
            np.savez(file, np.zeros(3))
    for opener in (open_video, open_dataset):
        with pytest.raises(ValueError, match=r"replay can't be used: .*"):
            opener(tmp_path)
