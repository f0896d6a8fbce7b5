"""Runs that start from an encoder of rlrep.experiments.pretrain."""

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from rlrep import PixelEncoder
from rlrep.experiments.evaluate import main as evaluate
from rlrep.experiments.run import train_config as configuration
from rlrep.experiments.run.checkpoint import load_checkpoint
from rlrep.experiments.run.command import for_hydra
from rlrep.experiments.run.data import open_data
from rlrep.experiments.run.online import OnlineRun
from rlrep.experiments.run.options import ConfigError
from rlrep.experiments.run.pretrained import settle_encoder
from tests.experiments.conftest import ROOT, TINY
from tests.experiments.offline_data import write_data

Run = Callable[..., Path]
Start = Callable[..., subprocess.Popen[str]]
SHORT = ("agent=drqv2", "num_train_frames=1000")


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """An encoder for the observations of runs, with a different architecture than theirs."""
    torch.manual_seed(7)
    folder = tmp_path / "pretrained" / "encoder"
    PixelEncoder((9, 20, 20), channels=3, out_dim=6).save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The encoder in a run's checkpoint."""
    agent = load_checkpoint(folder / "checkpoints" / "latest.pt")["agent"]
    return {name.removeprefix("encoder."): value for name, value in agent.items() if name.startswith("encoder.")}


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> list[bool]:
    assert ours.keys() == theirs.keys()
    return [torch.equal(ours[name], theirs[name]) for name in ours]


@pytest.mark.parametrize("agent", ["drqv2", "sac", "taco"])
def test_a_frozen_encoder_stays_as_it_was(run: Run, encoder: Path, agent: str) -> None:
    overrides = ("num_train_frames=1000", f"encoder.path={encoder}", "encoder.freeze=true")
    folder = run(f"agent={agent}", *overrides)
    assert all(equal(weights(folder), PixelEncoder.from_pretrained(encoder).state_dict()))
    saved = configuration.load(folder / "config.yaml")
    assert saved.agent["name"] == f"{agent}+frozen"
    assert (saved.encoder.path, saved.encoder.freeze) == (str(encoder), True)
    assert (saved.encoder.channels, saved.encoder.out_dim) == (3, 6)


def test_an_encoder_is_fine_tuned_from_its_weights(encoder: Path, tmp_path: Path) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments" / "conf")):
        composed = compose("config", [*TINY, *SHORT, f"encoder.path={encoder}"])
    config = configuration.complete(composed)
    assert config.agent["name"] == "drqv2+pretrained"
    settle_encoder(config, None)
    pretrained = PixelEncoder.from_pretrained(encoder).state_dict()
    with closing(OnlineRun(config, tmp_path / "run")) as trainer:
        assert all(equal(trainer.agent.encoder.state_dict(), pretrained))
        trainer.run()
        assert not any(equal(trainer.agent.encoder.state_dict(), pretrained))


def test_options_reach_what_they_are_about(tmp_path: Path) -> None:
    typed = ["agent=drqv2", "discount=0.5", "shift=2", "nstep=2", "lr=3e-3", "replay_storage=disk"]
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments" / "conf")):
        config = configuration.complete(compose("config", [*TINY, *typed]))
    with closing(OnlineRun(config, tmp_path / "run")) as trainer:
        agent, replay = trainer.agent, trainer.replay
        assert (replay.discount, replay.window.n_step) == (0.5, 2)
        assert (agent.n_step, agent.augment.pad) == (2, 2)
        rates = {group["lr"] for optimizer in agent.optimizers.values() for group in optimizer.param_groups}
        assert rates == {3e-3}
    data = open_data(str(write_data(tmp_path / "data")), config, files=config.offline)
    assert (data.discount, data.window.n_step) == (0.5, 2)


