from __future__ import annotations

import pytest
import torch
from gymnasium import spaces

from rlrep import TACO, PixelEncoder
from rlrep.agents.drqv2 import DrQV2, add_noise

BOX = spaces.Box(-1, 1, (2,))


def test_noise_is_cut_in_updates_only() -> None:
    torch.manual_seed(0)
    mean = torch.zeros(2000, 1)
    assert add_noise(mean, 1.0, clip=0.3).abs().max().item() == pytest.approx(0.3)
    assert add_noise(mean, 0.2, clip=None).abs().max() > 0.4
    assert add_noise(mean, 0.2, clip=None).std().item() == pytest.approx(0.2, rel=0.1)
    assert torch.equal(add_noise(mean, 0.0, clip=0.3), mean)


def test_actions_stay_inside_with_a_straight_gradient() -> None:
    mean = torch.tensor([[0.999, -5.0, 0.0]], requires_grad=True)
    torch.manual_seed(0)
    action = add_noise(mean, 0.5, clip=0.3)
    assert action.abs().max() < 1
    action.sum().backward()
    assert mean.grad is not None and mean.grad.tolist() == [[1, 1, 1]]


def test_exploration_follows_the_schedule() -> None:
    torch.manual_seed(0)
    encoder = PixelEncoder((3, 17, 17), channels=2)
    agent = DrQV2(encoder, BOX, feature_dim=4, hidden_dim=8, num_expl_steps=0, stddev_schedule="linear(0.5,0.01,100)")
    observation = torch.zeros(400, 3, 17, 17, dtype=torch.uint8).numpy()
    spread = [agent.act(observation, step).std(0).max() for step in (0, 50, 1000)]
    assert spread == pytest.approx([0.5, 0.255, 0.01], rel=0.25)


def test_the_critic_of_taco_reads_latent_actions() -> None:
    encoder = PixelEncoder((3, 17, 17), channels=2)
    taco = TACO(encoder, BOX, feature_dim=4, hidden_dim=8)
    plain = DrQV2(encoder, BOX, [taco], feature_dim=4, hidden_dim=8)
    latent = DrQV2(encoder, BOX, [taco], latent_actions=True, feature_dim=4, hidden_dim=8)
    action = torch.rand(5, 2)
    assert torch.equal(plain.encode_action(action), action)
    assert torch.equal(latent.encode_action(action), taco.action_encoder(action))
    first_layers = [agent.critic.q1[0].in_features for agent in (plain, latent)]
    assert first_layers == [4 + 2, 4 + 3]
