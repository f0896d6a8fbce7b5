"""Loading an encoder gives what was saved, or an error."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlrep import PixelEncoder
from rlrep.encoder_files import _weights_checksum
from tests.rlrep.test_encoders import SHAPE, encoder_with_biases, pixels


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    encoder = encoder_with_biases()
    encoder.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def change_config(folder: Path, change: Callable[[dict[str, Any]], Any], checksum: bool = True) -> None:
    """Rewrites the configuration as another tool might, perhaps without format and checksum."""
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in config.items() if name not in ("format", "sha256")}
    change(config)
    if checksum:
        config = {"format": 1} | config
        config["sha256"] = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Rewrites the weights with the right checksum."""
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", {"sha256": _weights_checksum(weights)})


@pytest.mark.parametrize(
    "options",
    [
        dict(observation_shape=np.array([9, 20, 24]), channels=np.int64(6)),
        dict(observation_shape=torch.Size([9, 20, 24]), channels=torch.tensor(6), strides=np.array([1, 2])),
        dict(observation_shape=[np.int32(9), 20, 24], channels=6, out_dim=np.int16(5), precision="bfloat16"),
        dict(observation_shape=(9, 20, 24), channels=6, strides=[2]),
    ],
)
def test_whatever_it_was_built_with_is_what_is_loaded(options: dict[str, Any], tmp_path: Path) -> None:
    encoder = PixelEncoder(**options)
    encoder.save_pretrained(tmp_path)
    loaded = PixelEncoder.from_pretrained(tmp_path)
    assert loaded.options == encoder.options and loaded.observation_shape == (9, 20, 24) and loaded.channels == 6
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in encoder.state_dict().items())


def test_a_subclass_is_saved_with_its_own_arguments(tmp_path: Path) -> None:
    Scaled(SHAPE, 4).save_pretrained(tmp_path)
    loaded = Scaled.from_pretrained(tmp_path)
    assert isinstance(loaded, Scaled) and loaded.scale == 4
    with pytest.raises(ValueError, match="unknown: 'scale'"):
        PixelEncoder.from_pretrained(tmp_path)


class Scaled(PixelEncoder):
    def __init__(self, observation_shape: tuple[int, ...], scale: int) -> None:
        super().__init__(observation_shape, channels=2)
        self.scale = scale


def test_loading_draws_no_random_numbers_and_leaves_nothing_else_in_the_folder(saved: Path) -> None:
    before = torch.get_rng_state()
    PixelEncoder.from_pretrained(saved)
    assert torch.equal(before, torch.get_rng_state())
    assert {path.name for path in saved.iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_equal_encoders_make_equal_files(saved: Path, tmp_path: Path) -> None:
    for i in range(5):
        PixelEncoder.from_pretrained(saved).save_pretrained(tmp_path / str(i))
        for name in ("config.json", "model.safetensors"):
            assert (saved / name).read_bytes() == (tmp_path / str(i) / name).read_bytes()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_flipped_bit_is_noticed_or_changes_nothing(file: str, saved: Path) -> None:
    encoder = PixelEncoder.from_pretrained(saved)
    content = (saved / file).read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for bit in rng.choice(8 * len(content), 60, replace=False):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        (saved / file).write_bytes(changed)
        try:
            loaded = PixelEncoder.from_pretrained(saved)
        except ValueError:
            refused += 1
            continue
        assert loaded.options == encoder.options
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in encoder.state_dict().items())
    assert refused >= 55


def test_files_without_checksums_are_refused(saved: Path) -> None:
    encoder = PixelEncoder.from_pretrained(saved)
    change_weights(saved, lambda weights: weights)
    assert torch.equal(PixelEncoder.from_pretrained(saved)(pixels()), encoder(pixels()))
    save_file(load_file(saved / "model.safetensors"), saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: checksum mismatch"):
        PixelEncoder.from_pretrained(saved)
    change_config(saved, lambda config: None, checksum=False)
    with pytest.raises(ValueError, match=r"config\.json has format None, .*: save the encoder again"):
        PixelEncoder.from_pretrained(saved)


def test_weights_that_could_not_be_loaded_are_not_saved(saved: Path, tmp_path: Path) -> None:
    encoder = PixelEncoder.from_pretrained(saved)
    with torch.no_grad():
        encoder.convolutions[0].bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"finite weights, those of convolutions\.0\.bias are not"):
        encoder.save_pretrained(tmp_path / "new")


WRONG_WEIGHTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "prefixed": lambda weights: {f"encoder.{name}": value for name, value in weights.items()},
    "one missing": lambda weights: {name: value for name, value in weights.items() if name != "convolutions.1.bias"},
    "one too many": lambda weights: weights | {"extra": torch.zeros(1)},
    "none": lambda weights: {},
    "another shape": lambda weights: weights | {"convolutions.0.bias": torch.zeros(7)},
    "not a number": lambda weights: weights | {"convolutions.0.bias": torch.full((6,), torch.nan)},
    "infinite": lambda weights: weights | {"convolutions.3.bias": torch.tensor([0, 0, 0, 0, 0, torch.inf])},
    "of another type": lambda weights: {name: value.double() for name, value in weights.items()},
}


@pytest.mark.parametrize("what", WRONG_WEIGHTS)
def test_weights_that_are_not_the_encoders_are_refused(what: str, saved: Path) -> None:
    change_weights(saved, WRONG_WEIGHTS[what])
    with pytest.raises(ValueError, match=r"model\.safetensors.*(holds other weights|must be finite float32)"):
        PixelEncoder.from_pretrained(saved)


