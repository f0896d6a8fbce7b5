"""Data of V-D4RL's levels from the checkpoints of a run."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from rlrep.data import TransitionFiles
from rlrep.data.replay_files import episodes_of
from rlrep.experiments.run.collection import Snapshot, collect, expert_of, medium_of, snapshots
from rlrep.experiments.run.options import ConfigError
from tests.experiments.conftest import ROOT, run_in

Collect = Callable[..., Path]
EVALUATIONS = {1000: 300.0, 2000: 600.0, 3000: 900.0}


def kept(returns: list[float]) -> list[Snapshot]:
    return [Snapshot(Path(f"{i}.pt"), i, i, value) for i, value in enumerate(returns)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three checkpoints, whose evaluations are made up so that the second is the medium one."""
    folder = run_in(
        tmp_path_factory.mktemp("trained") / "run", "agent=drqv2", "save_snapshot=true", "eval_every_frames=1000"
    )
    rows = [f"{frame},{value}" for frame, value in ({0: 280.0} | EVALUATIONS).items()]
    (folder / "eval.csv").write_text("\n".join(["frame,episode_return", *rows]) + "\n")
    return folder


@pytest.fixture
def collected(trained: Path, tmp_path: Path) -> Collect:
    def collected(level: str, *overrides: str) -> Path:
        fixed = [f"run={trained}", f"level={level}", f"out={tmp_path}/{level}", "steps=30", "reference_episodes=1"]
        with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments" / "conf")):
            return collect(compose("collect", [*fixed, "device=cpu", *overrides]))

    return collected


