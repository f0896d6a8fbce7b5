"""The replay on disk: it survives a kill, and refuses wrong files."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrep.replay import ReplayBuffer, ReplayError
from rlrep.replay.episodes import Episodes

ROOT = Path(__file__).parents[2]
SHAPE = (6, 3, 2)
CAPACITY, RESERVE = 60, 16
STORAGES = ["memory", "disk", pytest.param("cuda", marks=pytest.mark.cuda)]


def build(path: Path | None, storage: str = "memory", num_envs: int = 2, **options: Any) -> ReplayBuffer:
    options = {"capacity": CAPACITY, "frame_stack": 2, "horizon": 2, "reserve": RESERVE, "device": "cpu"} | options
    space = options.pop("action_space", spaces.Box(-1, 1, (2,)))
    shape = options.pop("observation_shape", SHAPE)
    return ReplayBuffer(shape, space, num_envs=num_envs, storage=storage, path=path, **options)


@cache
def ends_before(number: int) -> np.ndarray:
    """The number of episodes that each of the two environments has finished before transition `number`."""
    if not number:
        return np.zeros(2, int)
    return ends_before(number - 1) + (np.random.default_rng(number - 1).random(2) < 0.15)


def stack(number: int, later: int = 0) -> np.ndarray:
    """Both environments' two frames at transition `number`, or `later` steps after it in the same episode."""
    shape = (SHAPE[0] // 2, *SHAPE[1:])
    at = number + later + 1000 * ends_before(number)
    frames = [
        [np.random.default_rng([5, env, at[env] + age]).integers(0, 256, shape, np.uint8) for env in range(2)]
        for age in range(2)
    ]
    return np.concatenate(frames, 1)


def write(replay: ReplayBuffer, first: int, count: int) -> None:
    """Writes `count` transitions from number `first` on; each depends only on its number."""
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        ends = rng.random(2) < 0.15
        replay.add(
            observation=stack(number),
            action=rng.uniform(-1, 1, (2, 2)),
            reward=rng.normal(size=2),
            next_observation=stack(number, later=1),
            terminated=ends & (rng.random(2) < 0.5),
            truncated=ends,
        )


def content(replay: ReplayBuffer) -> dict[str, np.ndarray]:
    """Everything in the replay, without the action of the last row, which is still missing."""
    out: dict[str, list[np.ndarray]] = {}
    for lane in range(replay.num_envs):
        held = replay._held(lane)
        for name, array in replay.rows.items():
            last = -1 if name in ("action", "reward", "terminated") else None
            out.setdefault(name, []).append(array[lane, held[:last] % replay.length])
        out.setdefault("frame", []).append(replay.frames[lane].cpu().numpy()[held % replay.length])
    return {name: np.concatenate(arrays) for name, arrays in out.items()}


def assert_same(ours: ReplayBuffer, theirs: ReplayBuffer) -> None:
    assert Episodes.state_dict(ours) == Episodes.state_dict(theirs)
    for name in ("head", "episodes", "running"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    for name, array in content(ours).items():
        np.testing.assert_array_equal(array, content(theirs)[name], err_msg=name)
    for _ in range(3):
        first, second = ours.sample(16), theirs.sample(16)
        for key in first.keys(True, True):
            assert torch.equal(first[key], second[key]), key


@pytest.mark.parametrize("storage", STORAGES[1:])
def test_storages_give_the_same_samples(storage: str, tmp_path: Path) -> None:
    replays = [build(tmp_path / "memory"), build(tmp_path / "other", storage)]
    for replay in replays:
        write(replay, 0, 70)
    assert_same(replays[1], replays[0])


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("flushes", [(10,), (20, 25), (30, 60, 95), (100,), (250,)], ids=str)
def test_a_flushed_state_comes_back(storage: str, flushes: tuple[int, ...], tmp_path: Path) -> None:
    """Also if up to `reserve` more rows were written afterwards, and if the ring has wrapped."""
    replay = build(tmp_path, storage)
    first = 0
    for last in flushes:
        write(replay, first, last - first)
        replay.flush()
        first = last
    replay.sample(8)  # the sampler's random state moves
    state = json.loads(json.dumps(replay.state_dict()))
    expected = build(None)
    write(expected, 0, flushes[-1])
    expected.sample(8)

    later = 0
    while (replay.head - state["head"]).max() < RESERVE - 1:
        write(replay, flushes[-1] + later, 1)
        later += 1
    assert later
    del replay

    resumed = build(tmp_path, storage)
    resumed.load_state_dict(state)
    assert_same(resumed, expected)
    for each in (resumed, expected):  # and both continue in the same way
        write(each, flushes[-1], 40)
    assert_same(resumed, expected)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_second_flush_that_is_lost_with_its_state_does_no_harm(storage: str, tmp_path: Path) -> None:
    replay, expected = build(tmp_path, storage), build(None)
    for each in (replay, expected):
        write(each, 0, 90)
    replay.flush()
    state = replay.state_dict()
    write(replay, 90, RESERVE // 2)
    replay.flush()  # killed before the checkpoint that counts these rows
    resumed = build(tmp_path, storage)
    resumed.load_state_dict(state)
    assert_same(resumed, expected)


@pytest.mark.parametrize("storage", STORAGES)
def test_an_outcome_that_came_after_the_state_is_not_the_newest_rows(storage: str, tmp_path: Path) -> None:
    replay = build(tmp_path, storage)
    write(replay, 0, 90)
    replay.flush()
    state = replay.state_dict()
    playing = np.flatnonzero(replay.running)
    assert len(playing)
    newest = playing, (replay.head[playing] - 1) % replay.length
    write(replay, 90, 1)
    for name in ("action", "reward", "terminated"):
        replay.rows[name][newest] = 1
    replay.flush()  # killed before the checkpoint that counts these rows
    resumed = build(tmp_path, storage)
    resumed.load_state_dict(state)
    assert not any(resumed.rows[name][newest].any() for name in ("action", "reward", "terminated"))
    resumed.flush()
    assert not resumed.files.arrays["reward"][newest].any()


def test_episodes_cut_by_a_kill_are_not_joined(tmp_path: Path) -> None:
    replay = build(tmp_path)
    write(replay, 0, 15)
    replay.flush()
    resumed = build(tmp_path)
    resumed.load_state_dict(replay.state_dict())
    before = len(resumed)
    resumed.end_episodes()
    write(resumed, 15, 1)
    assert len(resumed) == before + 2  # one transition per lane, none from the old last row to the new first one


KILLED = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_replay_files import RESERVE, build, write
folder = Path({folder!r})
replays = [build(folder / storage, storage) for storage in ("memory", "disk")]
for replay in replays:
    write(replay, 0, 90)
    replay.flush()
    (folder / "state.json").write_text(json.dumps(replay.state_dict()))
    write(replay, 90, RESERVE // 2)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_survives_kill_9(tmp_path: Path) -> None:
    program = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    state = json.loads((tmp_path / "state.json").read_text())
    for storage in ("memory", "disk"):
        expected, resumed = build(None), build(tmp_path / storage, storage)
        write(expected, 0, 90)
        resumed.load_state_dict(state)
        assert_same(resumed, expected)


def test_a_folder_begins_empty(tmp_path: Path) -> None:
    replay = build(tmp_path / "a" / "b", "disk")
    assert len(replay) == 0
    with pytest.raises(ReplayError, match="holds 0"):
        replay.sample(1)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"capacity": 80}, "length"),
        ({"num_envs": 1, "capacity": CAPACITY // 2}, "lanes"),
        ({"observation_shape": (6, 2, 3)}, "fields"),
        ({"action_space": spaces.Discrete(2)}, "fields"),
        ({"action_space": spaces.Box(-1, 1, (3,))}, "fields"),
    ],
    ids=str,
)
def test_a_folder_of_another_replay_is_refused(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    build(tmp_path, "disk")
    with pytest.raises(ReplayError, match=rf"holds a replay with other {named}.*another folder, or delete"):
        build(tmp_path, "disk", **options)
    build(tmp_path, "disk")  # the refusal did no harm


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\udcff"], ids=repr)
def test_a_damaged_description_is_refused(text: str, tmp_path: Path) -> None:
    build(tmp_path, "disk")
    (tmp_path / "replay.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ReplayError, match="another folder, or delete"):
        build(tmp_path, "disk")


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "pickle":
        np.save(path, np.array([{}], object), allow_pickle=True)
    elif how == "garbled header":
        path.write_bytes(whole[:10] + b"((( '" + whole[15:])
    else:
        np.save(path, np.zeros(3))


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "pickle", "garbled header", "other shape"])
@pytest.mark.parametrize("name", ["frame", "reward"])
def test_damaged_rows_are_refused(name: str, how: str, tmp_path: Path) -> None:
    build(tmp_path, "disk")
    damage(tmp_path / f"{name}.npy", how)
    with pytest.raises(ReplayError, match=rf"{name}\.npy is .*another folder, or delete"):
        build(tmp_path, "disk")


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_files_that_are_not_those_of_the_state_are_refused(storage: str, tmp_path: Path) -> None:
    """As if a checkpoint was copied without its replay, or with an older one."""
    replay = build(tmp_path / "full", storage)
    write(replay, 0, 40)
    replay.flush()
    old = replay.state_dict()
    write(replay, 40, RESERVE // 2)
    newer = build(tmp_path / "newer", storage)
    write(newer, 0, 40 + RESERVE // 2)
    newer.flush()
    state = newer.state_dict()
    for resumed in (build(tmp_path / "empty", storage), build(tmp_path / "full", storage)):
        with pytest.raises(ReplayError, match="are not those of the saved replay"):
            resumed.load_state_dict(state)
        assert len(resumed) == 0
    with pytest.raises(ReplayError, match="are not those of the saved replay"):
        build(tmp_path / "full", storage).load_state_dict(old | {"head": [3]})
    build(tmp_path / "full", storage).load_state_dict(old)
    if storage == "disk":  # overwrites frames that belong to the old state
        write(replay, 40 + RESERVE // 2, 40)
        with pytest.raises(ReplayError, match="are not those of the saved replay"):
            build(tmp_path / "full", storage).load_state_dict(old)


def test_loading_and_flushing_without_files_are_refused() -> None:
    replay = build(None)
    with pytest.raises(ReplayError, match="no files: build it with path="):
        replay.load_state_dict(replay.state_dict())
    with pytest.raises(ReplayError, match="no files: build it with path="):
        replay.flush()


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_a_state_without_its_rows_is_not_given_away(storage: str, tmp_path: Path) -> None:
    replay = build(tmp_path, storage)
    write(replay, 0, 40)
    with pytest.raises(ReplayError, match=r"call flush\(\) before state_dict"):
        replay.state_dict()


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_an_earlier_replay_is_overwritten_only_if_that_is_asked_for(storage: str, tmp_path: Path) -> None:
    first = build(tmp_path, storage)
    write(first, 0, 40)
    first.flush()
    state = first.state_dict()
    second = build(tmp_path, storage)
    with pytest.raises(ReplayError, match=r"holds an earlier replay: load_state_dict\(…\) continues it, empty\(\)"):
        write(second, 0, 1)
    second.load_state_dict(state)
    assert_same(second, first)  # nothing was lost
    third, expected = (build(path, storage if path else "memory", prioritized=True) for path in (tmp_path, None))
    third.empty()
    write(third, 0, 30)  # other rows, with other priorities
    third.update_priority(torch.arange(8), torch.rand(8) + 5)
    third.empty()
    for each in (third, expected):
        write(each, 0, 40)
    for name, array in content(third).items():  # priorities, too
        np.testing.assert_array_equal(array, content(expected)[name], err_msg=name)
    assert third.largest_priority == expected.largest_priority


@pytest.mark.parametrize("after", [0, 3])
def test_a_disk_that_is_too_small(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def full(descriptor: int, offset: int, size: int) -> None:
        calls.append(size)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full, raising=False)
        with pytest.raises(ReplayError, match=r"0\.01 GB in .*No space left.*free space.*make the replay smaller"):
            build(tmp_path / "replay", "disk", capacity=200_000)
    assert not list((tmp_path / "replay").iterdir())
    replay = build(tmp_path / "replay", "disk")
    write(replay, 0, 20)
    replay.sample(4)


def test_the_whole_size_is_reserved_at_once(tmp_path: Path) -> None:
    build(tmp_path, "disk", capacity=20_000)
    assert (tmp_path / "frame.npy").stat().st_blocks * 512 >= 20_000 * 3 * 3 * 2


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "replay").write_text("mine")
    with pytest.raises(ReplayError, match="can't make a replay"):
        build(tmp_path / "replay", "disk")
    assert (tmp_path / "replay").read_text() == "mine"
