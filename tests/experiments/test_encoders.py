"""The encoders that come with rlrep: their recipes, their cards, and that they are what is in the tree."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from rlrep import PixelEncoder
from rlrep.encoder_files import SHIPPED, SHIPPED_FOLDER
from rlrep.envs.distractors import KINDS
from rlrep.experiments import encoders
from rlrep.experiments.run.cards import frames_in_words, in_words
from rlrep.experiments.run.command import CONF, for_hydra, paths_of
from rlrep.experiments.run.pretrain_config import PretrainConfig, complete


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_a_recipe_is_one_of_a_pretraining(name: str) -> None:
    words = for_hydra(encoders.ENCODERS[name].split(), paths_of(PretrainConfig))
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = complete(compose("pretrain", words))
    task, _, kind = name.rpartition("_")
    assert config.source == f"env:{task}" and (config.noise.kind is None) == (kind == "clean")
    assert kind == "clean" or config.noise.persistence == {"iid": 0, "exogenous": 1}[kind]
    assert config.encoder.precision == "float32"


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_what_comes_with_rlrep_is_small_and_has_a_card(name: str) -> None:
    encoder = PixelEncoder.from_pretrained(f"{SHIPPED}{name}")
    assert encoder(torch.zeros(1, *encoder.observation_shape, dtype=torch.uint8)).shape == (1, encoder.repr_dim)
    files = {path.name: path.stat().st_size for path in (SHIPPED_FOLDER / name).iterdir()}
    assert files.keys() == {"config.json", "model.safetensors", "README.md"} and sum(files.values()) < 1_000_000
    card = (SHIPPED_FOLDER / name / "README.md").read_text("utf-8")
    assert card.startswith("---\nlicense: mit\n") and f'from_pretrained("{SHIPPED}{name}")' in card
    rows = re.findall(r"^\| (clean|covered .*) \| -?\d\.\d+ ± \d\.\d+ \| -?\d\.\d+ ± \d\.\d+ \|$", card, re.M)
    assert len(rows) == 1 + (not name.endswith("_clean")) and rows[0] == "clean"
    assert f"python -m rlrep.experiments.pretrain {encoders.ENCODERS[name]}\n" in card


def test_nothing_else_comes_with_rlrep() -> None:
    assert {path.name for path in SHIPPED_FOLDER.iterdir()} == encoders.ENCODERS.keys()


def test_an_unknown_recipe_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        encoders.main(["humanoid_run_clean"])
    assert "there is no recipe for 'humanoid_run_clean'" in capsys.readouterr().err


def pretraining(*words: str) -> PretrainConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return complete(compose("pretrain", ["source=env:cheetah_run", "objective=taco", *words]))


def test_a_card_says_how_far_frames_are_apart_if_nobody_chose_it() -> None:
    assert frames_in_words(pretraining("frame_stack=3")) == "3 RGB frames, 2 steps apart, oldest first"
    every = pretraining("frame_stack=2", "+env.action_repeat=1")
    assert frames_in_words(every) == "2 RGB frames, 1 step apart, oldest first"
    assert frames_in_words(pretraining("frame_stack=1")) == "one RGB frame"


def test_a_card_describes_each_kind_of_noise() -> None:
    usual = pretraining().noise
    found = {kind: in_words(replace(usual, kind=kind, persistence=0.9)) for kind in KINDS}
    assert len({text.partition(",")[0] for text in found.values()}) == len(KINDS)
    assert {kind for kind, text in found.items() if "shapes" in text} == {"shapes", "drift"}
    assert all(text.endswith(", drawn anew in 10% of the frames") for text in found.values())
    still = in_words(replace(usual, kind="camera", strength=0.3, persistence=0.0))
    assert still == "seen by a camera of strength 0.3, drawn anew in each frame"
    behind = in_words(replace(usual, kind="shapes", background_only=True))
    assert behind.endswith("of the picture's side that drift on by themselves in the background")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gridworld_exogenous", "cheetah_run_clean"])
def test_the_command_makes_an_encoder_and_its_card(name: str, tmp_path: Path) -> None:
    small = ["num_frames=600", "steps=4", "validate_every=2", "batch_size=16"]
    out, runs = str(tmp_path / "out"), str(tmp_path / "runs")
    encoders.main([name, "--out", out, "--runs", runs, "--frames", "800", "--set", *small])
    encoder = PixelEncoder.from_pretrained(tmp_path / "out" / name)
    trained = PixelEncoder.from_pretrained(tmp_path / "runs" / name / "encoder").state_dict()
    assert all(torch.equal(value, trained[key]) for key, value in encoder.state_dict().items())
    card = (tmp_path / "out" / name / "README.md").read_text()
    assert "600 frames under random actions" in card and "800 frames from other episodes" in card
    assert ("which reads frames alone" in card) == (name == "cheetah_run_clean")
    assert len(re.findall(r"\d ± \d", card)) == (2 if name.endswith("clean") else 4)
