"""The README's examples work as they are written."""

import os
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tensordict import TensorDict

import rlrep.experiments.run.train_config  # noqa: F401  makes its options known to Hydra
from rlrep import PixelEncoder
from rlrep.agents import make_agent
from rlrep.data import ActionScale, open_dataset
from tests.rlrep.data.lerobot_files import write_lerobot
from tests.rlrep.integrations.sb3_environments import Counter

ROOT = Path(__file__).parent.parent
NAMES = ("README.md", "CONTRIBUTING.md", "experiments/README.md", "experiments/coming_from.md")
NAMES += ("experiments/plugins/README.md",)
PAGES = [ROOT / name for name in NAMES]
PAGES += sorted((ROOT / "experiments" / "reports").glob("**/*.md"))


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def test_a_loop_of_ones_own_runs() -> None:
    (loop,) = [block for block in blocks(ROOT / "README.md") if "ReplayBuffer(" in block]
    short = loop.replace("range(1_000)", "range(12)").replace("64", "8").replace("% 100", "% 10")
    assert "sample(8," in short and ">= 8" in short and "range(12)" in short
    found: dict[str, object] = {}
    exec(compile(short, "README.md", "exec"), found)
    assert len(found["replay"]) == 12  # type: ignore[arg-type]
    assert found["loss"].item() > 0  # type: ignore[attr-defined]


def test_a_loss_is_added_to_stable_baselines3() -> None:
    (snippet,) = [block for block in blocks(ROOT / "README.md") if "attach(model" in block]
    short = snippet.replace("buffer_size=100_000", "buffer_size=300").replace("100_000", "103").replace("=84", "=40")
    assert "buffer_size=300" in short and "learn(103)" in short and "image_size=40" in short
    found: dict[str, Any] = {}
    exec(compile(short, "README.md", "exec"), found)
    assert found["model"].logger.name_to_value["rlrep/loss_taco"] > 0  # SAC learns after 100 steps


@pytest.mark.parametrize("frozen", [True, False])
def test_a_pretrained_encoder_goes_into_stable_baselines3(
    frozen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snippet,) = [block for block in blocks(ROOT / "README.md") if "features_extractor_kwargs" in block]
    short = snippet.replace("100_000", "64").replace("env, policy", "env, n_steps=64, n_epochs=1, policy")
    assert short.count("64") == 2 and ".requires_grad_(False)" in short
    if not frozen:
        short = short.replace(".requires_grad_(False)", "")
    monkeypatch.chdir(tmp_path)
    PixelEncoder((6, 20, 20), channels=4, strides=(2, 2)).save_pretrained("my_encoder")
    found: dict[str, Any] = {"env": Counter()}
    exec(compile(short, "README.md", "exec"), found)
    before = PixelEncoder.from_pretrained("my_encoder").state_dict()
    after = found["model"].policy.features_extractor.encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()) == frozen


def test_an_encoder_that_comes_with_rlrep_is_loaded_and_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = [block for block in blocks(ROOT / "README.md") if "push_to_hub" in block]
    pushed: list[Any] = []
    monkeypatch.setattr(PixelEncoder, "push_to_hub", lambda encoder, name: pushed.append((encoder, name)))
    found: dict[str, Any] = {}
    exec(compile(snippet, "README.md", "exec"), found)
    assert pushed == [(found["encoder"], "OWNER/NAME")]


def test_a_policy_learns_from_a_robots_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = [block for block in blocks(ROOT / "experiments" / "README.md") if "LeRobot(" in block]
    short = snippet.replace("10_000", "2").replace("84", "40").replace("=256", "=8")
    assert "range(2)" in short and "=40" in short and "batch_size=8" in short
    write_lerobot(tmp_path / "FOLDER")
    PixelEncoder((9, 40, 40)).save_pretrained(tmp_path / "runs" / "robot" / "encoder")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(compile(short, "experiments/README.md", "exec"), found)
    for count in (1, 2):
        action = found["command"](np.full((60, 80, 3), count, np.uint8))
        assert action.shape == (3,) and action[1] == 5  # a dimension that never changes
    assert [frame.flat[0] for frame in found["stack"]] == [1, 1, 2]
    saved = torch.load("policy.pt")
    make_agent("bc", (9, 40, 40), found["actions"], batch_size=8).load_state_dict(saved["policy"])
    assert ActionScale(**saved["scale"]) == found["data"].action_scale


def test_data_of_ones_own_are_written_and_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = [block for block in blocks(ROOT / "experiments" / "README.md") if "Transitions(" in block]
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "experiments/README.md", "exec"), {})
    data = open_dataset("data/mine")
    assert len(data) == 500 and data.observation_shape == (9, 84, 84)
    assert (data.provenance.task, data.provenance.expert_return) == ("cheetah_run", 800.0)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, _ = target.partition("#")
        if path and not target.startswith(("http://", "https://")):
            assert os.path.exists(page.parent / path), f"{page.name} links to {target}"


def test_options_of_the_references_have_the_names_that_their_page_says() -> None:
    text = (ROOT / "experiments" / "coming_from.md").read_text()
    kept = re.search(r"Most have kept their names:(.*?)The others:", text, re.DOTALL)
    renamed = re.search(r"The others:(.*?)## Files", text, re.DOTALL)
    assert kept and renamed
    names = re.findall(r"`([\w.]+)`", kept[1])
    for line in renamed[1].splitlines()[3:]:
        names += [name for name in re.findall(r"`([\w.]+)`", line.rpartition(" | ")[2]) if name not in ("lr", "null")]
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "experiments" / "conf")):
        config = compose("config", ["agent=taco"])
    unknown = object()
    assert len(names) > 20
    assert [name for name in names if OmegaConf.select(config, name, default=unknown) is unknown] == []


def test_the_objective_of_the_plugins_page_learns_and_reads_what_the_page_says() -> None:
    (block,) = [each for each in blocks(ROOT / "experiments" / "plugins" / "README.md") if "class BYOL" in each]
    found: dict[str, Any] = {"__name__": "byol"}
    exec(compile(textwrap.dedent(block), "README.md", "exec"), found)
    objective = found["BYOL"](PixelEncoder((3, 20, 20), channels=4), horizon=2)
    assert objective.window.observations == (2,)
    pixels = torch.randint(0, 256, (2, 4, 3, 20, 20), dtype=torch.uint8)
    batch = TensorDict({"observation": pixels[0], "future_observation": pixels[1]}, batch_size=[4])
    loss = objective(batch)["loss_byol"]
    loss.backward()
    assert 0 < loss < 4 and all(each.grad.abs().sum() > 0 for each in objective.encoder.parameters() if each.ndim > 1)
    assert all(parameter.grad is None for parameter in objective.target.parameters())


def test_an_encoder_is_probed_and_becomes_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [each for each in blocks(ROOT / "experiments" / "plugins" / "README.md") if "probe_folds" in each]
    short = block.replace("5_000", "40").replace("=84", "=40").replace("// 500", "// 8")
    assert "range(40)" in short and "// 8" in short and "image_size=40" in short
    monkeypatch.chdir(tmp_path)
    PixelEncoder((9, 40, 40), channels=4).save_pretrained("my_encoder")
    found: dict[str, Any] = {}
    exec(compile(short, "README.md", "exec"), found)
    pixels = torch.stack(found["frames"][:3])
    features = found["module"](TensorDict({"pixels": pixels}, batch_size=[3]))["features"]
    assert torch.allclose(features, found["features"][:3], atol=1e-4) and not features.requires_grad