def episodes(folder: Path) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Frames, actions and rewards."""
    return [(episode.frames, episode.action, episode.reward) for episode in TransitionFiles(folder)]


def test_the_expert_is_the_best_and_medium_the_first_that_is_half_as_good() -> None:
    found = kept([0.0, 30, 49, 60, 55, 100, 80])
    assert expert_of(found).frame == 5
    assert medium_of(found, 0.0).frame == 3
    assert medium_of(found, 20.0).frame == 3  # half of the way from 20 to 100 is 60
    with pytest.raises(ConfigError, match="no checkpoint before the expert's, at frame 2 with return 100"):
        medium_of(kept([0.0, 20, 100]), 0.0)


def test_a_checkpoint_goes_with_the_evaluation_nearest_to_it(tmp_path: Path) -> None:
    """As in a run with four environments."""
    (tmp_path / "checkpoints").mkdir()
    for frame in (4000, 8000, 12000, 16000):
        (tmp_path / "checkpoints" / f"{frame:09d}.pt").touch()
    rows = ("0,1", "5000,2", "10008,3", "15000,4", "100000,5")
    (tmp_path / "eval.csv").write_text("\n".join(["frame,episode_return", *rows]) + "\n")
    found = [(one.frame, one.evaluated, one.episode_return) for one in snapshots(tmp_path)]
    assert found == [(4000, 5000, 2), (12000, 10008, 3), (16000, 15000, 4)]


def test_only_checkpoints_that_were_evaluated_count(trained: Path, tmp_path: Path) -> None:
    assert {snapshot.frame: snapshot.episode_return for snapshot in snapshots(trained)} == EVALUATIONS
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "eval.csv").write_text("frame,episode_return\n0,1\n")
    with pytest.raises(ConfigError, match="save_snapshot=true"):
        snapshots(tmp_path)


@pytest.mark.parametrize(
    "level",
    ["random", "medium_expert", *(pytest.param(level, marks=pytest.mark.slow) for level in ("medium", "expert"))],
)
def test_policies_play_whole_episodes(collected: Collect, level: str) -> None:
    folder = collected(level)
    found = episodes(folder)
    assert [len(reward) for _, _, reward in found] == [20, 20]
    assert found[0][0].shape == (21, 3, 20, 20)
    assert not np.array_equal(found[0][0], found[1][0])
    told = TransitionFiles(folder).provenance
    assert (told.task, told.level) == ("cartpole_balance", level)
    assert told.random_return is not None and told.expert_return is not None
    assert (told.made["action_repeat"], told.made["image_size"], told.made["camera"]) == (50, 20, None)
    assert all(checkpoint["evaluated_at"] == checkpoint["frame"] for checkpoint in told.made["checkpoints"].values())
    frames = {name: checkpoint["frame"] for name, checkpoint in told.made["checkpoints"].items()}
    assert frames == {"expert": 3000} | ({"medium": 2000} if "medium" in level else {})
    assert told.made["policies"] == level.split("_")


def test_the_replays_are_what_the_run_had_seen(collected: Collect, trained: Path) -> None:
    medium, full = (episodes(collected(f"{level}_replay")) for level in ("medium", "full"))
    assert (len(medium), len(full)) == (2, 3)
    rows = {name: np.load(trained / "replay" / f"{name}.npy")[0, :63] for name in ("frame", "action", "reward")}
    for number, (frames, action, reward) in enumerate(full):
        at = slice(21 * number, 21 * (number + 1))
        np.testing.assert_array_equal(frames, rows["frame"][at])
        np.testing.assert_array_equal(action, rows["action"][at][:-1])
        np.testing.assert_array_equal(reward, rows["reward"][at][:-1])
    with (trained / "train.csv").open(newline="") as file:
        returns = [float(row["episode_return"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose([reward.sum() for _, _, reward in full], returns, rtol=1e-4)
    for ours, theirs in zip(medium, full, strict=False):
        assert all(map(np.array_equal, ours, theirs))


@pytest.mark.slow
def test_without_noise_the_same_seed_gives_the_same_data(collected: Collect, tmp_path: Path) -> None:
    first, second = (episodes(collected("expert", f"out={tmp_path}/{name}", "noise=0")) for name in "ab")
    assert all(
        np.array_equal(a, b)
        for ours, theirs in zip(first, second, strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )
    noisy = episodes(collected("expert"))
    assert np.array_equal(noisy[0][0][0], first[0][0][0]) and not np.array_equal(noisy[0][1], first[0][1])


def test_an_overwritten_replay_is_refused(collected: Collect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "rlrep.experiments.run.collection.episodes_of", lambda rows, lane: list(episodes_of(rows, lane))[1:]
    )
    with pytest.raises(ConfigError, match="overwritten the beginning of its replay"):
        collected("full_replay")


def test_what_can_not_be_collected_is_refused(collected: Collect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlrep.experiments.run.collection.evaluate", None)  # fails if anything is played
    for level, overrides, message in (
        ("mediun", (), "unknown level 'mediun': did you mean medium"),
        ("random", (f"out={ROOT}",), "is there already"),
        ("random", ("out=/proc/new/data",), r"can't write /proc/new/data \(.*\): free space, or choose another folder"),
        ("random", (f"out={__file__}/data",), r"can't write .*test_collect\.py/data \(.*Not a directory"),
        ("random", ("format=hdf",), "unknown format 'hdf': known: drqv2, minari, rlrep, vd4rl_64, vd4rl_84"),
        ("random", ("steps=0",), "steps must be at least 1"),
        ("random", ("run=/nowhere",), "/nowhere is not a run"),
        ("random", ("run=???",), "run is missing"),
    ):
        with pytest.raises(ConfigError, match=message):
            collected(level, *overrides)


@pytest.mark.parametrize(
    ("evaluations", "message"),
    [
        ({1000: 900.0, 2000: 600.0, 3000: 300.0}, "at frame 1000, is the first that was kept: there is no medium"),
        ({1000: 1.0, 2000: 2.0, 3000: 3.0}, r"at frame 3000, gets 3\.0, the random policy \d+"),
    ],
)
def test_what_the_runs_tables_rule_out_is_refused_before_anything_is_played(
    collected: Collect,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    evaluations: dict[int, float],
    message: str,
) -> None:
    monkeypatch.setattr("rlrep.experiments.run.collection.evaluate", None)
    run = shutil.copytree(trained, tmp_path / "run")
    rows = [f"{frame},{value}" for frame, value in evaluations.items()]
    (run / "eval.csv").write_text("\n".join(["frame,episode_return", *rows]) + "\n")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("num_expl_steps: 5", "num_expl_steps: 20"))
    with pytest.raises(ConfigError, match=message):
        collected("medium", f"run={run}")
