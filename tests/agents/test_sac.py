from __future__ import annotations

import math

import pytest
import torch
from gymnasium import spaces
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from rlrep import PixelEncoder
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
