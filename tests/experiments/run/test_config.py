"""Settings that depend on the task, the agent and the machine."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rlrep.agents import AGENTS
from rlrep.experiments.run import device
from rlrep.experiments.run.command import for_hydra
from rlrep.experiments.run.config import OF_THE_CHOICE
from rlrep.experiments.run.learner_options import defaults_of
from rlrep.experiments.run.train_config import TrainConfig, complete

CONF = Path(__file__).parents[3] / "experiments" / "conf"


def completed(*overrides: str) -> TrainConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return complete(compose("config", list(overrides)))


def test_taco_has_the_papers_values() -> None:
    config = completed("task=quadruped_run", "agent=taco")
    assert (config.batch_size, config.nstep, config.objective["taco"]["horizon"], config.lr) == (1024, 3, 3, 1e-4)
    assert (config.feature_dim, config.hidden_dim, config.encoder.channels, config.shift) == (50, 1024, 32, 4)
    assert config.agent["latent_actions"] and config.objectives == ["taco"]
    assert config.agent["stddev_schedule"] == "linear(1.0,0.1,500000)"
    hard = completed("task=manipulator_bring_ball", "agent=taco")
    assert hard.agent["stddev_schedule"] == "linear(1.0,0.1,2000000)"


def test_walker_has_drqv2s_values() -> None:
    config = completed("task=walker_walk", "agent=drqv2")
    assert (config.batch_size, config.nstep) == (512, 1)
    assert config.agent["stddev_schedule"] == "linear(1.0,0.1,100000)"


@pytest.mark.parametrize(("action_repeat", "frames"), [(2, 4000), (4, 4096), (8, 8192)])
def test_a_batch_fits_what_was_seen_before_the_first_update(action_repeat: int, frames: int) -> None:
    assert completed("agent=taco", f"action_repeat={action_repeat}").num_seed_frames == frames


def test_an_agent_of_ones_own_may_wait_for_its_exploration() -> None:
    ours, own = completed("agent=mrq"), completed(*for_hydra(["agent=tests.own_agent:OwnMRQ"]))
    assert own.num_seed_frames == ours.num_seed_frames > 4000


@pytest.mark.parametrize(("task", "rows"), [("walker_walk", 10_300), ("gridworld", 20_100), ("CarRacing-v3", 20_100)])
def test_the_replay_holds_all_that_a_run_writes_also_if_episodes_are_short(task: str, rows: int) -> None:
    assert (
        completed(f"task={task}", "agent=mrq", "num_train_frames=20000", "num_seed_frames=4000").useful_replay_size
        == rows
    )


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("agent=taco", "taco"),
        ("agent=sac", "sac"),
        ("agent=sac objectives=[taco]", "sac+taco"),
        ("agent=taco objectives=[taco,forward_model]", "taco+forward_model"),
    ],
)
def test_the_name_tells_the_losses_and_keeps_runs_apart(overrides: str, name: str) -> None:
    config = completed("task=walker_walk", *overrides.split())
    assert config.agent["name"] == name
    assert config.run_dir == f"runs/walker_walk/{name}/seed_1"


@pytest.mark.parametrize("schedule", ["0.0", "1", "0.2"])
def test_a_schedule_may_be_a_number(schedule: str) -> None:
    config = completed("agent=drqv2", f"agent.stddev_schedule={schedule}")
    assert float(config.agent["stddev_schedule"]) == float(schedule)


@pytest.mark.parametrize("name", AGENTS)
def test_all_options_of_an_agent_are_shown_and_its_file_repeats_no_default(name: str) -> None:
    known = defaults_of(AGENTS[name])
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        shown = OmegaConf.to_container(compose("config", [f"agent={name}"]).agent)
    assert isinstance(shown, dict) and shown.keys() == {*known, *OF_THE_CHOICE}
    written = OmegaConf.to_container(OmegaConf.load(CONF / "agent" / f"{name}.yaml").agent)
    assert isinstance(written, dict) and not {key for key, value in written.items() if known.get(key) == value}


def test_a_gpu_that_pytorch_cannot_use_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device.Path, "exists", lambda path: str(path) == "/dev/nvidia0")
    assert device.resolve_device("auto") == "cpu"
    assert "there is an NVIDIA GPU, but PyTorch can't use it, so this runs on the CPU" in caplog.text
    caplog.clear()
    assert device.resolve_device("cpu") == "cpu" and not caplog.text
