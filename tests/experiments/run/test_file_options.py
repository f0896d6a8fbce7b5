"""The options for reading files have the same names in every command and in the library's messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from rlrep.data import Dataset, EpisodeDataset, dataset
from rlrep.experiments.run.command import for_hydra
from rlrep.experiments.run.data import open_data
from rlrep.experiments.run.offline_config import requested
from rlrep.experiments.run.pretrain_config import complete
from rlrep.experiments.run.sources import watch
from tests.experiments.conftest import ROOT
from tests.rlrep.data.lerobot_files import write_lerobot


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    """An episode of four stacked grey frames of 20 x 24 pixels."""
    grey = np.random.default_rng(0).integers(0, 256, (9, 20, 24), np.uint8)
    rows = np.maximum(np.arange(9)[:, None] - np.arange(4)[::-1], 0)
    arrays = dict(action=np.zeros((9, 1), np.float32), reward=np.zeros(9, np.float32), discount=np.ones(9, np.float32))
    np.savez(tmp_path / "a.npz", observation=grey[rows], **arrays)  # type: ignore[arg-type]
    return tmp_path / "a.npz"


def pretraining(path: Path, *overrides: str) -> EpisodeDataset:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments/conf")):
        composed = compose("pretrain", ["device=cpu", f"source={path}", "image_size=20", *overrides])
    return watch(complete(composed), actions=False)


def offline(path: Path, *overrides: str) -> Dataset:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments/conf/offline")):
        asked = requested(compose("offline", ["device=cpu", f"dataset={path}", *overrides]))
    return open_data(asked.dataset, asked, files=asked)


@pytest.mark.parametrize("opener", [pretraining, offline])
def test_a_layout_can_be_said_where_a_message_asks_for_it(stacks: Path, opener: object) -> None:
    assert callable(opener)
    with pytest.raises(ValueError, match="frame_channels=1"):
        opener(stacks)
    data = opener(stacks, "frame_channels=1", "channels_last=false")
    assert data.frame_shape[0] == 1


def test_an_online_run_says_it_of_its_offline_data(stacks: Path) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments/conf")):
        config = compose("config", ["device=cpu", f"offline.data={stacks}", "offline.frame_channels=1", "nstep=3"])
    config.replay_storage = "auto"
    assert open_data(str(stacks), config, files=config.offline).frame_shape == (1, 20, 24)


def test_a_format_and_its_options_can_be_said(tmp_path: Path) -> None:
    robot, asked = write_lerobot(tmp_path / "robot"), ["format=lerobot", "format_options.camera=observation.images.top"]
    for opener in (pretraining, offline):
        with pytest.raises(ValueError, match=r"format=lerobot format_options\.camera=observation\.images\.top"):
            opener(robot)
        with pytest.raises(ValueError, match=r"format_options=\{'camera': .*\} has no effect without format="):
            opener(robot, *for_hydra(asked[1:]))
        with pytest.raises(ValueError, match="unknown option of format lerobot: 'kamera': did you mean camera"):
            opener(robot, *for_hydra([asked[0], "format_options.kamera=1"]))
    assert pretraining(robot, *for_hydra(asked)).num_episodes == 3
    assert offline(robot, *for_hydra(asked)).action_scale is not None
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments/conf")):
        given = for_hydra([f"offline.data={robot}", *(f"offline.{option}" for option in asked)])
        config = compose("config", ["device=cpu", "replay_storage=disk", "nstep=3", *given])
    assert open_data(str(robot), config, files=config.offline).action_dim == 3


def test_data_are_opened_once_wherever_their_frames_go(stacks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlrep.experiments.run import data

    opened = []
    open_dataset = data.open_dataset
    monkeypatch.setattr(data, "open_dataset", lambda *a, **k: opened.append(a) or open_dataset(*a, **k))
    monkeypatch.setattr(data, "auto_storage", lambda device, nbytes: "memory")
    allocated: list[object] = []
    plain = dataset.frame_memory
    monkeypatch.setattr(dataset, "frame_memory", lambda *given: allocated.append(given) or plain(*given))
    offline(stacks, "frame_channels=1", "replay_storage=auto")
    assert len(opened) == 1 and len(allocated) == 1, "the frames must be a copy in memory"
