"""Runs with several processes, as torchrun starts them."""

import csv
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.multiprocessing
from hydra import compose, initialize_config_dir

from rlrep.experiments.run import ranks
from rlrep.experiments.run.agent import build_agent, own_share
from rlrep.experiments.run.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rlrep.experiments.run.evaluation import make_evaluation_env
from rlrep.experiments.run.online import OnlineRun
from rlrep.experiments.run.train_config import complete
from rlrep.kept import NOBODY, KeptEmbeddings
from tests.experiments.conftest import MRQ, ROOT, TINY, run_in

Run = Callable[..., Path]
RANKS = 2
OVERRIDES = ("agent=taco", f"num_envs={RANKS}", "batch_size=8", "eval_every_frames=2000")
CHECKPOINT = "checkpoints/latest.pt"


def test_one_process_shares_with_nobody() -> None:
    assert (ranks.rank(), ranks.world_size()) == (0, 1)
    assert ranks.share("num_envs", 3) == 3 and ranks.seed(7) == 7
    assert ranks.from_first("it") == "it" and ranks.to_first("it") == ["it"]
    with ranks.joined("cpu") as device:
        assert device == "cpu" and ranks.world_size() == 1


def test_a_build_of_pytorch_without_ranks_has_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    monkeypatch.delattr(torch.distributed, "is_initialized")  # which such builds lack
    assert (ranks.rank(), ranks.world_size()) == (0, 1)


def test_each_rank_has_a_seed_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = set()
    for rank in range(4):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        seeds |= {ranks.seed(run) for run in (1, 2)}
    assert len(seeds) == 8


def test_what_can_not_be_shared_evenly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    assert ranks.share("batch_size", 8) == 4
    with pytest.raises(ValueError, match="batch_size=9 can't be shared by 2 processes: make it a multiple of 2"):
        ranks.share("batch_size", 9)


def test_a_batch_of_an_objectives_own_is_shared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    assert own_share("taco", {"horizon": 3, "batch_size": 8}) == {"horizon": 3, "batch_size": 4}
    assert own_share("taco", {"horizon": 3, "batch_size": None}) == {"horizon": 3, "batch_size": None}
    with pytest.raises(ValueError, match=r"objective.taco.batch_size=9 can't be shared by 2"):
        own_share("taco", {"batch_size": 9})


