"""Evaluating a run again gives the same numbers each time, and those of its last evaluation."""

import csv
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest

from rlrep.envs import make_vector_env
from rlrep.experiments.evaluate import main
from rlrep.experiments.run import train_config as configuration
from rlrep.experiments.run.evaluation import (
    Evaluation,
    environment_options,
    evaluate,
    make_evaluation_env,
    make_evaluation_envs,
)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def returns(path: Path) -> list[float]:
    with path.open(newline="") as file:
        return [float(row["episode_return"]) for row in csv.DictReader(file)]


def test_a_checkpoint_scores_what_it_scored_in_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--episodes", "3", "--device", "cpu"]) == 0
    assert "cartpole_balance, drqv2 after 3,000 frames: return" in (told := capsys.readouterr().out)
    scores = returns(folder / "evaluate.csv")
    assert len(scores) == 3 and scores[0] == returns(folder / "eval.csv")[-1]
    with av.open(str(folder / "videos" / "evaluate.mp4")) as video:
        assert len(list(video.decode(video=0))) == 20
    assert main([str(folder), "--episodes", "3", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == told and returns(folder / "evaluate.csv") == scores


def test_an_evaluation_says_how_far_it_is_and_what_comes_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rlrep.experiments.evaluate.PATIENCE", 0)
    assert main([str(folder), "--episodes", "2", "--device", "cpu"]) == 0
    told = capsys.readouterr()
    first, last = told.err.splitlines()
    assert first.startswith("evaluating drqv2 after 3,000 frames: 0 of 2 episodes, ")
    assert last.startswith("evaluating drqv2 after 3,000 frames: 2 of 2 episodes, ")
    assert told.out.endswith("next: the same command with --random, to compare with\n")
    assert main([str(folder), "--episodes", "1", "--random"]) == 0
    assert main([str(folder), "--episodes", "1", "--device", "cpu"]) == 0
    assert "next" not in capsys.readouterr().out


def test_each_kept_checkpoint_can_be_scored(run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("agent=drqv2", "save_snapshot=true")
    kept = sorted((folder / "checkpoints").glob("0*.pt"))
    assert [path.stem for path in kept] == ["000001000", "000002000", "000003000"]
    assert main([str(kept[0]), "--episodes", "1", "--device", "cpu"]) == 0
    assert "drqv2 after 1,000 frames" in capsys.readouterr().out


def test_the_random_policy_needs_no_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder / "checkpoints")
    video = folder / "elsewhere" / "random.mp4"
    assert main([str(folder), "--random", "--episodes", "2", "--video", str(video)]) == 0
    assert "cartpole_balance, random: return" in capsys.readouterr().out
    scores = returns(folder / "random.csv")
    assert len(scores) == 2 and min(scores) > 0 and video.exists()
    assert main([str(folder), "--random", "--episodes", "2", "--seed", "5"]) == 0
    assert returns(folder / "random.csv") != scores


def test_what_is_not_a_run_is_reported_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*arguments: str) -> str:
        assert main([*arguments, "--episodes", "1"]) == 1
        return capsys.readouterr().err

    assert error(str(tmp_path)) == f"error: {tmp_path} is not a run: it has no config.yaml\n"
    assert "is not a run: it has no config.yaml" in error("alone.pt")
    assert error(str(folder), "--device", "gpu").startswith("error: device=gpu is not a device")
    (folder / "checkpoints" / "latest.pt").write_bytes(b"PK")
    assert "latest.pt is truncated or damaged" in error(str(folder))
    (folder / "checkpoints" / "latest.pt").unlink()
    assert "there is no checkpoint at" in error(str(folder))
    (folder / "file").touch()
    assert error(str(folder), "--random", "--video", str(folder / "file" / "x.mp4")).startswith("error: [Errno 17]")
    with pytest.raises(SystemExit):
        main([str(folder), "--episodes", "0"])


def test_episodes_played_side_by_side_are_those_played_one_by_one(finished: Path) -> None:
    config = configuration.load(finished / "config.yaml")
    config.num_envs, config.num_eval_episodes, config.save_video = 2, 5, False

    def policy(observation: np.ndarray) -> np.ndarray:
        return observation.mean((1, 2, 3), dtype=np.float32)[:, None] / 128 - 1

    with closing(make_evaluation_env(config)) as env, closing(make_evaluation_envs(config)) as envs:
        alone = evaluate(policy, env, 5).returns
        assert len(set(alone)) == 5
        for _ in range(2):
            ended: list[int] = []
            np.testing.assert_array_equal(evaluate(policy, env, 5, envs=envs, told=ended.append).returns, alone)
            assert ended == sorted(ended) and ended[0] == 0 and ended[-1] == 5


def test_evaluations_play_other_episodes_than_the_training(finished: Path) -> None:
    config = configuration.load(finished / "config.yaml")
    config.num_envs, config.num_eval_episodes, config.save_video = 2, 2, False
    trained = make_vector_env(config.task, 2, seed=config.seed, **environment_options(config))
    with closing(trained), closing(make_evaluation_env(config)) as env, closing(make_evaluation_envs(config)) as envs:
        seen = trained.reset()[1]["state"]
        for first in (env.reset()[1]["state"], *envs.reset()[1]["state"]):
            assert len(seen) == 2 and not any(np.allclose(first, other) for other in seen)


def test_one_environment_is_evaluated_alone(finished: Path) -> None:
    assert make_evaluation_envs(configuration.load(finished / "config.yaml")) is None


def test_a_video_that_cannot_be_written_is_refused_before_anything_is_played(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("rlrep.experiments.evaluate.evaluate", lambda *_, **__: pytest.fail("it was played"))
    assert main([str(folder), "--video", str(tmp_path / "file" / "a.mp4")]) == 1
    assert "file" in capsys.readouterr().err
    assert main([str(folder), "--video", "/proc/a.mp4"]) == 1  # not visible in permissions
    assert "/proc" in capsys.readouterr().err
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("rlrep.experiments.evaluate.evaluate", lambda *_, **__: pytest.exit("played"))
    with pytest.raises(pytest.exit.Exception, match="played"):
        main([str(folder), "--video", str(tmp_path / "a.mp4")])
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(SystemExit):
        main([str(folder), "--video", "a.txt"])
    assert "--video takes the name of an MP4 file, got a.txt" in capsys.readouterr().err


def test_returns_outlive_a_video_that_fails(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("rlrep.experiments.evaluate.write_video", fail)
    assert main([str(folder), "--episodes", "1"]) == 1
    assert len(returns(folder / "evaluate.csv")) == 1


def test_the_statistics_of_returns_do_not_overflow() -> None:
    row = Evaluation(np.array([1.7e308, 1.7e308, -1.7e308]), [], 20.0).row
    assert np.isclose(row["episode_return"], 1.7e308 / 3) and np.isfinite(row["episode_return_std"])
    for values in (np.random.default_rng(0).normal(300, 50, 7), np.zeros(3), np.array([-1.5])):
        row = Evaluation(values, [], 20.0).row
        assert (row["episode_return"], row["episode_return_std"]) == (values.mean(), values.std())