WRONG_CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an unknown entry": lambda config: config.update(dropout=0.1),
    "a missing entry": lambda config: config.pop("strides"),
    "other channels": lambda config: config.update(channels=7),
    "channels beyond memory": lambda config: config.update(channels=10**6),
    "channels beyond numbers": lambda config: config.update(channels=10**300),
    "features beyond memory": lambda config: config.update(out_dim=10**12),
    "no channels": lambda config: config.update(channels=None),
    "channels in words": lambda config: config.update(channels="six"),
    "half a channel": lambda config: config.update(channels=6.5),
    "an unknown precision": lambda config: config.update(precision="float8"),
    "a list of precisions": lambda config: config.update(precision=["float32"]),
    "too many convolutions": lambda config: config.update(strides=[1] * 500, observation_shape=[9, 9_999, 9_999]),
    "no shape": lambda config: config.update(observation_shape=[]),
    "a later format": lambda config: config.update(format=2),
}


@pytest.mark.parametrize("what", WRONG_CONFIGS)
def test_a_description_that_is_not_the_encoders_is_refused(what: str, saved: Path) -> None:
    change_config(saved, WRONG_CONFIGS[what])
    with pytest.raises(ValueError, match="encoder"):
        PixelEncoder.from_pretrained(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 9_000, " " * 10_001, "\x00", '{"channels": NaN}'])
def test_a_description_that_is_no_json_object_is_refused(text: str, saved: Path) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        PixelEncoder.from_pretrained(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_without_one_of_its_files_is_refused(name: str, saved: Path) -> None:
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        PixelEncoder.from_pretrained(saved)
    os.mkfifo(saved / name)  # the reader must not wait for it
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        PixelEncoder.from_pretrained(saved)


@pytest.mark.parametrize("place", ["nowhere", "no/where", "./no/where", "a/b/c", "gpt2", ""])
def test_a_path_that_does_not_exist_is_no_question_to_the_hub(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("used the network"))
    for given in (place, tmp_path / place / "x"):
        with pytest.raises(FileNotFoundError, match=r"no encoder at .*hf://OWNER/NAME"):
            PixelEncoder.from_pretrained(given)


def test_the_hub_is_asked_for_an_address_of_its_own(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "rlrep.encoders.snapshot_download", lambda name, **options: asked.append((name, options)) or saved
    )
    assert PixelEncoder.from_pretrained("hf://me/encoder", revision="v1").channels == 6
    assert asked == [("me/encoder", dict(allow_patterns=["config.json", "model.safetensors"], revision="v1"))]
    with pytest.raises(TypeError, match="channels are for encoders on the Hub"):
        PixelEncoder.from_pretrained(saved, channels=3)


def test_what_is_pushed_to_the_hub_is_what_is_loaded_from_there(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi.create_repo", lambda *args, **named: Mock(repo_id="me/mine"))
    monkeypatch.setattr(
        "huggingface_hub.hub_mixin.HfApi.upload_folder",
        lambda *args, folder_path, **named: shutil.copytree(folder_path, hub),
    )
    encoder = PixelEncoder.from_pretrained(saved)
    encoder.push_to_hub("me/mine")
    assert {path.name for path in hub.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    monkeypatch.setattr("rlrep.encoders.snapshot_download", lambda name, **options: hub)
    loaded = PixelEncoder.from_pretrained("hf://me/mine").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in encoder.state_dict().items())


def test_encoders_that_come_with_the_package_have_names(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlrep.encoder_files.SHIPPED_FOLDER", saved.parent)
    assert PixelEncoder.from_pretrained("rlrep://encoder").channels == 6
    for name in ("encoders", "../encoder", ""):
        with pytest.raises(ValueError, match=f"unknown encoder '{name}'"):
            PixelEncoder.from_pretrained(f"rlrep://{name}")


def test_the_precision_can_be_another_than_the_saved_one(saved: Path) -> None:
    assert PixelEncoder.from_pretrained(saved, precision="bfloat16").precision == "bfloat16"


def test_weights_that_are_not_float32_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"encoder\.float\(\)"):
        PixelEncoder(SHAPE, channels=2).double().save_pretrained(tmp_path)


@pytest.mark.parametrize("options", [dict(channels=10**6), dict(out_dim=10**7)])
def test_an_encoder_beyond_memory_is_refused_before_it_is_allocated(options) -> None:
    with pytest.raises(ValueError, match=r"parameters .* make them smaller"):
        PixelEncoder((9, 84, 84), **options)


def test_a_refused_save_leaves_what_was_saved_before(saved: Path) -> None:
    encoder = PixelEncoder.from_pretrained(saved)
    (saved / "README.md").write_text("edited")
    with pytest.raises(ValueError, match=r"is torch\.bfloat16: call encoder\.float\(\) first"):
        PixelEncoder.from_pretrained(saved).bfloat16().save_pretrained(saved)
    assert torch.equal(PixelEncoder.from_pretrained(saved)(pixels()), encoder(pixels()))
    with torch.no_grad():
        encoder.convolutions[0].bias += 1
    encoder.save_pretrained(saved)
    assert torch.equal(PixelEncoder.from_pretrained(saved)(pixels()), encoder(pixels()))
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (saved / "README.md").read_text() == "edited"
