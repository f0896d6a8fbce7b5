"""A run, end to end: its files, and its numbers of steps and updates."""

import csv
import fcntl
import re
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from rlrep.agents import DrQV2
from rlrep.experiments.run import train_config as configuration
from rlrep.experiments.run.checkpoint import load_checkpoint
from rlrep.experiments.run.evaluation import make_evaluation_env
from rlrep.experiments.run.options import ConfigError, defaults
from rlrep.experiments.run.sections import NoiseConfig
from tests.experiments.conftest import MRQ

Run = Callable[..., Path]
Start = Callable[..., subprocess.Popen[str]]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("agent", "losses"),
    [
        ("agent=taco", {"critic_loss", "actor_loss", "loss_taco", "loss_curl", "loss_reward"}),
        ("agent=drqv2", {"critic_loss", "actor_loss"}),
        ("agent=sac", {"critic_loss", "actor_loss"}),
        ("agent=sac objectives=[taco]", {"critic_loss", "actor_loss", "loss_taco", "loss_curl", "loss_reward"}),
        ("agent=drqv2 objectives=[curl]", {"critic_loss", "actor_loss", "loss_curl"}),
        ("agent=sac objectives=[forward_model]", {"critic_loss", "actor_loss", "loss_forward"}),
        (
            "agent=drqv2 objectives=[autoencoder,temporal_contrastive,inverse_model]",
            {"critic_loss", "actor_loss", "loss_reconstruction", "loss_temporal", "loss_inverse"},
        ),
        (
            " ".join((*MRQ, "objective.latent_model.contrast=0.1", "objectives=[curl]")),
            {f"loss_model_{name}" for name in ("prediction", "reward", "termination", "contrast")}
            | {"value_loss", "policy_loss", "loss_curl"},
        ),
    ],
)
def test_every_agent_and_objective_leaves_a_whole_folder(run: Run, agent: str, losses: set[str]) -> None:
    folder = run(*agent.split(), "num_train_frames=2000", "eval_every_frames=2000", "save_video=true")
    assert configuration.load(folder / "config.yaml").run_dir == str(folder)
    training, evaluation = table(folder / "train.csv"), table(folder / "eval.csv")
    assert [row["frame"] for row in training] == ["1000", "2000"]
    assert [row["frame"] for row in evaluation] == ["0", "2000"]
    assert all(float(row["episode_return"]) > 0 for row in training + evaluation)
    assert {name for name in training[-1] if "loss" in name} == losses
    learned = losses - {"loss_model_termination"}  # it is 0 without real ends
    assert all(float(training[-1][name]) != 0 for name in learned)
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert load_checkpoint(folder / "checkpoints" / "latest.pt")["step"] == 40
    assert (folder / "replay" / "frame.npy").exists()
    for name in ("000000000", "000002000"):
        with av.open(str(folder / "videos" / f"{name}.mp4")) as video:
            assert len(list(video.decode(video=0))) == 20


def test_distractors_are_in_the_training_data(run: Run, tmp_path: Path) -> None:
    """And in evaluations."""
    noisy = run("noise.kind=shapes", "noise.size=0.5", "num_train_frames=2000", f"run_dir={tmp_path / 'noisy'}")
    config = configuration.load(noisy / "config.yaml")
    clean = replace(config, noise=NoiseConfig(**defaults(NoiseConfig)))
    pictures = []
    for each in (config, clean):
        with closing(make_evaluation_env(each)) as env:
            pictures.append(env.reset(seed=0)[0])
    assert (pictures[0] != pictures[1]).mean() > 0.1
    run("num_train_frames=2000", f"run_dir={tmp_path / 'clean'}")
    frames = [np.load(tmp_path / name / "replay" / "frame.npy")[0, 0] for name in ("noisy", "clean")]
    assert (frames[0] != frames[1]).mean() > 0.1


def test_impossible_distractors_are_refused(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"noise\.persistence must be at least 0 and at most 1, got 2"):
        run("noise.kind=shapes", "noise.persistence=2.0")


def test_frames_count_simulator_steps(finished: Path) -> None:
    rows = table(finished / "train.csv")
    assert [row["frame"] for row in rows] == ["1000", "2000", "3000"]  # cartpole's episodes are 1,000 steps
    assert {row["episode_length"] for row in rows} == {"20"}


@pytest.mark.parametrize(("num_envs", "every"), [(1, 2), (1, 0.5), (1, 3), (2, 1)])
def test_updates_are_as_many_as_configured(
    run: Run, monkeypatch: pytest.MonkeyPatch, num_envs: int, every: float
) -> None:
    steps = []
    update = DrQV2.update
    monkeypatch.setattr(DrQV2, "update", lambda agent, batch, step: steps.append(step) or update(agent, batch, step))
    folder = run(
        "agent=drqv2",
        f"num_envs={num_envs}",
        f"agent.update_every_steps={every}",
        "num_train_frames=1500",
    )
    # 30 agent steps; the first update comes after 10 of them.
    assert len(steps) == int((30 - 10) / every) + 1 == load_checkpoint(folder / "checkpoints" / "latest.pt")["updates"]
    assert (min(steps), max(steps)) == (10, 30 if 20 % every == 0 else 28)


def test_environment_processes_end_with_a_run_that_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import multiprocessing

    def fail(*_: Any) -> None:
        raise AssertionError("a programming error")

    monkeypatch.setattr("rlrep.experiments.run.online.OnlineRun.update", fail)
    with pytest.raises(AssertionError, match="a programming error"):
        run("agent=drqv2", "num_envs=2")
    assert not multiprocessing.active_children()


def test_a_folder_is_trained_in_by_one_process_at_a_time(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process works in"):
            run("agent=drqv2")


def test_progress_without_a_terminal_is_a_few_clean_lines(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run("agent=taco")
    lines = capfd.readouterr().err.splitlines(keepends=True)
    assert 2 <= len(lines) <= 4 and not any("\r" in line for line in lines)
    expected = (
        r"cartpole_balance taco seed 1: 3000 of 3000 frames, [\d.]+ frames/s, 00:00 left, "
        r"eval return [\d.]+, train return [\d.]+, critic .+, taco .+\n"
    )
    assert lines[0].startswith("cartpole_balance, taco: 3,000 frames, pictures of 20x20, cpu, ")
    assert re.fullmatch(expected, lines[-1])


def multirun(start: Start, folder: Path, run_dir: str, *overrides: str) -> list[str]:
    """The folders of the runs of one command, relative to `folder`."""
    usual = ["agent=drqv2", "num_train_frames=1000", f"run_dir={folder}/{run_dir}", f"hydra.sweep.dir={folder}/sweep"]
    done = start(*usual, *overrides, multirun=True)
    _, errors = done.communicate()
    assert done.returncode == 0, errors
    return sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("eval.csv"))


def test_multirun_makes_a_folder_for_each_task_and_seed(tmp_path: Path, start: Start) -> None:
    found = multirun(start, tmp_path, "${task}/${seed}", "task=cartpole_balance,pendulum_swingup")
    assert found == ["cartpole_balance/1", "pendulum_swingup/1"]


@pytest.mark.slow
def test_multirun_on_ray(tmp_path: Path, start: Start) -> None:
    launcher = ["hydra/launcher=ray", "hydra.launcher.ray.init.address=local"]
    assert multirun(start, tmp_path, "${seed}", *launcher, "+hydra.launcher.ray.init.num_cpus=2", "seed=1,2") == [
        "1",
        "2",
    ]
