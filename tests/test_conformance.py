"""Our losses and updates against numbers recorded from the methods' published reference implementations.

The rule is in golden/README.md. More cases are read from the folder named in the environment variable RLREP_GOLDEN.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import nn

from agents.drqv2 import DrQV2
from rlrep import TACO, PixelEncoder, RandomShift, temporal_contrastive
from tests.agents.test_agents import Fixed

FOLDERS = [Path(__file__).parent / "golden", *(Path(p) for p in [os.environ.get("RLREP_GOLDEN")] if p)]
DISCOUNT = 0.97
LOSSES = {"taco_loss": "loss_taco", "curl_loss": "loss_curl", "reward_loss": "loss_reward"}
IDENTITY = RandomShift(0)


class Box:
    def __init__(self, action_dim: int) -> None:
        self.shape = (action_dim,)


def cases(pattern: str) -> list[Any]:
    empty = [str(folder) for folder in FOLDERS if not any(folder.glob("*.json"))]
    assert not empty, f"no cases in {', '.join(empty)}"
    found = [path for folder in FOLDERS for path in sorted(folder.glob(pattern))]
    return [pytest.param(json.loads(path.read_text()), id=f"{path.parent.name}/{path.stem}") for path in found]


def fill(parameters: list[nn.Parameter], group: dict[str, Any], bilinear_dim: int | None = None) -> None:
    assert [list(p.shape) for p in parameters] == group["shapes"]
    for k, parameter in enumerate(parameters):
        values = np.random.RandomState(group["seed"] + k).standard_normal(parameter.shape)
        scale = 0.1 if parameter.ndim == 1 else 1 / np.sqrt(np.prod(parameter.shape[1:]))
        if bilinear_dim:
            scale = 4 / np.sqrt(bilinear_dim)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy((values * scale).astype(np.float32)))


def build(config: dict[str, Any]) -> tuple[DrQV2, TACO | None, dict[str, list[nn.Parameter]]]:
    """The agent of a case, filled by the rule, and its parameters by the case's group names."""
    shapes = config["groups"]["encoder"]["shapes"]
    image_size = config.get("image_size", 84)
    encoder = PixelEncoder((shapes[0][1], image_size, image_size), channels=shapes[0][0])
    action_space = Box(config["action_dim"])
    sizes = dict(feature_dim=config["feature_dim"], hidden_dim=config["hidden_dim"])
    taco = None
    if "horizon" in config:
        latent = config["latent_action_dim"]
        taco = TACO(encoder, action_space, config["horizon"], latent_action_dim=latent, augment=IDENTITY, **sizes)
    agent = DrQV2(
        encoder,
        action_space,
        [taco] if taco else [],
        latent_actions=taco is not None,
        lr=config["lr"],
        critic_target_tau=config["tau"],
        stddev_schedule=0.0,
        augment=IDENTITY,
        **sizes,
    )
    modules: dict[str, nn.Module] = {
        "encoder": encoder,
        "actor_trunk": agent.actor.trunk,
        "actor_policy": agent.actor.policy,
        "critic_trunk": agent.critic.trunk,
        "critic_q1": agent.critic.q1,
        "critic_q2": agent.critic.q2,
    }
    if taco:
        modules |= {
            "action_tokenizer": taco.action_encoder,
            "action_sequence_tokenizer": taco.sequence_encoder,
            "projection_state": taco.state_projection,
            "projection_state_action": taco.state_action_projection,
            "reward_head": taco.reward_head,
        }
    groups = {name: list(module.parameters()) for name, module in modules.items()}
    if taco:
        groups["bilinear"] = [taco.bilinear]
    assert groups.keys() == config["groups"].keys()
    for name, parameters in groups.items():
        fill(parameters, config["groups"][name], config["feature_dim"] if name == "bilinear" else None)
    agent.critic_target.load_state_dict(agent.critic.state_dict())
    groups["critic_target_trunk"] = list(agent.critic_target.trunk.parameters())
    return agent, taco, groups


def data(config: dict[str, Any], observation_shape: tuple[int, ...]) -> TensorDict:
    r, size = np.random.RandomState(config["seed"] + 1000), config["batch_size"]

    def observation() -> torch.Tensor:
        return torch.from_numpy(r.randint(0, 256, (size, *observation_shape)).astype(np.uint8))

    batch = TensorDict({"observation": observation()}, batch_size=[size])
    batch["next", "observation"] = observation()
    if "horizon" in config:
        batch["future_observation"] = observation()
        sequence = r.uniform(-1, 1, (size, config["horizon"], config["action_dim"])).astype(np.float32)
        batch["action_sequence"] = torch.from_numpy(sequence)
        batch["action"] = batch["action_sequence"][:, 0]
    else:
        action = r.uniform(-1, 1, (size, config["action_dim"])).astype(np.float32)
        batch["action"] = torch.from_numpy(action)
    batch["next", "reward"] = torch.from_numpy(r.uniform(0, 1, (size, 1)).astype(np.float32))
    batch["next", "terminated"] = torch.zeros(size, 1, dtype=torch.bool)
    batch["discount"] = torch.full((size, 1), DISCOUNT)
    return batch


@pytest.mark.parametrize("case", cases("taco_*.json"))
def test_taco_objective(case: dict[str, Any]) -> None:
    _, taco, groups = build(case["config"])
    assert taco is not None
    losses = taco(data(case["config"], taco.encoder.observation_shape))
    expected = case["expected"]["objective"]
    for theirs, ours in LOSSES.items():
        assert losses[ours].item() == pytest.approx(expected[theirs], rel=1e-4), theirs
    sum(losses[name] for name in LOSSES.values()).backward()
    for name, norm in expected["gradient_norm"].items():
        squares = [p.grad.square().sum() for p in groups[name] if p.grad is not None]
        assert torch.stack(squares).sum().sqrt().item() == pytest.approx(norm, rel=1e-3), name


@pytest.mark.parametrize("case", cases("taco_*.json") + cases("drqv2_*.json"))
def test_whole_updates(case: dict[str, Any]) -> None:
    agent, _, groups = build(case["config"])
    batch = data(case["config"], agent.encoder.observation_shape)
    for number, expected in enumerate(case["expected"]["steps"]):
        metrics = agent.update(Fixed(batch), step=number)
        for name, value in expected.items():
            if name != "parameter_abs_mean":
                assert metrics[LOSSES.get(name, name)].item() == pytest.approx(value, rel=1e-4), (number, name)
        for name, value in expected["parameter_abs_mean"].items():
            parameters = torch.cat([p.detach().flatten() for p in groups[name]])
            assert parameters.abs().mean().item() == pytest.approx(value, rel=1e-4), (number, name)


@pytest.mark.parametrize(
    "case", [c for p in cases("temporal_contrastive*.json") for c in p.values[0]], ids=lambda c: str(c["seed"])
)
def test_temporal_contrastive(case: dict[str, Any]) -> None:
    r, shape = np.random.RandomState(case["seed"]), (case["batch_size"], case["dim"])
    early, late = (torch.from_numpy(r.standard_normal(shape).astype(np.float32)) for _ in range(2))
    loss, _ = temporal_contrastive(early, late, case["temperature"], case["normalize"])
    assert loss.item() == pytest.approx(case["loss"], rel=1e-4)
