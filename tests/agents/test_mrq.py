"""MR.Q: when its bursts of encoder updates come, what they change, and what the value learns between them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlrep import CURL, LatentModel, PixelEncoder, RandomShift, ReplayBuffer
from rlrep.agents import MRQ, make_agent
from rlrep.replay import Mixture
from tests.agents.test_agents import Brightness

SHAPE, BOX, CHOICES = (3, 20, 20), spaces.Box(-1, 1, (2,)), spaces.Discrete(3)
MODEL = dict(horizon=3, state_dim=8, state_action_dim=12, latent_action_dim=4, hidden_dim=16)


def build(
    space: Any = BOX, objectives: tuple[str, ...] = (), model: dict[str, Any] | None = None, **options: Any
) -> MRQ:
    torch.manual_seed(0)
    agent = make_agent(
        "mrq",
        SHAPE,
        space,
        objectives=objectives,
        objective_options={"latent_model": MODEL | (model or {}), "taco": dict(feature_dim=8, hidden_dim=16)},
        encoder_options={"channels": 4, "activation": "elu"},
        shift=1,
        **(dict(hidden_dim=16, target_every=3, batch_size=6, n_step=3) | options),
    )
    assert isinstance(agent, MRQ)
    return agent


def filled(agent: MRQ, space: Any = BOX, reward: float | None = None, steps: int = 60) -> ReplayBuffer:
    replay = ReplayBuffer(SHAPE, space, 200, frame_stack=1, **agent.replay_options)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (steps + 1, *SHAPE), np.uint8)
    for i in range(steps):
        action = rng.integers(3) if space is CHOICES else rng.uniform(-1, 1, 2)
        replay.add(
            observation=pictures[i],
            action=action,
            reward=rng.uniform(-1, 2) if reward is None else reward,
            next_observation=pictures[i + 1],
            terminated=i % 20 == 19,
            truncated=False,
        )
    return replay


def weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(module: nn.Module, before: list[Tensor]) -> bool:
    return all(torch.equal(now, then) for now, then in zip(module.parameters(), before, strict=True))


def test_bursts_come_at_the_first_update_and_then_every_so_many() -> None:
    agent = build()
    replay, bursts = filled(agent), []
    for step in range(7):
        encoder, targets = weights(agent.encoder), weights(agent.value_target)
        metrics = agent.update(replay, step)
        bursts.append(not same(agent.encoder, encoder))
        assert bursts[-1] == ("loss_model_prediction" in metrics) == (step % 3 == 0)
        assert step == 0 or same(agent.value_target, targets) != bursts[-1]
    assert bursts == [True, False, False, True, False, False, True]


def test_a_burst_updates_the_copies_and_then_takes_target_every_steps() -> None:
    agent = build()
    replay = filled(agent)
    with torch.no_grad():
        for module in (agent.encoder, agent.value, agent.policy, agent.model.state_action):
            for parameter in module.parameters():
                parameter += 0.01
    parts = {
        agent.model.target_encoder: agent.encoder,
        agent.model.target_projection: agent.model.state_projection,
        agent.state_action_target: agent.model.state_action,
        agent.value_target: agent.value,
        agent.policy_target: agent.policy,
    }
    before = {copy: weights(online) for copy, online in parts.items()}
    steps: list[int] = []
    step_objectives = agent.step_objectives
    agent.step_objectives = lambda batches, step: steps.append(step) or step_objectives(batches, step)  # type: ignore
    agent.update(replay, 5)
    assert steps == [5, 5, 5]
    for copy, online in before.items():
        assert same(copy, online)


def test_value_and_policy_learn_and_leave_the_embeddings_alone() -> None:
    agent = build()
    replay = filled(agent)
    agent.update(replay, 0)
    value, policy = weights(agent.value), weights(agent.policy)
    embeddings = [weights(part) for part in (agent.encoder, agent.model)]
    agent.update(replay, 1)
    assert not same(agent.value, value) and not same(agent.policy, policy)
    assert all(same(part, before) for part, before in zip((agent.encoder, agent.model), embeddings, strict=True))


def test_rewards_are_divided_by_their_mean_size() -> None:
    agent = build()
    replay = filled(agent, reward=-4.0)
    agent.update(replay, 0)
    assert (agent.reward_scale.item(), agent.target_reward_scale.item()) == (4.0, 1.0)
    for step in range(3):
        agent.update(replay, step)
    assert (agent.reward_scale.item(), agent.target_reward_scale.item()) == (4.0, 4.0)
    unrewarded = build()
    assert unrewarded.update(filled(unrewarded, reward=0.0), 0)["value_target"].abs() < 10
    assert (unrewarded.reward_scale.item(), unrewarded.target_reward_scale.item()) == (1.0, 1.0)
    plain = build(scale_rewards=False)
    plain.update(replay, 0)
    assert (plain.reward_scale.item(), plain.target_reward_scale.item()) == (1.0, 1.0)


def test_rewards_of_nothing_but_zero_stay_finite() -> None:
    agent = build()
    replay = filled(agent, reward=0.0)
    for step in range(4):
        assert all(value.isfinite().all() for value in agent.update(replay, step).values())


def test_priorities_are_those_of_the_errors() -> None:
    agent = build()
    replay = filled(agent, reward=200.0)
    agent.scale_rewards = False
    before = replay.rows["priority"].copy()
    drawn: list[Tensor] = []
    sample = replay.sample
    replay.sample = lambda size, window: drawn.append(sample(size, window)) or drawn[-1]  # type: ignore
    agent.update(replay, 0)
    changed = np.flatnonzero(replay.rows["priority"].reshape(-1) != before.reshape(-1))
    assert set(changed) == set(drawn[-1]["index"].tolist())  # the burst's batches change no priorities
    assert replay.rows["priority"].reshape(-1)[changed].min() > 200**0.3
    uniform = build(prioritized=False)
    plain = filled(uniform)
    assert not plain.prioritized
    uniform.check(plain)
    uniform.update(plain, 0)


def test_a_replay_that_draws_uniformly_is_refused_before_anything_is_drawn() -> None:
    agent = build()
    plain = ReplayBuffer(SHAPE, BOX, 200, frame_stack=1)
    with pytest.raises(ValueError, match=r"MRQ draws by priorities, .* prioritized=True"):
        agent.check(plain)
    agent.check(Mixture(filled(agent), filled(build(prioritized=False)), 0.5))


def test_rows_of_finished_data_have_no_priority() -> None:
    agent = build()
    memory = Mixture(filled(agent), filled(build(prioritized=False), reward=7.0), 0.5)
    for step in range(4):
        agent.update(memory, step)
    ours = memory.replay.mean_absolute_reward()
    assert agent.reward_scale.item() == pytest.approx(0.5 * ours + 3.5)


def test_choices_are_taken_and_learned_from() -> None:
    agent = build(CHOICES, num_expl_steps=10)
    replay, observation = filled(agent, CHOICES), np.zeros((50, *SHAPE), np.uint8)
    for step in range(4):
        agent.update(replay, step)
    for step, eval_mode in ((0, False), (10, False), (0, True)):
        action = agent.act(observation, step, eval_mode)
        assert action.shape == (50,) and action.dtype == np.int64 and set(action) <= {0, 1, 2}
        if eval_mode:
            assert len(set(action)) == 1
        elif step == 0:
            assert set(action) == {0, 1, 2}
    vectors = agent.perturbed(torch.eye(3), 0.3)
    assert set(vectors.flatten().tolist()) == {0.0, 1.0} and (vectors.sum(1) == 1).all()


@pytest.mark.parametrize("space", [BOX, CHOICES], ids=["continuous", "choices"])
def test_it_learns_the_best_action(space: Any) -> None:
    """A bandit: one picture, and a reward that depends on the action only."""
    wide = dict(state_dim=32, state_action_dim=64, latent_action_dim=32, hidden_dim=64)
    options = dict(hidden_dim=64, lr=3e-3, value_lr=1e-3, batch_size=32, target_every=20, pre_activation_weight=0.05)
    agent = build(space, model=wide, **options)
    replay = ReplayBuffer(SHAPE, space, 400, frame_stack=1, **agent.replay_options)
    rng, picture = np.random.default_rng(0), np.random.default_rng(1).integers(0, 256, SHAPE, np.uint8)
    target = np.array([0.5, -0.3])
    for _ in range(300):
        action = rng.integers(3) if space is CHOICES else rng.uniform(-1, 1, 2)
        reward = float(action == 1) if space is CHOICES else -float(np.square(action - target).sum())
        replay.add(
            observation=picture,
            action=action,
            reward=reward,
            next_observation=picture,
            terminated=True,
            truncated=False,
        )
    for step in range(300):
        agent.update(replay, step)
    action = agent.act(picture[None], 10**6, eval_mode=True)[0]
    assert action == 1 if space is CHOICES else np.abs(action - target).max() < 0.3


def test_other_objectives_are_added_to_the_models() -> None:
    agent = build(objectives=("taco",), model=dict(contrast=0.1))
    metrics = agent.update(filled(agent), 0)
    assert {"loss_model_prediction", "loss_model_contrast", "loss_taco", "loss_curl"} <= metrics.keys()
    own = build(objectives=("curl",), batch_size=6)
    own.objectives[1].batch_size = 9
    assert own.objectives.own_batches.keys() == {9}


@pytest.mark.parametrize("kept", [0, 30])
@pytest.mark.parametrize("after", [2, 3])
def test_a_loaded_agent_goes_on_exactly(after: int, kept: int) -> None:
    agent = build(model=dict(keep=kept))
    replay = filled(agent)
    for step in range(after):
        agent.update(replay, step)
    file = io.BytesIO()
    torch.save({"agent": agent.state_dict(), "replay": replay.state_dict(), "random": torch.get_rng_state()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    expected = [agent.update(replay, step) for step in range(4)]

    resumed = build(model=dict(keep=kept))
    again = filled(resumed)
    resumed.load_state_dict(saved["agent"])
    again.rng.bit_generator.state = __import__("json").loads(saved["replay"]["rng"])
    again.rows["priority"][:] = saved["replay"]["priority"].numpy()
    again.largest_priority = saved["replay"]["largest_priority"]
    again._priority_sums = None
    torch.set_rng_state(saved["random"])
    for step, metrics in enumerate(expected):
        found = resumed.update(again, step)
        assert found.keys() == metrics.keys()
        assert all(torch.equal(found[name], metrics[name]) for name in metrics), step


def test_the_gradient_of_the_value_is_cut() -> None:
    agent = build(value_grad_clip=1e-3)
    norms: list[float] = []
    clip = nn.utils.clip_grad_norm_

    def record(parameters: Any, most: float) -> Tensor:
        found = clip(parameters, most)
        norms.append(torch.stack([p.grad.square().sum() for p in parameters]).sum().sqrt().item())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlrep.agents.base.nn.utils.clip_grad_norm_", record)
        agent.update(filled(agent), 0)
    assert norms == [pytest.approx(1e-3, rel=1e-2)]  # only those of the value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(target_every=0), "target_every must be at least 1"),
        (dict(joint=True), "leave out joint"),
        (dict(fade=0.99, prioritized=False), "fade is a part of the priorities"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_it_needs_a_latent_model() -> None:
    encoder = PixelEncoder(SHAPE, channels=4)
    with pytest.raises(ValueError, match="give one among its objectives"):
        MRQ(encoder, BOX, [CURL(encoder)])
    assert MRQ(encoder, BOX, [CURL(encoder), LatentModel(encoder, BOX)]).model.horizon == 5


def test_an_objective_of_ones_own_is_stepped_in_the_bursts() -> None:
    torch.manual_seed(0)
    encoder = PixelEncoder(SHAPE, channels=4)
    brightness = Brightness(encoder)
    agent = MRQ(
        encoder, BOX, [LatentModel(encoder, BOX, **MODEL), brightness], hidden_dim=16, target_every=2, batch_size=6
    )
    replay, moved = filled(agent), []
    for step in range(4):
        before = weights(brightness.head)
        metrics = agent.update(replay, step)
        moved.append(not same(brightness.head, before))
        assert moved[-1] == ("loss_brightness" in metrics)
    assert moved == [True, False, True, False]


def test_keeping_embeddings_changes_the_time_alone() -> None:
    """With a shift of 0, because other shifts would be drawn again."""
    metrics = []
    for kept in (0, 500):
        torch.manual_seed(0)
        encoder = PixelEncoder(SHAPE, channels=4)
        model = LatentModel(encoder, BOX, **MODEL, keep=kept, augment=RandomShift(0))  # type: ignore[arg-type]
        agent = MRQ(encoder, BOX, [model], hidden_dim=16, target_every=3, batch_size=6, noise=0, augment=RandomShift(0))
        memory = Mixture(filled(agent), filled(agent, reward=1.0), 0.5)
        metrics.append([agent.update(memory, step) for step in range(7)])
        assert agent.same_every_update == (kept == 0)
    for plain, keeping in zip(*metrics, strict=True):
        for name in plain:
            torch.testing.assert_close(keeping[name], plain[name], rtol=1e-4, atol=1e-5)
