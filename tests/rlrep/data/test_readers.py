"""Episode files of every layout, their frames and their actions."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlrep.data import EpisodeDataset, hdf5, npz, open_dataset, open_video, replay_files, sources
from rlrep.data.clips import Clip, Unreadable
from rlrep.replay import ReplayBuffer

SMALL: dict[str, Any] = dict(image_size=8, frame_stack=1, max_gap=2)


def numbered(frames: int = 6, start: int = 0, channels: int = 3) -> np.ndarray:
    """(T, C, 8, 8) uint8; every pixel of a frame holds its number."""
    values = np.arange(start, start + frames, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(values, (frames, channels, 8, 8)).copy()


def numbers(data: EpisodeDataset) -> list[int]:
    assert (data.frames == data.frames[:, :1, :1, :1]).all()
    return data.frames[data.index, 0, 0, 0].tolist()


def stacked(frames: np.ndarray, stack: int = 3) -> np.ndarray:
    """As DrQ-v2 stores them: (T, stack * C, 8, 8), oldest first."""
    rows = np.maximum(np.arange(len(frames))[:, None] - np.arange(stack)[::-1], 0)
    return frames[rows].reshape(len(frames), -1, 8, 8)


@pytest.mark.parametrize(
    ("key", "pictures"),
    [
        ("observation", numbered()),
        ("image", numbered().transpose(0, 2, 3, 1)),
        ("frames", numbered(channels=1).transpose(0, 2, 3, 1)),
        ("obs", numbered(channels=1)),
        ("observation", stacked(numbered())),
        ("observation", stacked(numbered()).transpose(0, 2, 3, 1)),
    ],
)
def test_npz_episodes_of_every_layout_give_the_newest_frame(tmp_path: Path, key: str, pictures: np.ndarray) -> None:
    np.savez(tmp_path / "episode.npz", **{key: pictures, "reward": np.zeros(6)})
    data = open_video(tmp_path, **SMALL)
    assert numbers(data) == list(range(6))
    assert data.frames.shape[1] == (1 if 1 in pictures.shape else 3)
    assert data.action is None


@pytest.mark.parametrize("rows", [5, 6], ids=["one fewer than frames", "led to their frames"])
@pytest.mark.parametrize("discrete", [False, True])
def test_actions_are_those_taken_at_their_frames(tmp_path: Path, rows: int, discrete: bool) -> None:
    taken = np.arange(1, 6)
    written = taken if discrete else np.stack([taken, -taken], 1).astype(np.float64)
    if rows == 6:
        written = np.concatenate([np.zeros_like(written[:1]), written])
    np.savez(tmp_path / "episode.npz", observation=numbered(), action=written)
    data = open_video(tmp_path, actions=True, **SMALL)
    batch = data.sample(30)
    assert batch["action"].shape == ((30,) if discrete else (30, 2))
    assert str(batch["action"].dtype) == ("torch.int64" if discrete else "torch.float32")
    first = batch["action"] if discrete else batch["action"][:, 0]
    assert (first.long() == batch["observation"][:, 0, 0, 0].long() + 1).all()
    assert "action" not in open_video(tmp_path, **SMALL).sample(1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"reward": np.zeros(6)}, "holds none of observation, image, .*, only reward"),
        ({"observation": numbered().astype(np.float32)}, r"must be uint8 .* got float32 of shape \(6, 3, 8, 8\)"),
        ({"observation": numbered()[:, :, 0]}, r"must be uint8 .* got uint8 of shape \(6, 3, 8\)"),
        ({"observation": numbered(channels=4)}, "1 or 3 channels"),
        ({"observation": numbered(0)}, "without frames"),
        ({"observation": numbered(), "action": np.ones((6, 2))}, "the first all zeros"),
        ({"observation": numbered(), "action": np.ones((9, 2))}, r"for each of 6 frames or one fewer, got .*\(9, 2\)"),
        ({"observation": np.array([{"a": 1}], dtype=object)}, "pickled objects, which can run any code"),
    ],
)
def test_an_npz_without_an_episode_is_named(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "episode.npz", **arrays)
    with pytest.raises(ValueError, match=rf"(?s)episode\.npz can't be used: .*{message}"):
        open_video(tmp_path, actions="action" in message or "action" in arrays, **SMALL)


def test_an_npz_without_actions_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "episode.npz", observation=numbered())
    with pytest.raises(ValueError, match=r"episode\.npz holds no actions"):
        open_video(tmp_path, actions=True, image_size=8)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_truncated_npz_is_named(tmp_path: Path, share: float) -> None:
    np.savez_compressed(tmp_path / "episode.npz", observation=np.random.default_rng(0).bytes(10), image=numbered())
    content = (tmp_path / "episode.npz").read_bytes()
    (tmp_path / "episode.npz").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"episode\.npz can't be used: it is corrupt or truncated"):
        open_video(tmp_path, **SMALL)


def test_channels_and_actions_must_be_the_same_everywhere(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", observation=numbered(), action=np.zeros((5, 2)))
    np.savez(tmp_path / "b.npz", observation=numbered(channels=1), action=np.zeros((5, 2)))
    np.savez(tmp_path / "c.npz", observation=numbered(), action=np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"different channels: .*a\.npz has 3, .*b\.npz has 1"):
        open_video([tmp_path / "a.npz", tmp_path / "b.npz"], mixed_sizes=True, **SMALL)
    with pytest.raises(ValueError, match=r"different actions: .*a\.npz has float32 of shape \(2,\), .*c\.npz"):
        open_video([tmp_path / "a.npz", tmp_path / "c.npz"], actions=True, **SMALL)


def test_a_frame_rate_needs_videos(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", observation=numbered())
    with pytest.raises(ValueError, match=r"a\.npz has none: leave fps out"):
        open_video(tmp_path, fps=5, **SMALL)


def write_vd4rl(path: Path, lengths: list[int], **changes: Any) -> Path:
    import h5py

    step_type = np.concatenate([[0, *[1] * (length - 2), 2] for length in lengths])
    led_here = np.concatenate([np.arange(length) for length in lengths]).astype(np.float32)[:, None]
    arrays = {"observation": numbered(sum(lengths)), "step_type": step_type, "action": led_here} | changes
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file.create_dataset(name, data=array, compression="gzip", chunks=(7, *array.shape[1:]))
    return path


def test_vd4rl_files_fall_into_their_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = []
    newest_frames = hdf5.newest_frames
    monkeypatch.setattr(hdf5, "AT_ONCE", 4)
    monkeypatch.setattr(hdf5, "newest_frames", lambda frames, _: blocks.append(len(frames)) or newest_frames(frames))
    data = open_video(write_vd4rl(tmp_path / "part.hdf5", [6, 9, 5]), actions=True, **SMALL)
    assert blocks == [7, 7, 6], "each compressed block is to be read once"
    assert data.lengths.tolist() == [6, 9, 5]
    assert numbers(data) == list(range(20))
    assert data.action is not None
    for first, end in data.episodes:
        assert data.action[first : end - 1, 0].tolist() == list(range(1, end - first))


def test_a_short_episode_beside_longer_ones_serves_the_smaller_gaps(tmp_path: Path) -> None:
    data = open_video(write_vd4rl(tmp_path / "part.hdf5", [2, 6]), **(SMALL | {"max_gap": 3}))
    assert data.lengths.tolist() == [2, 6]
    batch = data.sample(300)
    assert set(batch["gap"][batch["observation"][:, 0, 0, 0] < 2].tolist()) == {1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_type": None}, "has no step_type"),
        ({"step_type": np.ones(11)}, "holds no 0"),
        ({"observation": None}, "holds none of observation"),
    ],
)
def test_an_hdf5_file_of_another_layout_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_vd4rl(tmp_path / "part.h5", [6, 5], **changes)
    with pytest.raises(ValueError, match=rf"part\.h5 can't be used: .*{message}"):
        open_video(path, **SMALL)


def test_a_truncated_hdf5_file_is_named_and_none_of_it_is_kept(tmp_path: Path) -> None:
    write_vd4rl(tmp_path / "good.hdf5", [6, 5])
    path = write_vd4rl(tmp_path / "bad.hdf5", [60, 50])
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"bad\.hdf5 can't be used: it is corrupt or truncated"):
        open_video(tmp_path, **SMALL)
    with pytest.warns(UserWarning, match=r"skipped 1 of 2"):
        assert open_video(tmp_path, skip_corrupt=True, **SMALL).lengths.tolist() == [6, 5]


def test_a_file_that_breaks_off_in_its_second_episode_is_dropped_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(path: Path, actions: bool, **_: Any) -> Any:
        for number, clip in enumerate(npz.read_npz(path, actions)):
            yield clip
            if path.name == "b.npz":
                yield Clip("second", iter([numbered(2)]))
                raise Unreadable(f"broken after {number + 2}")

    monkeypatch.setitem(sources.READERS, ".npz", breaking)
    for name, start in (("a", 0), ("b", 10), ("c", 20)):
        np.savez(tmp_path / f"{name}.npz", observation=numbered(4, start))
    with pytest.warns(UserWarning, match=r"skipped 1 of 3"):
        data = open_video(tmp_path, skip_corrupt=True, **SMALL)
    assert numbers(data) == [0, 1, 2, 3, 20, 21, 22, 23]


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


def play(replay: ReplayBuffer, start: int, lengths: list[int], frame_stack: int = 3) -> None:
    """Episodes of `lengths` transitions; frames hold their numbers, and so do actions, in hundredths."""
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


def test_rows_that_a_resumed_run_wrote_anew_are_not_joined_to_the_old_ones() -> None:
    episode = np.array([2, 2, 2, 3, 3, 3, 1, 1, 1, 1])
    step = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 3])
    assert replay_files._written(episode, step).tolist() == [6, 7, 8, 9, 0, 1, 2, 3, 4, 5]
    step[5] = 9  # what the killed run had written there
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


def test_a_run_that_began_anew_is_not_read_as_the_one_before(tmp_path: Path) -> None:
    """Killed after its rows were written and before its first checkpoint was, it has more rows than the new one."""
    for start, length in ((0, 30), (60, 9)):
        options: Any = dict(frame_stack=1, n_step=1, storage="disk", path=tmp_path / "replay", reserve=20)
        replay = ReplayBuffer((3, 8, 8), spaces.Box(-1, 1, (1,)), 40, **options)
        play(replay, start, [length], frame_stack=1)
        replay.flush()
    with pytest.warns(UserWarning, match="left out 20 of the 30 rows"):
        assert numbers(open_video(tmp_path, **SMALL)) == list(range(60, 70))


@pytest.mark.parametrize("name", ["frame", "action", "reward", "terminated", "step", "episode"])
@pytest.mark.parametrize("content", ["empty", "archive", "missing"])
def test_a_replay_of_which_a_file_is_another_is_named(tmp_path: Path, name: str, content: str) -> None:
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
