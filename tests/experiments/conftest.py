"""Tiny runs: an episode of cartpole_balance is 1,000 simulator steps, here 20 agent steps."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from rlrep.experiments.run.online import train

ROOT = Path(__file__).parents[2]
TINY = [
    "task=cartpole_balance",
    "device=cpu",
    "action_repeat=50",
    "num_train_frames=3000",
    "num_seed_frames=500",
    "eval_every_frames=3000",
    "checkpoint_every_frames=1000",
    "num_eval_episodes=1",
    "image_size=20",
    "batch_size=8",
    "encoder.channels=4",
    "encoder.precision=float32",
    "hidden_dim=16",
    "feature_dim=8",
    "++agent.num_expl_steps=5",
    "save_video=false",
]

# MR.Q at similarly small sizes.
MRQ = (
    "agent=mrq",
    "agent.target_every=7",
    "encoder.strides=[2,2,1]",
    "objective.latent_model.horizon=2",
    "objective.latent_model.state_dim=8",
    "objective.latent_model.state_action_dim=8",
    "objective.latent_model.latent_action_dim=4",
)

Run = Callable[..., Path]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As in the subprocesses, so that both compute the same bits, and other runs keep the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_in(folder: Path, *overrides: str) -> Path:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments" / "conf")):
        return train(compose("config", [*TINY, f"run_dir={folder}", *overrides]))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Trains a tiny run in this process, in tmp_path/run unless run_dir says otherwise."""
    return lambda *overrides: run_in(tmp_path / "run", *overrides)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of drqv2; tests only read it."""
    return run_in(tmp_path_factory.mktemp("finished") / "run", "agent=drqv2", "save_video=true")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `python -m rlrep.experiments.train` for a tiny run, in tmp_path/run unless run_dir says otherwise."""
    started: list[subprocess.Popen[str]] = []

    def start(*overrides: str, multirun: bool = False, **variables: str) -> subprocess.Popen[str]:
        flags = ["--multirun"] if multirun else []
        command = [
            sys.executable,
            "-m",
            "rlrep.experiments.train",
            *flags,
            *TINY,
            f"run_dir={tmp_path}/run",
            *overrides,
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "0", "MUJOCO_GL": "egl"} | variables
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
