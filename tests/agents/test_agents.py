"""Properties of every agent."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor, nn

from rlrep import CURL, TACO, Gap, Objective, PixelEncoder, ReplayBuffer, Window
from rlrep.agents import AGENTS, Agent, DrQV2, make_agent
from rlrep.encoders import projection

SHAPE = (3, 20, 20)
BOX = spaces.Box(-1, 1, (2,))
SMALL: dict[str, Any] = {"feature_dim": 8, "hidden_dim": 16}
NAMES = ["drqv2", "taco", "sac", "sac with taco", "drqv2 with all"]


def build(
    name: str,
    objectives: Sequence[str] | None = None,
    precision: str = "float32",
    **options: Any,
) -> Agent:
    """Builds an agent by its name on the command line; taco is DrQ-v2 with latent actions."""
    algorithm = name.split()[0].replace("taco", "drqv2")
    usual = {"taco": ["taco"], "sac with taco": ["taco"], "drqv2 with all": ["taco", "forward_model"]}.get(name, [])
    if name == "taco":
        options = {"latent_actions": True} | options
    torch.manual_seed(0)
    return make_agent(
        algorithm,
        SHAPE,
        BOX,
        objectives=usual if objectives is None else objectives,
        objective_options={
            "taco": SMALL,
            "curl": {"feature_dim": 8},
            "forward_model": SMALL,
            **options.pop("objective_options", {}),
        },
        encoder_options={"channels": 4, "precision": precision},
        **(SMALL | options),
    )


def sizes_of(name: str) -> dict[str, Any]:
    """The sizes of an agent's heads; MR.Q has no trunks."""
    return {key: value for key, value in SMALL.items() if name != "mrq" or key != "feature_dim"}


@dataclass
class Fixed:
    """A replay that always returns the same batch."""

    batch: TensorDict

    def sample(self, batch_size: int, window: Window | None = None) -> TensorDict:
        return self.batch


def filled_replay() -> ReplayBuffer:
    """A few episodes of random pictures."""
    replay, rng = ReplayBuffer(SHAPE, BOX, 60, frame_stack=1), np.random.default_rng(0)
    pictures = rng.integers(0, 256, (41, *SHAPE), np.uint8)
    for i in range(40):
        replay.add(
            observation=pictures[i],
            action=rng.uniform(-1, 1, 2),
            reward=rng.uniform(),
            next_observation=pictures[i + 1],
            terminated=False,
            truncated=i % 20 == 19,
        )
    return replay


def make_batch(batch_size: int = 6, horizon: int = 3, seed: int = 1) -> TensorDict:
    generator = torch.Generator().manual_seed(seed)

    def pixels() -> Tensor:
        return torch.randint(0, 256, (batch_size, *SHAPE), generator=generator).to(torch.uint8)

    sequence = torch.rand(batch_size, horizon, 2, generator=generator) * 2 - 1
    return TensorDict(
        {
            "observation": pixels(),
            "action": sequence[:, 0],
            "action_sequence": sequence,
            "future_observation": pixels(),
            "next": {
                "observation": pixels(),
                "reward": torch.rand(batch_size, 1, generator=generator),
                "terminated": torch.zeros(batch_size, 1, dtype=torch.bool),
            },
            "discount": torch.full((batch_size, 1), 0.97),
        },
        batch_size=[batch_size],
    )


