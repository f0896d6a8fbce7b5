"""Every objective works everywhere without further edits: the package's, and a user's by its import path."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from stable_baselines3 import SAC
from tensordict import TensorDict

from rlrep import OBJECTIVES, PixelEncoder, make_objective
from rlrep.agents.eager import GridSampleShift
from rlrep.data import EpisodeDataset
from rlrep.experiments.run.options import ConfigError
from rlrep.experiments.run.pretraining import pretrain
from rlrep.integrations.sb3 import SequenceReplayBuffer, attach
from rlrep.integrations.torchrl import ObjectiveLoss
from rlrep.objectives import find_objective
from rlrep.pretrain import Pretrainer
from tests.experiments.conftest import ROOT, run_in
from tests.experiments.offline_data import run_offline, write_data
from tests.rlrep.integrations.sb3_environments import Counter

OWN = "tests.own_objective:Own"
EVERY = [*OBJECTIVES, OWN]
# A whole run takes seconds. Of objectives with similar windows and options one is tested here; the rest are slow tests.
OFTEN = {"taco", "curl", "autoencoder", "inverse_model", "spr", "cvrl", "latent_model", "laom", "invariance", OWN}
WHOLE_RUNS = [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in EVERY]
SHAPE = (3, 20, 20)
BOX = gym.spaces.Box(-1, 1, (2,))


def last_row(folder: Path) -> dict[str, float]:
    with (folder / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: float(value) for name, value in rows[-1].items() if value}


def has_learned(found: dict[str, Any], prefix: str = "loss_") -> bool:
    losses = {name: float(value) for name, value in found.items() if name.startswith(prefix)}
    return bool(losses) and bool(np.isfinite(list(losses.values())).all())


@pytest.mark.parametrize("name", WHOLE_RUNS)
def test_online(name: str, tmp_path: Path) -> None:
    options = ["num_train_frames=1000", "num_seed_frames=700", "checkpoint_every_frames=1000", "eval_every_frames=1000"]
    run_in(tmp_path / "run", "agent=drqv2", f"objectives=['{name}']", *options)
    row = last_row(tmp_path / "run")
    assert has_learned(row)
    assert name != OWN or row["own_steps"] > 0  # after_step is called


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "medium")


@pytest.mark.parametrize("name", WHOLE_RUNS)
def test_offline(name: str, data: Path, tmp_path: Path) -> None:
    options = ["num_updates=3", "eval_every_updates=3", "log_every_updates=3", "checkpoint_every_updates=3"]
    run_offline(data, tmp_path / "run", "agent=bc", f"objectives=['{name}']", *options)
    assert has_learned(last_row(tmp_path / "run"))


def test_a_batch_size_of_its_own_is_an_option(data: Path, tmp_path: Path) -> None:
    """As in the README."""
    run_offline(
        data, tmp_path / "run", "agent=bc", "objectives=[curl]", "objective.curl.batch_size=16", "update=separate"
    )
    assert has_learned(last_row(tmp_path / "run"))


def test_options_of_ones_own_objective_may_be_lists(data: Path, tmp_path: Path) -> None:
    run_offline(data, tmp_path / "run", "agent=bc", f"objectives=['{OWN}']", "++objective.Own.widths=[4,6]")
    assert has_learned(last_row(tmp_path / "run"))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(5):
        frames = np.random.default_rng(number).integers(0, 256, (24, 20, 20, 3), np.uint8)
        np.savez(folder / f"{number}.npz", observation=frames, action=np.zeros((24, 2), np.float32))
    return folder


def run_pretraining(name: str, videos: Path, folder: Path, *more: str) -> Path:
    given = ["device=cpu", "image_size=20", "frame_stack=1", "horizon=2", "shift=1", "steps=4", "batch_size=4"]
    given += ["validate_every=4", "validation_batches=1", "encoder.channels=2", "encoder.precision=float32"]
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments" / "conf")):
        named = [f"objective='{name}'", f"source={videos}", f"run_dir={folder}"]
        return pretrain(compose("pretrain", [*given, *named, *more]))


@pytest.mark.parametrize("name", EVERY)
def test_pretraining_where_the_window_allows_it(name: str, videos: Path, tmp_path: Path) -> None:
    if name in ("taco", "latent_model", "bisimulation", "supremix"):  # they read rewards
        with pytest.raises(ConfigError, match=f"objective={name} reads rewards, which"):
            run_pretraining(name, videos, tmp_path / "run")
        return
    assert has_learned(last_row(run_pretraining(name, videos, tmp_path / "run")))


def test_a_labelled_share_of_the_actions_in_pretraining(videos: Path, tmp_path: Path) -> None:
    assert "loss_laom_labels" in last_row(run_pretraining("laom", videos, tmp_path / "run", "+options.labelled=0.5"))


@pytest.mark.parametrize("name", EVERY)
def test_the_library_alone(name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (60, *SHAPE), np.uint8)
    data = EpisodeDataset(frames, [30, 30], action=np.zeros((60, 2), np.float32))
    space = BOX if find_objective(name).needs_actions else None
    objective = make_objective(name, PixelEncoder(SHAPE, channels=4), space)
    if "reward" in objective.window.needs:
        with pytest.raises(ValueError, match="reads rewards, which these data lack"):
            Pretrainer(objective, data, data, steps=1)
        return
    trainer = Pretrainer(objective, data, data, steps=2, batch_size=4)
    assert has_learned(trainer.step()) and has_learned(trainer.step())


@pytest.mark.parametrize("name", EVERY)
def test_an_augmentation_may_return_floats(name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (60, *SHAPE), np.uint8)
    data = EpisodeDataset(frames, [30, 30], action=np.zeros((60, 2), np.float32))
    data.rows |= {"reward": np.ones((1, 60), np.float32), "terminated": np.zeros((1, 60), bool)}
    objective = make_objective(name, PixelEncoder(SHAPE, channels=4), BOX, augment=GridSampleShift(1))
    assert has_learned(Pretrainer(objective, data, data, steps=1, batch_size=4).step())


@pytest.mark.parametrize("name", EVERY)
def test_stable_baselines3(name: str) -> None:
    policy = dict(features_extractor_kwargs=dict(channels=4, strides=(2, 2), features_dim=8), net_arch=[8])
    options = dict(buffer_size=200, learning_starts=40, train_freq=4, batch_size=8, seed=1)
    env = Counter(length=20)
    model = SAC("PixelPolicy", env, replay_buffer_class=SequenceReplayBuffer, policy_kwargs=policy, **options)  # type: ignore[arg-type]
    attach(model, [name])
    model.learn(56)
    logged = model.logger.name_to_value
    assert has_learned(logged, "rlrep/loss_")
    assert name != OWN or logged["rlrep/own_steps"] > 0


@pytest.mark.parametrize("name", EVERY)
def test_torchrl(name: str) -> None:
    objective = make_objective(name, PixelEncoder(SHAPE, channels=4), gym.spaces.Box(-1, 1, (2,)))
    length = objective.window.span + objective.window.lookback + 2
    pixels = torch.randint(0, 256, (4, length + 1, *SHAPE), dtype=torch.uint8)
    slices = TensorDict(
        {
            "pixels": pixels[:, :-1],
            "action": torch.rand(4, length, 2) * 2 - 1,
            "next": {
                "pixels": pixels[:, 1:],
                "reward": torch.rand(4, length, 1),
                "done": torch.zeros(4, length, 1, dtype=torch.bool),
                "terminated": torch.zeros(4, length, 1, dtype=torch.bool),
            },
        },
        batch_size=[4, length],
    )
    loss = ObjectiveLoss(objective, slice_len=length)
    out = loss(slices)
    assert has_learned(dict(out.items())) and list(out.keys()) == loss.out_keys
    sum(value for key, value in out.items() if key.startswith("loss_")).backward()
    loss.after_step()
    assert all(parameter.grad is not None for parameter in objective.encoder.parameters())