def test_an_encoder_that_comes_with_rlrep_is_taken_by_its_name(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlrep.encoder_files.SHIPPED_FOLDER", encoder.parent)
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments" / "conf")):
        config, other = (
            configuration.complete(compose("config", [*TINY, *SHORT, f"encoder.path='rlrep://{name}'"]))
            for name in ("encoder", "encoders")
        )
    settle_encoder(config, None)
    assert (config.encoder.path, config.encoder.channels) == ("rlrep://encoder", 3)
    with closing(OnlineRun(config, tmp_path / "run")) as trainer:
        pretrained = PixelEncoder.from_pretrained(encoder).state_dict()
        assert all(equal(trainer.agent.encoder.state_dict(), pretrained))
    with pytest.raises(ValueError, match="unknown encoder 'encoders': did you mean encoder"):
        settle_encoder(other, None)


def test_a_resumed_run_does_not_need_the_encoder_any_more(
    run: Run, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("agent=drqv2", f"encoder.path={encoder}", "checkpoint_every_frames=1000", "num_train_frames=2000")
    whole = run(*overrides, f"run_dir={tmp_path}/whole")
    advance = OnlineRun.advance

    def interrupted(trainer: OnlineRun) -> Any:
        if trainer.count == 1500:
            raise KeyboardInterrupt
        return advance(trainer)

    monkeypatch.setattr(OnlineRun, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(*overrides)
    monkeypatch.setattr(OnlineRun, "advance", advance)
    shutil.rmtree(encoder)
    folder = run(*overrides, "resume=true")
    assert all(equal(weights(folder), weights(whole)))
    assert evaluate([str(folder), "--episodes", "1", "--device", "cpu"]) == 0


def test_another_encoder_is_another_run(run: Run, encoder: Path) -> None:
    run(*SHORT, f"encoder.path={encoder}")
    other = encoder.with_name("other")
    shutil.copytree(encoder, other)
    for override in (f"encoder.path={other}", f"encoder.path={encoder} encoder.freeze=true", "seed=1"):
        with pytest.raises(ConfigError, match="another configuration: "):
            run(*SHORT, *override.split(), "resume=true")


def test_the_command_takes_a_folder(start: Start, encoder: Path, tmp_path: Path) -> None:
    process = start(*SHORT, "encoder.freeze=true", f"encoder={encoder}")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert configuration.load(tmp_path / "run" / "config.yaml").encoder.path == str(encoder)


def test_only_a_folder_is_renamed() -> None:
    arguments = ["encoder=a/b,c", "encoder.freeze=true", "encoder={channels: 8}", "encoder=null", "task=encoder=x"]
    assert for_hydra(arguments) == [
        "encoder.path=a/b,c",
        "encoder.freeze=true",
        "encoder={channels: 8}",
        "encoder.path=null",
        "task=encoder=x",
    ]


def test_an_encoder_of_another_input_shape_is_refused(run: Run, encoder: Path, tmp_path: Path) -> None:
    for shape, advice in (((3, 28, 28), "use image_size=28 frame_stack=1"), ((4, 28, 30), "no image_size and frame_")):
        PixelEncoder(shape, channels=3).save_pretrained(encoder)
        expected = rf"\({', '.join(map(str, shape))}\), this run's are \(9, 20, 20\) .*: {advice}"
        with pytest.raises(ConfigError, match=expected):
            run(*SHORT, f"encoder.path={encoder}")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_an_encoder_is_refused(run: Run, encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=f"has no model.safetensors and no config.json: did you mean encoder={encoder}"
    ):
        run(*SHORT, f"encoder.path={encoder.parent}")
    with pytest.raises(
        ConfigError, match=r"has no model.safetensors and no config.json: rlrep.experiments.pretrain makes"
    ):
        run(*SHORT, f"encoder.path={tmp_path}/nowhere")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: os.truncate(folder / "model.safetensors", 100), "model.safetensors is damaged"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json describes no encoder"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json has format None"),
    ],
)
def test_a_damaged_encoder_is_refused(
    run: Run, encoder: Path, tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    spoil(encoder)
    with pytest.raises(ConfigError, match=message):
        run(*SHORT, f"encoder.path={encoder}")
    assert not (tmp_path / "run" / "config.yaml").exists()
