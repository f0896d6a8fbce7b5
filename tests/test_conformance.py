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

from rlrep import TACO, LatentModel, PixelEncoder, RandomShift, temporal_contrastive
from rlrep.agents.drqv2 import DrQV2
from rlrep.agents.mrq import MRQ
from rlrep.momentum import momentum_copy
from rlrep.objectives.latent_model import normalized_mlp, two_hot
from rlrep.optimizers import adam
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


def build_mrq(config: dict[str, Any]) -> tuple[MRQ, dict[str, list[nn.Parameter]]]:
    """MR.Q of a case, filled by the rule, and its parameters by the case's group names."""
    encoder = PixelEncoder((9, 84, 84), channels=32, strides=(2, 2, 2, 1), activation="elu")
    action_space = Box(config["action_dim"])
    model = LatentModel(
        encoder,
        action_space,
        config["horizon"],
        state_dim=config["embedding_dim"],
        state_action_dim=config["state_action_dim"],
        latent_action_dim=config["action_embedding_dim"],
        hidden_dim=config["hidden_dim"],
        augment=IDENTITY,
    )
    agent = MRQ(
        encoder,
        action_space,
        [model],
        lr=config["lr_encoder"],
        value_lr=config["lr_value"],
        weight_decay=config["weight_decay"],
        hidden_dim=config["value_hidden_dim"],
        noise=0.0,
        pre_activation_weight=config["pre_activation_weight"],
        value_grad_clip=config["value_grad_clip"],
        augment=IDENTITY,
    )
    policy = normalized_mlp(config["embedding_dim"], [config["policy_hidden_dim"]] * 2, agent.action_dim, nn.ReLU)
    agent.policy = policy  # the case's policy has a different width
    agent.optimizers["policy"] = adam(policy.parameters(), config["lr_policy"], config["weight_decay"])
    groups = {
        "state_encoder": [*encoder.parameters(), *model.state_projection.parameters()],
        "action_encoder": list(model.state_action.action.parameters()),
        "state_action_encoder": list(model.state_action.layers.parameters()),
        "head": list(model.head.parameters()),
        "q1": list(agent.value.q1.parameters()),
        "q2": list(agent.value.q2.parameters()),
        "policy": list(policy.parameters()),
    }
    assert groups.keys() == config["groups"].keys()
    for name, parameters in groups.items():
        fill(parameters, config["groups"][name])
    model.restart_copies()
    agent.policy_target = momentum_copy(policy)
    agent.value_target.load_state_dict(agent.value.state_dict())
    agent.state_action_target.load_state_dict(model.state_action.state_dict())
    agent.reward_scale.fill_(config["reward_scale"])
    agent.target_reward_scale.fill_(config["target_reward_scale"])
    model.end_seen.fill_(1)  # the reference adds its loss of terminations in all cases
    return agent, groups


def data_mrq(config: dict[str, Any]) -> TensorDict:
    r, size, steps = np.random.RandomState(config["seed"] + 1000), config["batch_size"], config["horizon"]
    observations = torch.from_numpy(r.randint(0, 256, (size, steps + 1, 9, 84, 84)).astype(np.uint8))
    actions = torch.from_numpy(r.uniform(-1, 1, (size, steps, config["action_dim"])).astype(np.float32))
    rewards = torch.from_numpy(r.uniform(-2, 5, (size, steps, 1)).astype(np.float32))
    ended = torch.zeros(size, steps, 1, dtype=torch.bool)
    for row, step in config["ends"]:
        ended[row, step] = True
    taken = config["q_horizon"]
    goes_on = (~ended).float()
    weights = config["discount"] ** torch.arange(taken)[None, :, None] * goes_on[:, :taken]
    batch = TensorDict(
        {
            "observation": observations[:, 0],
            "action": actions[:, 0],
            "action_sequence": actions,
            "sequence": {
                "observation": observations[:, 1:],
                "reward": rewards,
                "terminated": ended,
                "valid": torch.cat([torch.ones(size, 1, 1), goes_on.cumprod(1)[:, :-1]], 1).bool(),
            },
            "next": {"observation": observations[:, taken], "reward": (weights * rewards[:, :taken]).sum(1)},
            "discount": config["discount"] ** taken * goes_on[:, :taken].prod(1),
            "index": torch.arange(size),
        },
        batch_size=[size],
    )
    batch["at"] = {str(k): observations[:, k] for k in range(1, steps + 1)}
    return batch