def test_a_checkpoint_of_more_processes_is_refused(run: Run, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    state = load_checkpoint(folder / CHECKPOINT)
    state["ranks"] = state["ranks"] * 2
    save_checkpoint(folder / CHECKPOINT, {name: value for name, value in state.items() if name != "version"})
    expected = "trained by 2 processes, and now there are 1: go on with torchrun --nproc-per-node=2"
    with pytest.raises(CheckpointError, match=expected):
        run("agent=drqv2", "resume=true", "num_train_frames=4000")


def torchrun(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    command += ["-m", "rlrep.experiments.train", *TINY, f"run_dir={folder}", *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "0", "MUJOCO_GL": "egl"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def go_on(rank: int, folder: Path, port: int, *overrides: str) -> None:
    """Runs one rank as torchrun would; saves its agent at every checkpoint."""
    torch.set_num_threads(1)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= address | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    save = OnlineRun.save

    def save_agent_too(trainer: OnlineRun) -> None:
        torch.save(trainer.agent.state_dict(), folder / f"agent_{rank}_{trainer.step}.pt")
        save(trainer)

    with patch.object(OnlineRun, "save", save_agent_too):
        run_in(folder, *overrides)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "run"
    done = torchrun(folder, *OVERRIDES, "num_train_frames=2500")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished: ") == 1
    return folder


def frames(path: Path) -> list[int]:
    with path.open(newline="") as file:
        return [int(row["frame"]) for row in csv.DictReader(file)]


def expected_updates(step: int, every: int = 2) -> int:
    return (step - 10) // every + 1


@pytest.mark.slow
def test_two_processes_make_one_run(first_run: Path) -> None:
    state = load_checkpoint(first_run / CHECKPOINT)
    assert (state["step"], state["updates"]) == (50, expected_updates(50))
    assert len(state["ranks"]) == RANKS
    assert frames(first_run / "eval.csv") == [0, 2000, 2500]
    for folder in (first_run, first_run / "rank_1"):
        assert frames(folder / "train.csv") == [2000]  # one episode of 20 agent steps in each of two environments
        assert (folder / "replay" / "frame.npy").exists()
    assert not (first_run / "rank_1" / "checkpoints").exists() and not (first_run / "rank_1" / "config.yaml").exists()
    actions = [np.load(folder / "replay" / "action.npy") for folder in (first_run, first_run / "rank_1")]
    assert actions[0].shape == actions[1].shape and not np.array_equal(*actions)
    random_states = [of_rank["random"]["cpu"] for of_rank in state["ranks"]]
    assert not torch.equal(*random_states)


@pytest.mark.slow
def test_two_processes_go_on_with_equal_agents(first_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(first_run, folder)
    overrides = (*OVERRIDES, "resume=true", "num_train_frames=4500")
    torch.multiprocessing.spawn(go_on, (folder, free_port(), *overrides), nprocs=RANKS)
    state = load_checkpoint(folder / CHECKPOINT)
    assert (state["step"], state["updates"]) == (90, expected_updates(90))
    assert frames(folder / "eval.csv") == [0, 2000, 2500, 4000, 4500]
    first, second = (torch.load(folder / f"agent_{rank}_90.pt", weights_only=True) for rank in range(RANKS))
    before = load_checkpoint(first_run / CHECKPOINT)["agent"]
    for key, value in first.items():
        if key != "_extra_state":
            assert torch.equal(value, second[key]) and torch.equal(value, state["agent"][key]), key
    assert any(not torch.equal(value, before[key]) for key, value in first.items() if key != "_extra_state")


@pytest.mark.slow
def test_another_number_of_processes_is_refused(first_run: Path, run: Run) -> None:
    before = {path: path.read_bytes() for path in first_run.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"trained by 2 processes, .* go on with torchrun --nproc-per-node=2"):
        run(*OVERRIDES, f"run_dir={first_run}", "resume=true", "num_train_frames=4500")
    assert {path: path.read_bytes() for path in first_run.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_run_of_one_process_is_refused_by_two(run: Run, tmp_path: Path) -> None:
    folder = run(*OVERRIDES, "num_train_frames=1000")
    done = torchrun(folder, *OVERRIDES, "num_train_frames=2500", "resume=true")
    assert done.returncode != 0
    assert re.search("trained by 1 process.*, and now there are 2: go on with torchrun --nproc-per-node=1", done.stderr)
    assert "delete" not in done.stderr and not (folder / "rank_1").exists()


@pytest.mark.slow
def test_fewer_environments_than_processes_are_refused(tmp_path: Path) -> None:
    done = torchrun(tmp_path / "run", "agent=taco", "num_envs=1")
    assert done.returncode != 0
    assert "error: num_envs=1 can't be shared by 2 processes: make it a multiple of 2" in done.stderr
    assert not (tmp_path / "run" / "config.yaml").exists()


def composed(*overrides: str) -> Any:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments" / "conf")):
        return complete(compose("config", [*TINY, *overrides]))


def test_an_agent_gets_its_ranks_share_of_an_objectives_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed("agent=drqv2", "objectives=[taco]", "objective.taco.batch_size=6")
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    with closing(make_evaluation_env(config, film=False)) as env:
        agent = build_agent(config, env.observation_space, env.action_space, 4)
    assert [each.batch_size for each in agent.objectives] == [3]


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_rank_keeps_the_embeddings_of_a_checkpoint(tmp_path: Path, rank: int) -> None:
    config = composed(*MRQ, "objective.latent_model.keep=50", "replay_buffer_size=200")
    with closing(OnlineRun(config, tmp_path / "run")) as trainer:
        assert not trainer.replay.reset_steps  # the run's environments reset in the same step
        trainer.begin()
        caches = [part for part in trainer.agent.modules() if isinstance(part, KeptEmbeddings)]
        assert caches
        for cache in caches:
            cache.names[:] = torch.arange(len(cache.names))
        trainer.save()
        state = load_checkpoint(tmp_path / "run" / CHECKPOINT)
        state["ranks"] *= 2
        trainer.rank = rank
        trainer.restore(state)
        assert all((cache.names == NOBODY).all() == bool(rank) for cache in caches)
