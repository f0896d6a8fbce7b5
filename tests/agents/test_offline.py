"""The agents that learn from data only."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlrep.agents import CQL, IQL, TD3BC, Agent
from rlrep.agents.cql import conservative
from rlrep.agents.drqv2_bc import bc_weighted
from rlrep.agents.iql import Actor, expectile_loss
from tests.agents.test_agents import Fixed, build, copies, make_batch, moved

OFFLINE = ["bc", "td3_bc", "drqv2_bc", "cql", "iql"]


@pytest.mark.parametrize("objectives", [(), ("taco",)], ids=["plain", "taco"])
@pytest.mark.parametrize("joint", [False, True], ids=["separate", "joint"])
@pytest.mark.parametrize("name", OFFLINE)
def test_updates_move_every_part_and_stay_finite(name: str, joint: bool, objectives: tuple[str, ...]) -> None:
    agent = build(name, objectives, joint=joint)
    before = copies(agent)
    keys = []
    for step in range(3):
        metrics = agent.update(Fixed(make_batch()), step)
        keys.append(list(metrics))
    assert keys[0] == keys[1] == keys[2] and "actor_loss" in metrics
    assert ("loss_taco" in metrics) == bool(objectives)
    for key, value in metrics.items():
        assert value.shape == () and value.isfinite() and not value.requires_grad, key
    assert moved(agent, before) == set(before)


@pytest.mark.parametrize("name", OFFLINE)
def test_a_saved_agent_goes_on_to_the_last_bit(name: str) -> None:
    agent, again = build(name, ("taco",)), build(name, ("taco",))
    agent.update(Fixed(make_batch()), 0)
    buffer = io.BytesIO()
    torch.save(agent.state_dict(), buffer)
    buffer.seek(0)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    for each in (agent, again):
        torch.manual_seed(1)
        for step in range(1, 4):
            metrics = each.update(Fixed(make_batch()), step)
            assert "actor_loss" in metrics
    assert all(torch.equal(a, b) for a, b in zip(agent.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", OFFLINE)
def test_actions_explore_only_outside_of_evaluation_and_stay_in_range(name: str) -> None:
    agent = build(name, num_expl_steps=0)
    observation = make_batch()["observation"].numpy()
    greedy = [agent.act(observation, 0, eval_mode=True) for _ in range(2)]
    exploring = [agent.act(observation, 0) for _ in range(2)]
    assert (greedy[0] == greedy[1]).all() and (exploring[0] != exploring[1]).any()
    assert all(abs(action).max() <= 1 for action in (*greedy, *exploring))


def data(seed: int = 0) -> Any:
    """A batch whose pictures are bright or dark; the brightness determines the action."""
    batch = make_batch(16, seed=seed)
    bright = torch.arange(16) % 2 == 0
    batch["observation"] = torch.where(bright[:, None, None, None], 200, 20).expand(16, 3, 20, 20).to(torch.uint8)
    batch["action"] = torch.where(bright[:, None], 0.6, -0.4).expand(16, 2).contiguous()
    return batch


def best(agent: Agent) -> Tensor:
    return torch.from_numpy(agent.act(data()["observation"].numpy(), 0, eval_mode=True))


def test_cloning_finds_the_actions_of_the_data() -> None:
    agent = build("bc", lr=3e-3)
    for step in range(80):
        agent.update(Fixed(data()), step)
    torch.testing.assert_close(best(agent), data()["action"], atol=0.1, rtol=0)


def test_iql_without_a_temperature_clones() -> None:
    agent = build("iql", lr=3e-3, inverse_temperature=0.0)
    assert isinstance(agent, IQL)
    features = agent.encoder(data()["observation"]).detach()
    for _ in range(400):
        agent.update_actor(data(), torch.zeros(16, 1), features)
    torch.testing.assert_close(best(agent), data()["action"], atol=0.1, rtol=0)


def test_iql_imitates_what_is_better_than_the_average() -> None:
    agent = build("iql", lr=3e-3)
    assert isinstance(agent, IQL)
    batch = data()
    batch["observation"] = batch["observation"][:1].expand_as(batch["observation"]).contiguous()
    features = agent.encoder(batch["observation"]).detach()
    good = batch["action"][:, :1] > 0
    for _ in range(400):
        agent.update_actor(batch, torch.where(good, 2.0, -2.0), features)
    torch.testing.assert_close(best(agent)[0], batch["action"][0], atol=0.1, rtol=0)


@pytest.mark.parametrize("name", ["td3_bc", "drqv2_bc"])
def test_the_less_alpha_the_closer_to_the_data(name: str) -> None:
    distance = []
    for alpha in (1e-3, 1e3):
        agent: Any = build(name, alpha=alpha, lr=3e-3)
        features = agent.encoder(data()["observation"]).detach()
        for _ in range(300):
            agent.update_actor(data(), features, 0.1)
        distance.append((best(agent) - data()["action"]).abs().mean())
    assert distance[0] < 0.1 < distance[1]


def test_imitation_and_value_are_weighed_on_the_scale_of_the_value() -> None:
    q = torch.tensor([[2.0], [-4.0]], requires_grad=True)
    action, taken = torch.zeros(2, 1), torch.tensor([[1.0], [3.0]])
    loss, imitation = bc_weighted(q, action, taken, alpha=2.5)
    assert imitation.item() == 5 and loss.item() == pytest.approx(5 - 2.5 / 3 * -1)
    loss.backward()
    torch.testing.assert_close(q.grad, torch.full((2, 1), -2.5 / 3 / 2))


@pytest.mark.parametrize("name", ["td3_bc", "drqv2_bc"])
def test_the_actors_loss_moves_the_actor_only(name: str) -> None:
    agent: Any = build(name)
    batch = make_batch()
    before = copies(agent)
    agent.update_actor(batch, agent.encoder(batch["observation"]).detach(), 0.2)
    assert {key.split(".")[0] for key in moved(agent, before)} == {"actor"}


def test_td3_moves_actor_and_targets_every_second_update() -> None:
    agent = build("td3_bc")
    assert isinstance(agent, TD3BC)
    slow = ("actor", "actor_target", "critic_target")
    for step, expected in enumerate([True, False, True, False]):
        before = {part: copies(getattr(agent, part)) for part in slow}
        agent.update(Fixed(make_batch()), step)
        assert [bool(moved(getattr(agent, part), before[part])) for part in slow] == [expected] * 3


def test_the_conservative_penalty_estimates_the_integral() -> None:
    # Q(a) = c·a on [-1, 1], sampled uniformly: log ∫ exp(c·a) da = log(2 sinh(c) / c)
    c, count = 2.0, 200_000
    action = torch.rand(count, 1, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    penalty = conservative(c * action, torch.full((count, 1, 1), -math.log(2)), torch.tensor([[0.5]]))
    assert penalty.item() == pytest.approx(math.log(2 * math.sinh(c) / c) - 0.5, abs=0.01)


def test_conservatism_lowers_what_the_data_do_not_hold() -> None:
    gap = []
    for weight in (0.0, 10.0):
        agent = build("cql", cql_weight=weight, lr=3e-3, num_samples=4)
        assert isinstance(agent, CQL)
        for step in range(30):
            agent.update(Fixed(data()), step)
        features = agent.encoder(data()["observation"])
        taken, other = (torch.min(*agent.critic(features, a)) for a in (data()["action"], -data()["action"]))
        gap.append((taken - other).mean().item())
    assert gap[1] > gap[0] + 0.5


def test_cql_samples_actions_with_their_densities() -> None:
    agent = build("cql", num_samples=5)
    assert isinstance(agent, CQL)
    features = torch.randn(6, agent.encoder.repr_dim)
    action, log_density = agent.sample_actions(features, features)
    assert action.shape == (15, 6, 2) and log_density.shape == (15, 6, 1) and action.abs().max() <= 1
    assert (log_density[:5] == -2 * math.log(2)).all() and (action[5:10] != action[10:]).all()


@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_an_expectile_balances_the_errors_on_both_sides(expectile: float) -> None:
    values = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    guess = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([guess], lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        expectile_loss(values - guess, expectile).backward()
        optimizer.step()
    above, below = (values - guess).clamp(min=0).sum(), (guess - values).clamp(min=0).sum()
    assert (expectile * above).item() == pytest.approx(((1 - expectile) * below).item(), rel=1e-6)
    assert expectile != 0.5 or guess.item() == pytest.approx(2)


def test_iql_evaluates_no_action_but_the_datas(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = build("iql")
    assert isinstance(agent, IQL)
    batch, seen = make_batch(), []
    for critic in (agent.critic, agent.critic_target):

        def watched(features: Tensor, action: Tensor, forward: Any = critic.forward) -> Any:
            seen.append(action)
            return forward(features, action)

        monkeypatch.setattr(critic, "forward", watched)
    agent.update(Fixed(batch), 0)
    assert len(seen) == 2 and all(action is batch["action"] for action in seen)


def test_iqls_density_is_a_gaussians() -> None:
    actor = Actor(repr_dim=4, action_dim=2, feature_dim=4, hidden_dim=8)
    with torch.no_grad():
        actor.log_stddev.copy_(torch.tensor([-0.5, 0.3]))
    features, action = torch.randn(5, 4), torch.rand(5, 2) * 2 - 1
    expected = torch.distributions.Normal(actor(features), actor.stddev).log_prob(action).sum(1, keepdim=True)
    torch.testing.assert_close(actor.log_density(features, action) - math.log(2 * math.pi), expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("td3_bc", {"alpha": 0.0}, "alpha must be greater than 0"),
        ("td3_bc", {"policy_delay": 0}, "policy_delay must be at least 1"),
        ("drqv2_bc", {"alpha": -1.0}, "alpha must be greater than 0"),
        ("cql", {"cql_weight": -0.1}, "cql_weight must be at least 0"),
        ("cql", {"num_samples": 0}, "num_samples must be at least 1"),
        ("iql", {"expectile": 1.0}, "expectile must be greater than 0 and less than 1"),
        ("iql", {"inverse_temperature": -1.0}, "inverse_temperature must be at least 0"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_iqls_value_is_the_upper_expectile_and_the_critics_target() -> None:
    agent = build("iql", expectile=0.9, lr=1e-2)
    features = torch.zeros(2, agent.encoder.repr_dim)
    data_q = torch.tensor([[0.0], [1.0]])
    for _ in range(300):
        agent.update_value(data_q, features)
    assert agent.value(features).mean().item() == pytest.approx(0.9, abs=0.03)
    batch = make_batch()
    with torch.no_grad():
        here, there = (agent.encoder(batch[key]) for key in ("observation", ("next", "observation")))
        expected = (batch["next", "reward"] + batch["discount"] * agent.value(there)).mean().item()
        assert expected != pytest.approx(
            (batch["next", "reward"] + batch["discount"] * agent.value(here)).mean().item()
        )
    assert agent.update_critic(batch, here, there)["critic_target_q"].item() == pytest.approx(expected, rel=1e-5)


def test_td3s_target_has_the_target_actors_action_and_the_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = build("td3_bc", policy_noise=0.0, stddev_schedule=1.0)
    with torch.no_grad():
        for parameter in agent.actor_target.parameters():
            parameter.mul_(-1)
    seen: list[tuple[Tensor, Tensor]] = []
    forward = agent.critic_target.forward
    monkeypatch.setattr(
        agent.critic_target,
        "forward",
        lambda *given: seen.append(given) or forward(*given),  # type: ignore[func-returns-value]
    )
    agent.update(Fixed(make_batch()), 0)
    ((features, action),) = seen
    target, online = agent.actor_target(features), agent.actor(features)
    # Both have moved since: a little.
    assert (action - target).abs().max() < 0.1 < (action - online).abs().max()


@pytest.mark.parametrize("name", ["drqv2", "drqv2_bc", "td3_bc"])
def test_a_penalty_on_pre_activations_makes_them_small(name: str) -> None:
    features = torch.randn(32, build(name).encoder.repr_dim, generator=torch.Generator().manual_seed(0))
    batch, sizes = make_batch(32), {}
    for weight in (0.0, 1e3):
        agent = build(name, pre_activation_weight=weight, lr=1e-2)
        for _ in range(20):
            agent.update_actor(batch, features, 0.0)
        sizes[weight] = agent.actor.pre_activation(features).abs().mean().item()
    assert sizes[1e3] < 0.5 * sizes[0.0]
