"""The examples with Stable-Baselines3, at a tiny size."""

import csv

import pytest
from stable_baselines3 import SAC

from rlrep.experiments.plugins import sb3_memory, sb3_sac
from rlrep.experiments.results.runs import read_run

TASK = "cartpole_balance"
TINY = [f"--task={TASK}", "--image-size=32", "--action-repeat=50", "--eval-episodes=1", "--steps=24"]


def run(tmp_path, *arguments: str):
    assert sb3_sac.main([*TINY, "--eval-every=20", f"--out={tmp_path}", *arguments]) == 0
    return next(tmp_path.glob("*/*/seed_*"))


def test_a_run_writes_what_curves_are_drawn_from(tmp_path) -> None:
    folder = run(tmp_path, "--objective=taco", "--seed=3")
    read = read_run(folder)
    assert read.frames.tolist() == [1000, 1200]
    assert (read.label("agent.name"), read.label("seed"), read.label("task")) == ("SAC + taco", "seed=3", TASK)
    with (folder / "progress.csv").open() as file:
        assert "rlrep/loss_taco" in next(csv.DictReader(file))
    assert "train" in vars(SAC.load(folder / "model"))


def test_a_run_without_objective_is_plain_sac_and_logs_to_weights_and_biases_offline(tmp_path) -> None:
    pytest.importorskip("wandb")
    folder = run(tmp_path, "--objective=none", "--wandb=offline")
    assert "train" not in vars(SAC.load(folder / "model"))
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))


def test_an_unknown_task_is_one_sentence(capsys) -> None:
    assert sb3_sac.main(["--task=cartpole_balanse"]) == 1
    assert "cartpole_balance" in capsys.readouterr().err


@pytest.mark.slow
def test_the_time_of_a_train_step_is_printed(capsys) -> None:
    assert sb3_sac.main([*TINY, "--time"]) == 0
    assert "times" in capsys.readouterr().out


def test_stable_baselines_own_replay_takes_six_times_the_memory() -> None:
    sizes = list(sb3_memory.replay_bytes(50_000).values())
    assert sizes[0] == 50_000 * (2 * 9 * 84 * 84 + 6 * 4 + 3 * 4)
    assert 5.9 < sizes[0] / sizes[2] < 6.1 and 2.9 < sizes[1] / sizes[2] < 3.1