def abs_mean(parameters: list[nn.Parameter]) -> float:
    return torch.cat([p.detach().flatten() for p in parameters]).abs().mean().item()


@pytest.mark.parametrize("case", cases("mrq_*.json"))
def test_unroll_of_the_latent_model(case: dict[str, Any]) -> None:
    agent, groups = build_mrq(case["config"])
    model, batch = agent.model, data_mrq(case["config"])
    seen: dict[str, torch.Tensor] = {}
    step_losses, contrast_of = model.step_losses, model.contrast

    def record(*given: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.update(step_losses(*given))
        return dict(seen)

    model.step_losses = record  # type: ignore[method-assign]
    losses = model(batch)
    valid = batch["sequence", "valid"][..., 0].float()
    with torch.no_grad():
        targets = model.embed_target(batch["sequence", "observation"].flatten(0, 1)).unflatten(0, (len(batch), -1))
        state, predicted = model.embed(batch["observation"]), []
        for k in range(model.horizon):
            state = model.predict(state, batch["action_sequence"][:, k])[0]
            predicted.append(state)
        unrolled = torch.stack(predicted, 1)
        seen["prediction"] = (unrolled - targets).square().mean(2)
        contrast, _ = contrast_of(unrolled, targets)
    for k, expected in enumerate(case["unroll"]["steps"]):
        for name, loss in seen.items():
            assert (loss * valid).mean(0)[k].item() == pytest.approx(expected[name], rel=1e-4), (k, name)
        assert contrast.mean(0)[k].item() == pytest.approx(expected["contrast_all_rows"], rel=1e-4), k
    total = sum(losses[name] for name in model.out_keys)
    assert total.item() == pytest.approx(case["unroll"]["loss"], rel=1e-4)
    with torch.no_grad():
        assert model.embed(batch["observation"]).abs().mean().item() == pytest.approx(
            case["unroll"]["embedding_abs_mean"], rel=1e-4
        )
    total.backward()
    for name, norm in case["unroll"]["gradient_norms"].items():
        squares = [p.grad.square().sum() for p in groups[name] if p.grad is not None]
        assert torch.stack(squares).sum().sqrt().item() == pytest.approx(norm, rel=1e-3), name


@pytest.mark.parametrize("case", cases("mrq_*.json"))
def test_two_hot_rewards(case: dict[str, Any]) -> None:
    bins = build_mrq(case["config"])[0].model.bins
    for expected in case["two_hot"]:
        weights = two_hot(torch.tensor([expected["value"]]), bins)[0]
        full = torch.zeros(len(bins))
        full[expected["bins"]] = torch.tensor(expected["weights"])
        torch.testing.assert_close(weights, full, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", cases("mrq_*.json"))
def test_whole_updates_of_mrq(case: dict[str, Any]) -> None:
    agent, groups = build_mrq(case["config"])
    batch = data_mrq(case["config"])
    assert batch["next", "reward"].mean().item() == pytest.approx(case["returns"]["reward_sum_mean"], rel=1e-4)
    alive = (batch["discount"] > 0).float().mean().item()
    assert alive == pytest.approx(case["returns"]["alive_mean"], rel=1e-4)
    for number, means in enumerate(case["encoder_updates_parameter_abs_mean"]):
        agent.step_objectives(TensorDict({"shared": batch}), number)
        for name, value in means.items():
            assert abs_mean(groups[name]) == pytest.approx(value, rel=1e-4), (number, name)
    for number, expected in enumerate(case["rl_updates"]):
        metrics = agent.learn(batch, number)
        ours = {
            "q_mean": 0.5 * (metrics["value_q1"] + metrics["value_q2"]),
            "target_mean": metrics["value_target"],
            "value_loss": metrics["value_loss"],
            "priority_mean": metrics["priority"].mean(),
        }
        for name, value in ours.items():
            assert value.item() == pytest.approx(expected[name], rel=1e-4), (number, name)
        for name, value in expected["parameter_abs_mean"].items():
            assert abs_mean(groups[name]) == pytest.approx(value, rel=1e-4), (number, name)
