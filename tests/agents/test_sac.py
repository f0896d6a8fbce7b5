from __future__ import annotations

import math

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from rlrep import PixelEncoder
from rlrep.agents import CQL
from rlrep.agents.sac import LOG_STDDEV_RANGE, SAC, Actor


def make_agent(init_temperature: float = 0.1) -> SAC:
    torch.manual_seed(0)
    encoder = PixelEncoder((3, 17, 17), channels=2)
    box = spaces.Box(-1, 1, (3,))
    return SAC(encoder, box, feature_dim=8, hidden_dim=16, lr=1e-2, init_temperature=init_temperature)


def test_log_density_is_that_of_a_squashed_gaussian() -> None:
    torch.manual_seed(0)
    actor = Actor(repr_dim=10, action_dim=3, feature_dim=8, hidden_dim=16).double()
    features = 3 * torch.randn(200, 10, dtype=torch.float64)
    mean, log_stddev = actor.parameters_of(features)
    action, log_density = actor(features)
    squashed = TransformedDistribution(Normal(mean, log_stddev.exp()), TanhTransform(cache_size=1))
    expected = Independent(squashed, 1).log_prob(action)
    inside = action.abs().amax(1) < 1 - 1e-6  # outside, the reference's inverse of tanh is not exact
    assert inside.sum() > 100
    torch.testing.assert_close(log_density[inside, 0], expected[inside], rtol=1e-4, atol=1e-4)
    assert log_density.shape == (200, 1)


def test_log_density_does_not_overflow() -> None:
    actor = Actor(repr_dim=4, action_dim=2, feature_dim=4, hidden_dim=8)
    with torch.no_grad():
        actor.policy[-1].bias.copy_(torch.tensor([50.0, -50.0, 0.0, 0.0]))
    action, log_density = actor(torch.zeros(5, 4))
    assert log_density.isfinite().all() and action.abs().max() <= 1
    log_density.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in actor.parameters())


@pytest.mark.parametrize(("bias", "expected"), [(100.0, LOG_STDDEV_RANGE[1]), (-100.0, LOG_STDDEV_RANGE[0])])
def test_standard_deviation_is_bounded(bias: float, expected: float) -> None:
    actor = Actor(repr_dim=4, action_dim=1, feature_dim=4, hidden_dim=8)
    with torch.no_grad():
        actor.policy[-1].bias.copy_(torch.tensor([0.0, bias]))
    assert actor.parameters_of(torch.zeros(1, 4))[1].item() == pytest.approx(expected)


@pytest.mark.parametrize(("log_stddev", "direction"), [(-6.0, 1), (-0.5, -1)])
def test_temperature_rises_where_entropy_is_too_low_and_falls_where_it_is_too_high(
    log_stddev: float, direction: int
) -> None:
    agent = make_agent()
    low, high = LOG_STDDEV_RANGE
    raw = math.atanh(2 * (log_stddev - low) / (high - low) - 1)
    with torch.no_grad():
        agent.actor.policy[-1].weight.zero_()
        agent.actor.policy[-1].bias.copy_(torch.tensor([0.0] * 3 + [raw] * 3))
    before = agent.log_temperature.item()
    metrics = agent.update_actor_and_temperature(torch.randn(64, agent.encoder.repr_dim))
    assert (metrics["entropy"] - agent.target_entropy).sign() == -direction
    assert (agent.log_temperature.item() - before) * direction > 0


def test_target_entropy_is_minus_the_number_of_dimensions() -> None:
    assert make_agent().target_entropy == -3


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_impossible_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="init_temperature must be greater than 0"):
        make_agent(temperature)


def given() -> TensorDict:
    pixels = torch.randint(0, 256, (2, 32, 3, 17, 17), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    action = torch.rand(32, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    after = {"observation": pixels[1], "reward": torch.arange(32.0)[:, None]}
    entries = {"observation": pixels[0], "action": action, "next": after, "discount": torch.full((32, 1), 0.5)}
    return TensorDict(entries, batch_size=[32])


@pytest.mark.parametrize(("kind", "entropy"), [(SAC, 10.0), (CQL, 0.0)])
def test_the_target_holds_the_entropy_of_the_next_action(kind: type[SAC], entropy: float) -> None:
    torch.manual_seed(0)
    encoder = PixelEncoder((3, 17, 17), channels=2)
    agent = kind(encoder, spaces.Box(-1, 1, (3,)), feature_dim=8, hidden_dim=16, init_temperature=10.0)
    batch = given()
    with torch.no_grad():
        features, following = (agent.encoder(batch[key]) for key in ("observation", ("next", "observation")))
        for parameter in agent.critic_target.parameters():
            parameter.mul_(1.5)
        torch.manual_seed(1)
        action, log_density = agent.actor(following)
        value = torch.min(*agent.critic_target(following, action)) - entropy * log_density
        expected = (batch["next", "reward"] + 0.5 * value).mean().item()
    torch.manual_seed(1)
    assert agent.update_critic(batch, features, following)["critic_target_q"].item() == pytest.approx(
        expected, rel=1e-4
    )


def test_the_actor_seeks_entropy() -> None:
    agent = make_agent(10.0)
    for parameter in agent.critic.parameters():
        parameter.data.zero_()
    agent.optimizers["temperature"].param_groups[0]["lr"] = 0.0
    features = torch.randn(64, agent.encoder.repr_dim)
    entropies = [agent.update_actor_and_temperature(features)["entropy"].item() for _ in range(60)]
    assert sum(entropies[-5:]) > sum(entropies[:5]) + 2.5