def copies(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def moved(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, parameter in module.named_parameters() if not torch.equal(parameter, before[name])}


@pytest.mark.parametrize("joint", [False, True], ids=["separate", "joint"])
@pytest.mark.parametrize("name", NAMES)
def test_updates_move_every_part_and_stay_finite(name: str, joint: bool) -> None:
    agent = build(name, joint=joint)
    before = copies(agent)
    for step in range(3):
        metrics = agent.update(Fixed(make_batch()), step)
    assert {"critic_loss", "actor_loss", "batch_reward", "critic_target_q"} <= set(metrics)
    for key, value in metrics.items():
        assert value.shape == () and value.isfinite() and not value.requires_grad, key
    for objective in agent.objectives:
        assert set(objective.out_keys) <= set(metrics)
    assert moved(agent, before) == set(before)


@pytest.mark.parametrize("joint", [False, True], ids=["separate", "joint"])
@pytest.mark.parametrize("path", ["fast", "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_updates_move_all_but_a_frozen_encoder(name: str, path: str, joint: bool) -> None:
    agent = build(name, joint=joint, freeze_encoder=True, path=path)
    before = copies(agent)
    for step in range(3):
        metrics = agent.update(Fixed(make_batch()), step)
    assert all(value.isfinite() for value in metrics.values())
    encoder = {key for key in before if key.startswith("encoder.") or ".encoder." in key}
    assert moved(agent, before) == set(before) - encoder
    owned = {id(p) for o in agent.optimizers.values() for group in o.param_groups for p in group["params"]}
    assert not owned & {id(p) for p in agent.encoder.parameters()}
    assert all(parameter.grad is None for parameter in agent.encoder.parameters())


@pytest.mark.parametrize("name", ["drqv2", "sac"])
def test_no_objectives_is_an_empty_list(name: str) -> None:
    bare = AGENTS[name]
    torch.manual_seed(0)
    without = bare(PixelEncoder(SHAPE, channels=4), BOX, **SMALL)
    with_empty = build(name, objectives=[])
    for agent in (without, with_empty):
        torch.manual_seed(1)
        agent.update(Fixed(make_batch()), 0)
    for ours, theirs in zip(without.parameters(), with_empty.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert without.window == without.own_window(without.n_step) and "objectives" not in without.optimizers


@pytest.mark.parametrize("name", NAMES)
def test_the_critic_moves_the_encoder_and_the_actor_does_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = build(name)
    changed: dict[str, set[str]] = {}
    plain_step = agent.step

    def watched(optimizer: str, loss: Tensor) -> None:
        before = copies(agent)
        plain_step(optimizer, loss)
        names = moved(agent, before)
        changed[optimizer] = {"action_encoder" if ".action_encoder." in k else k.split(".")[0] for k in names}

    monkeypatch.setattr(agent, "step", watched)
    agent.update(Fixed(make_batch()), 0)
    assert changed["critic"] == {"encoder", "critic"} | ({"action_encoder"} if name == "taco" else set())
    assert changed["actor"] == {"actor"}
    assert changed.get("temperature", {"log_temperature"}) == {"log_temperature"}
    if agent.objectives:
        assert changed["objectives"] == {"encoder", "objectives", "action_encoder"}


@pytest.mark.parametrize("name", NAMES)
def test_the_target_moves_by_tau_alone(name: str) -> None:
    agent = build(name, critic_target_tau=0.25)
    assert all(not p.requires_grad for p in agent.critic_target.parameters())
    before = copies(agent.critic_target)
    agent.update(Fixed(make_batch()), 0)
    for key, parameter in agent.critic_target.named_parameters():
        expected = 0.75 * before[key] + 0.25 * agent.critic.get_parameter(key)
        torch.testing.assert_close(parameter.detach(), expected.detach())
    owned = {id(p) for o in agent.optimizers.values() for group in o.param_groups for p in group["params"]}
    assert not owned & {id(p) for p in agent.critic_target.parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_a_real_end_takes_the_future_out_of_the_target(name: str) -> None:
    agent = build(name)
    batch = make_batch()
    batch["discount"].zero_()
    metrics = agent.update(Fixed(batch), 0)
    assert metrics["critic_target_q"].item() == pytest.approx(batch["next", "reward"].mean().item())


@pytest.mark.parametrize("name", NAMES)
def test_act(name: str) -> None:
    agent = build(name, num_expl_steps=10)
    observation = make_batch(8)["observation"].numpy()
    best = agent.act(observation, step=100, eval_mode=True)
    assert best.shape == (8, 2) and best.dtype == np.float32
    np.testing.assert_array_equal(best, agent.act(observation, step=0, eval_mode=True))
    explored = [agent.act(observation, step=100) for _ in range(50)]
    assert not np.array_equal(explored[0], explored[1])
    assert np.abs(explored).max() <= 1 and np.abs(best).max() <= 1


@pytest.mark.parametrize("name", ["drqv2", "sac"])
def test_the_first_steps_are_uniform(name: str) -> None:
    agent = build(name, num_expl_steps=10)
    observation = np.zeros((1000, *SHAPE), np.uint8)
    for parameter in agent.parameters():
        parameter.data.fill_(torch.nan)  # the networks are not used
    action = agent.act(observation, step=9)
    assert action.shape == (1000, 2) and action.dtype == np.float32 and np.abs(action).max() <= 1
    for share in np.histogram(action, bins=4, range=(-1, 1))[0] / 2000:
        assert share == pytest.approx(0.25, abs=0.05)
    assert np.isnan(agent.act(observation[:1], step=10)).all()


@pytest.mark.parametrize("joint", [False, True], ids=["separate", "joint"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("freeze", [False, True], ids=["trained", "frozen"])
def test_a_loaded_agent_goes_on_exactly(name: str, joint: bool, freeze: bool) -> None:
    agent = build(name, joint=joint, freeze_encoder=freeze)
    for step in range(2):
        agent.update(Fixed(make_batch(seed=step)), step)
    file = io.BytesIO()
    torch.save({"agent": agent.state_dict(), "random": torch.get_rng_state()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    expected = agent.update(Fixed(make_batch(seed=2)), 2)
    resumed = build(name, joint=joint, freeze_encoder=freeze)
    resumed.update(Fixed(make_batch(seed=7)), 0)  # its earlier state does not matter
    resumed.load_state_dict(saved["agent"])
    torch.set_rng_state(saved["random"])
    metrics = resumed.update(Fixed(make_batch(seed=2)), 2)
    assert metrics.keys() == expected.keys()
    assert all(torch.equal(metrics[key], expected[key]) for key in metrics)
    for key, value in agent.state_dict().items():
        if key != "_extra_state":
            assert torch.equal(value, resumed.state_dict()[key]), key


def test_objectives_share_the_agents_encoder() -> None:
    encoder, other = PixelEncoder(SHAPE, channels=4), PixelEncoder(SHAPE, channels=4)
    for name, agent in AGENTS.items():
        with pytest.raises(ValueError, match="built around the agent's own encoder"):
            agent(encoder, BOX, [CURL(other)], **sizes_of(name))


@pytest.mark.parametrize("joint", [False, True])
def test_objectives_of_different_horizons_learn_from_one_batch(joint: bool) -> None:
    options = {"taco": SMALL | {"horizon": 2}, "forward_model": SMALL | {"horizon": 4}, "inverse_model": {"horizon": 5}}
    agent = make_agent(
        "drqv2",
        SHAPE,
        BOX,
        objectives=list(options),
        objective_options=options,
        encoder_options={"channels": 4},
        joint=joint,
        batch_size=4,
        **SMALL,
    )
    assert agent.window == Window(3, (2, 4, Gap(5)), actions=4)
    replay = filled_replay()
    agent.check(replay)
    metrics = agent.update(replay, 0)
    assert {"loss_taco", "loss_forward", "loss_inverse", "critic_loss"} <= set(metrics)


def test_an_objective_may_have_a_batch_of_its_own() -> None:
    """Its larger batch gives it more negatives than the critic's batch has rows."""
    sizes: list[int] = []
    agent = build("taco", objective_options={"taco": SMALL | {"batch_size": 9}}, batch_size=4)
    agent.objectives[0].register_forward_hook(lambda module, given, out: sizes.append(len(given[0])))
    agent.encoder.register_forward_hook(lambda module, given, out: sizes.append(len(out)))
    agent.update(filled_replay(), 0)
    assert sizes == [4, 4, 9, 9, 9, 9]  # observation and next; TACO's three views, and TACO
    with pytest.raises(ValueError, match=r"update=joint.* shares one batch.*\(\w+ of \d+\): give update=separate"):
        build("taco", objective_options={"taco": SMALL | {"batch_size": 9}}, joint=True)


def test_what_a_replay_can_never_serve_is_refused_before_anything_is_drawn() -> None:
    replay = filled_replay()
    with pytest.raises(ValueError, match=r"capacity=60 leaves 60 rows .* one sample spans 81"):
        build("taco", objective_options={"taco": SMALL | {"horizon": 80}}, batch_size=4).check(replay)
    with pytest.raises(ValueError, match=r"TACO reads batches of 100, and this replay hold"):
        build("taco", objective_options={"taco": SMALL | {"batch_size": 100}}, batch_size=4).check(replay)
    build("taco", batch_size=4).check(replay)


def test_objectives_whose_losses_share_a_name_are_refused() -> None:
    """Otherwise one would silently replace the other."""
    with pytest.raises(ValueError, match="TACO and CURL both return curl_accuracy and loss_curl: leave one"):
        build("drqv2", ["taco", "curl"])
    encoder = PixelEncoder(SHAPE, channels=4)
    agent = DrQV2(encoder, BOX, [TACO(encoder, BOX, 3, curl=False), CURL(encoder)], **SMALL)
    assert {"loss_taco", "loss_curl", "loss_reward"} <= set(agent.update(Fixed(make_batch()), 0))


@pytest.mark.parametrize("objectives", [[], ["curl"]])
def test_latent_actions_need_taco(objectives: list[str]) -> None:
    with pytest.raises(ValueError, match="needs TACO among the objectives"):
        build("drqv2", objectives, latent_actions=True)


@pytest.mark.parametrize("name", ["drqv2", "sac"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr must be greater than 0"),
        ({"update_every_steps": 0}, "update_every_steps must be greater than 0"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **options)


@pytest.mark.parametrize("name", ["drqv2", "sac"])
def test_discrete_actions_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="needs continuous actions in one axis"):
        make_agent(name, SHAPE, spaces.Discrete(3))


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown agent 'drq2': did you mean drqv2"):
        make_agent("drq2", SHAPE, BOX)
    with pytest.raises(ValueError, match="unknown objective 'tako': did you mean taco"):
        build("drqv2", ["tako"])


def test_bad_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="a schedule is a number or"):
        build("drqv2", stddev_schedule="linear(1)")


class Brightness(Objective):
    """A user-defined method: the features predict the brightness of the picture."""

    def __init__(self, encoder: PixelEncoder) -> None:
        super().__init__(encoder)
        self.in_keys = ["observation"]
        self.out_keys = ["loss_brightness", "brightness"]
        self.head = nn.Sequential(projection(encoder.repr_dim, 8), nn.Linear(8, 1))

    def losses(self, observation: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        brightness = observation.float().mean((1, 2, 3)) / 255
        predicted = self.head(self.encoder(self.augment(observation)))[:, 0]
        return {"loss_brightness": (predicted - brightness).square().mean(), "brightness": brightness.mean()}


@pytest.mark.parametrize("name", sorted(AGENTS.keys() - {"mrq"}))  # mrq needs a replay with priorities: test_mrq.py
def test_an_objective_of_ones_own_needs_no_change_here(name: str) -> None:
    encoder = PixelEncoder(SHAPE, channels=4)
    agent = AGENTS[name](encoder, BOX, [Brightness(encoder)], lr=1e-3, **SMALL)
    batch = make_batch()
    history = [agent.update(Fixed(batch), step)["loss_brightness"].item() for step in range(100)]
    assert history[-1] < 0.5 * history[0]


@pytest.mark.parametrize("name", ["drqv2", "taco", "sac"])
def test_agents_learn_the_best_action(name: str) -> None:
    """A bandit: one picture, the reward falls with the distance of the action from a target."""
    options: dict[str, Any] = {"init_temperature": 0.01} if name == "sac" else {"stddev_schedule": 0.2}
    agent = build(name, lr=3e-3, critic_target_tau=0.1, hidden_dim=32, **options)
    target = torch.tensor([0.5, -0.3])
    picture = make_batch(1)["observation"]
    generator = torch.Generator().manual_seed(0)

    def distance() -> float:
        return float(np.abs(agent.act(picture.numpy(), 10**6, eval_mode=True)[0] - target.numpy()).max())

    at_first = distance()
    for step in range(250):
        batch = make_batch(32, seed=step)
        batch["action_sequence"] = torch.rand(32, 3, 2, generator=generator) * 2 - 1
        batch["action"] = batch["action_sequence"][:, 0]
        for key in ("observation", "future_observation", ("next", "observation")):
            batch[key] = picture.expand(32, *SHAPE)
        batch["next", "reward"] = -(batch["action"] - target).square().sum(1, keepdim=True)
        batch["discount"].zero_()
        agent.update(Fixed(batch), step)
    assert distance() < 0.15 < at_first


def test_agent_and_objectives_shift_alike() -> None:
    agent = build("taco", shift=2)
    assert agent.augment is agent.objectives[0].augment
    assert agent.augment.pad == 2


@pytest.mark.parametrize("name", ["drqv2", "sac", "td3_bc", "iql", "cql"])
def test_every_update_reads_pictures_that_are_shifted_anew(name: str) -> None:
    agent, batch = build(name, shift=2), make_batch()
    seen: list[Tensor] = []
    encode_view = agent.encoder.encode_view
    agent.encoder.encode_view = lambda pixels, augment: encode_view(  # type: ignore[method-assign]
        pixels, lambda given: seen.append(augment(given)) or seen[-1]
    )
    for step in range(2):
        agent.update(Fixed(batch), step)
    views = {
        key: [
            view for view in seen if all(is_crop(one, picture) for one, picture in zip(view, batch[key], strict=True))
        ]
        for key in ("observation", ("next", "observation"))
    }
    for key, found in views.items():
        assert len(found) >= 2 and not any(torch.equal(view, batch[key]) for view in found)
        assert not torch.equal(found[0], found[-1])


def is_crop(view: Tensor, picture: Tensor, pad: int = 2) -> bool:
    """Whether a view is the picture shifted by up to `pad` pixels, its edges repeated."""
    padded = F.pad(picture[None].float(), (pad,) * 4, mode="replicate")[0].to(torch.uint8)
    height, width = picture.shape[1:]
    places = ((y, x) for y in range(2 * pad + 1) for x in range(2 * pad + 1))
    return any(torch.equal(view, padded[:, y : y + height, x : x + width]) for y, x in places)


@pytest.mark.parametrize("algorithm", AGENTS)
def test_actions_of_another_range_are_refused(algorithm: str) -> None:
    with pytest.raises(ValueError, match="RescaleAction"):
        make_agent(algorithm, SHAPE, spaces.Box(-2, 2, (2,)), encoder_options={"channels": 4}, **sizes_of(algorithm))


@pytest.mark.parametrize("joint", [False, True])
def test_the_agents_n_step_counts_for_its_objectives_whatever_the_replays_is(joint: bool) -> None:
    replay = filled_replay()
    drawn: list[Window] = []
    sample = replay.sample
    replay.sample = lambda size, window: drawn.append(window) or sample(size, window)  # type: ignore
    own = {} if joint else {"batch_size": 5}
    options: dict[str, Any] = {"n_step": 2, "objective_options": {"taco": SMALL | own}, "joint": joint}
    build("drqv2", ["taco"], batch_size=4, **options).update(replay, 0)
    build("bc", ["taco"], batch_size=4, **options).update(replay, 0)
    assert {window.n_step for window in drawn if window.observations} == {2}


def test_windows_that_only_together_are_too_long_are_refused() -> None:
    replay = ReplayBuffer(SHAPE, BOX, 12, frame_stack=1, n_step=1)
    encoder = PixelEncoder(SHAPE, channels=4)
    back, ahead = CURL(encoder), TACO(encoder, BOX, horizon=8, curl=False)
    back.window = Window(observations=(-8,))
    DrQV2(encoder, BOX, [back], batch_size=4).check(replay)
    DrQV2(encoder, BOX, [ahead], batch_size=4).check(replay)
    with pytest.raises(ValueError, match=r"the batch that DrQV2 and its objectives share reads .* 8 steps back"):
        DrQV2(encoder, BOX, [back, ahead], batch_size=4).check(replay)
    back.batch_size = ahead.batch_size = 6
    with pytest.raises(ValueError, match="the objectives' batch of 6 rows reads"):
        DrQV2(encoder, BOX, [back, ahead], batch_size=4).check(replay)


def test_an_agents_own_batch_that_is_larger_than_the_replay_is_refused() -> None:
    with pytest.raises(ValueError, match="DrQV2 reads batches of 80, and this replay hold at most 59"):
        build("drqv2", batch_size=80).check(filled_replay())


def test_an_encoder_can_be_brought_along() -> None:
    shape = (9, 40, 40)
    encoder = PixelEncoder(shape, channels=4).requires_grad_(False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    agent = make_agent("drqv2", shape, BOX, encoder=encoder, hidden_dim=16, batch_size=8)
    assert agent.encoder is encoder and not any(each.requires_grad for each in encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in agent.encoder.state_dict().items())
    with pytest.raises(ValueError, match=r"reads observations of shape \(9, 40, 40\), .* \(3, 40, 40\)"):
        make_agent("drqv2", (3, 40, 40), BOX, encoder=encoder)
    with pytest.raises(ValueError, match="leave out encoder"):
        make_agent("drqv2", shape, BOX, encoder=encoder, encoder_options={"channels": 8})
    with pytest.raises(ValueError, match="must be uint8 pixels"):
        agent.act(np.ones((1, *shape), np.float32), step=0)
    with pytest.raises(ValueError, match=r"batch \(N, F·C, H, W\), got \(9, 40, 40\): .* give observation\[None\]"):
        agent.act(np.ones(shape, np.uint8), step=0)
