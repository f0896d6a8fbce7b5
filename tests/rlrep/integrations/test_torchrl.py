"""Objectives on batches of TorchRL's replay buffer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Bounded, LazyTensorStorage, RandomSampler, ReplayBuffer, SliceSampler
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.modules import QValueActor
from torchrl.objectives import DQNLoss, LossModule

from rlrep import PixelEncoder, make_objective
from rlrep.integrations.torchrl import ObjectiveLoss, Scale, windows
from rlrep.window import Gap, Window

SHAPE = (3, 20, 20)
EPISODES = (7, 5, 9)
WINDOW = Window.ahead(3, 3)


def transitions(dtype: torch.dtype = torch.uint8) -> TensorDict:
    """Three episodes whose pixels, actions and rewards show the row: pixel = row + episode, because each episode has
    one frame more than rows.
    """
    rows = sum(EPISODES)
    episode = torch.cat([torch.full((length,), i) for i, length in enumerate(EPISODES)])
    ends = torch.tensor(EPISODES).cumsum(0) - 1
    done = torch.zeros(rows, 1, dtype=torch.bool)
    done[ends] = True
    terminated = done.clone()
    terminated[ends[0]] = False  # a time limit
    now = torch.arange(rows) + episode
    picture = torch.ones(rows, *SHAPE, dtype=dtype)
    return TensorDict(
        {
            "pixels": (picture * now[:, None, None, None]).to(dtype),
            "action": torch.arange(rows) % 4,
            "next": {
                "pixels": (picture * (now + 1)[:, None, None, None]).to(dtype),
                "reward": torch.arange(rows, dtype=torch.float32)[:, None],
                "done": done,
                "terminated": terminated,
            },
        },
        batch_size=[rows],
    )


def replay(sampler: Sampler, batch_size: int = 12) -> ReplayBuffer:
    made = ReplayBuffer(storage=LazyTensorStorage(100), sampler=sampler, batch_size=batch_size)
    made.extend(transitions())
    return made


def slices(slice_len: int = 3) -> SliceSampler:
    return SliceSampler(slice_len=slice_len, end_key=("next", "done"))


def build(name: str = "taco", **options: Any) -> Any:
    torch.manual_seed(0)
    encoder = PixelEncoder(SHAPE, channels=4, out_dim=8)
    usual: dict[str, Any] = {"horizon": 3, "hidden_dim": 16} if name == "taco" else {}
    return make_objective(name, encoder, spaces.Discrete(4), feature_dim=8, **(usual | options))


@pytest.mark.parametrize("slice_len", [3, 4])
def test_windows_hold_what_follows_their_first_step(slice_len: int) -> None:
    batch = windows(replay(slices(slice_len)).sample(), slice_len, Window.ahead(3, 3), discount=0.5)
    assert batch.shape == (12 // slice_len * (slice_len - 2),)
    ends = torch.tensor(EPISODES).cumsum(0)
    for i in range(len(batch)):
        row = int(batch["next", "reward"][i] * 4 - 4) // 7  # r + (r + 1)/2 + (r + 2)/4
        assert batch["next", "reward"][i] == row + (row + 1) / 2 + (row + 2) / 4
        episode = int((row >= ends).sum())
        assert (batch["observation"][i] == row + episode).all()
        assert (batch["future_observation"][i] == row + 3 + episode).all()
        assert batch["action_sequence"][i].tolist() == [(row + k) % 4 for k in range(3)]
        assert batch["action"][i] == row % 4 and batch["gap"][i] == 3
        real_end = row + 3 in ends[1:].tolist()
        assert batch["next", "terminated"][i] == real_end and batch["discount"][i] == (0 if real_end else 0.125)
    assert torch.equal(batch["future_observation"], batch["next", "observation"])


def test_windows_hold_rewards_ends_and_what_came_before() -> None:
    window = Window(observations=(-1,), rewards=3, episode=True)
    batch = windows(replay(slices(4)).sample(), 4, window)
    ends = torch.tensor(EPISODES).cumsum(0)
    rewards = batch["sequence", "reward"][..., 0]
    assert len(batch) == 3 and batch["sequence", "valid"].all()
    for i in range(3):
        row = int(rewards[i, 0])
        assert rewards[i].tolist() == [row, row + 1, row + 2]
        pixel = row + int((row >= ends).sum())
        assert (batch["observation"][i] == pixel).all() and (batch["at", "-1"][i] == pixel - 1).all()
        real_ends = [row + k + 1 in ends[1:].tolist() for k in range(3)]
        assert batch["sequence", "terminated"][i, :, 0].tolist() == real_ends
    assert batch["episode"].tolist() == [0, 1, 2]


def test_an_objective_that_looks_at_single_steps_reads_every_row() -> None:
    sample = replay(slices()).sample()
    batch = windows(sample, 3, Window(1))
    assert torch.equal(batch["observation"], sample["pixels"]) and "gap" not in batch


@pytest.mark.parametrize("name", ["taco", "curl"])
def test_it_sits_beside_a_loss_module_on_one_encoder(name: str) -> None:
    objective = build(name)
    encoder = objective.encoder
    network = nn.Sequential(encoder, nn.Linear(8, 4))
    value = QValueActor(network, action_space="categorical", in_keys=["pixels"])
    loss = DQNLoss(value, action_space="categorical", delay_value=True)
    auxiliary = ObjectiveLoss(objective, slice_len=3)
    batch = replay(slices()).sample()
    losses = loss(batch)
    losses.update(auxiliary(batch))
    assert set(auxiliary.out_keys) < set(losses.keys()) and "loss" in losses
    assert all(value.shape == () for _, value in losses.items())
    both = {id(p) for p in loss.parameters()} & {id(p) for p in auxiliary.parameters()}
    assert {id(p) for p in encoder.parameters()} <= both
    sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.convolutions.parameters())
    assert network[1].weight.grad is None


def test_batches_of_two_dimensions_are_read_too() -> None:
    sample = replay(slices()).sample()
    auxiliary = ObjectiveLoss(build(), slice_len=3)
    torch.manual_seed(0)
    flat = auxiliary(sample)
    torch.manual_seed(0)
    assert torch.equal(auxiliary(sample.view(4, 3))["loss_taco"], flat["loss_taco"])


def test_a_sampler_without_slices_is_refused() -> None:
    with pytest.raises(ValueError, match="not slices of 3 consecutive steps"):
        ObjectiveLoss(build(), slice_len=3)(replay(RandomSampler()).sample())


def test_every_batch_is_looked_at() -> None:
    auxiliary = ObjectiveLoss(build(), slice_len=3)
    auxiliary(transitions()[:6])
    with pytest.raises(ValueError, match="not slices of 3 consecutive steps"):
        auxiliary(transitions()[[0, 1, 2, 8, 9, 14]])


@pytest.mark.parametrize("name", ["taco", "inverse_model"])
def test_one_hot_actions_are_read_as_choices(name: str) -> None:
    sample = replay(slices()).sample()
    one_hot = sample.clone().set("action", torch.nn.functional.one_hot(sample["action"], 4))
    assert torch.equal(windows(one_hot, 3, WINDOW)["action_sequence"], windows(sample, 3, WINDOW)["action_sequence"])
    objective = make_objective(name, PixelEncoder(SHAPE, channels=4), spaces.Discrete(4), hidden_dim=16)
    assert set(ObjectiveLoss(objective, slice_len=3)(one_hot).keys()) == set(objective.out_keys)
    with pytest.raises(ValueError, match="one choice a step"):
        windows(one_hot.set("action", one_hot["action"] * 2), 3, WINDOW)


def test_slices_across_an_episodes_end_are_refused() -> None:
    with pytest.raises(ValueError, match="cross an episode's end"):
        windows(transitions()[5:8], 3, WINDOW)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pixels": "image"}, KeyError, "no \\'image\\', only"),
        ({"slice_len": 5}, ValueError, r"size \(B·5,\) or \(B, 5\)"),
    ],
)
def test_other_batches_are_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    options: dict[str, Any] = {"slice_len": 3} | change
    with pytest.raises(error, match=message):
        ObjectiveLoss(build(), **options)(replay(slices()).sample())


def test_slices_shorter_than_the_horizon_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"shorter than the objective's window of 3: SliceSampler\(slice_len=3\)"):
        ObjectiveLoss(build(), slice_len=2)


def test_pixels_that_are_floats_or_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must hold uint8 .* without ToTensorImage"):
        windows(transitions(torch.float32)[:3], 3, WINDOW)
    other = ObjectiveLoss(make_objective("curl", PixelEncoder((3, 24, 24), channels=4), None), slice_len=3)
    with pytest.raises(ValueError, match=r"shape \(3, 24, 24\), 'pixels' holds \(3, 20, 20\).*PermuteTransform"):
        other(replay(slices()).sample())


def continuous(low: float, high: float) -> TensorDict:
    """The transitions with two-dimensional actions, from one bound to the other."""
    rows = transitions()
    return rows.set("action", torch.linspace(low, high, len(rows))[:, None].expand(-1, 2).contiguous())


def continuous_loss(**options: Any) -> ObjectiveLoss:
    torch.manual_seed(0)
    encoder = PixelEncoder(SHAPE, channels=4, out_dim=8)
    objective = make_objective("taco", encoder, spaces.Box(-200, 200, (2,)), horizon=3, feature_dim=8, hidden_dim=16)
    return ObjectiveLoss(objective, slice_len=3, **options)


@pytest.mark.parametrize("worst", [200.0, -1.1, torch.nan, torch.inf])
@pytest.mark.parametrize("row", [0, 2, 5])
def test_actions_outside_of_minus_1_to_1_are_refused(worst: float, row: int) -> None:
    batch = continuous(-1, 1)[:6].clone()
    continuous_loss()(batch)
    batch["action"][row, 1] = worst
    with pytest.raises(ValueError, match=r"actions in \[-1, 1\].*action_space=env.action_spec"):
        continuous_loss()(batch)


@pytest.mark.parametrize("space", [spaces.Box(-3, 200, (2,)), Bounded(-3, 200, (2,))])
def test_actions_are_scaled_from_the_space_that_is_given(space: Any) -> None:
    batch = windows(continuous(-3, 200)[:6], 3, WINDOW, scale=Scale(space))
    expected = windows(continuous(-1, 1)[:6], 3, WINDOW)
    for key in ("action", "action_sequence"):
        torch.testing.assert_close(batch[key], expected[key], rtol=0, atol=1e-5)
    continuous_loss(action_space=space)(continuous(-3, 200)[-9:])
    with pytest.raises(ValueError, match=r"got .* after scaling"):
        continuous_loss(action_space=space)(continuous(-3, 300)[-9:])


@pytest.mark.parametrize("space", [spaces.Box(-torch.inf, torch.inf, (2,)), spaces.Discrete(3)])
def test_a_space_without_finite_bounds_is_refused(space: Any) -> None:
    with pytest.raises(ValueError, match="finite bounds"):
        continuous_loss(action_space=space)


def test_spaces_of_environments_side_by_side_are_those_of_one() -> None:
    one = Bounded(low=torch.tensor([0.0, -3.0]), high=torch.tensor([1.0, 3.0]), shape=(2,), dtype=torch.float32)
    action = torch.rand(4, 3, 2)
    torch.testing.assert_close(Scale(one.expand(5, 2))(action), Scale(one)(action))
    low = torch.tensor([[0.0, -3.0], [0.0, -2.0]])
    with pytest.raises(ValueError, match="equal in all environments"):
        Scale(Bounded(low=low, high=low + 4, shape=(2, 2), dtype=torch.float32))


@pytest.mark.parametrize("critics", [1, 2])
def test_a_loss_module_that_trains_copies_of_the_encoder_is_refused(critics: int) -> None:
    """SACLoss replaces the parameters of a network that it needs several of."""
    encoder = PixelEncoder(SHAPE, channels=4, strides=(2, 2))
    network = nn.Sequential(encoder, nn.Linear(encoder.repr_dim, 4))
    agent = LossModule()
    module = TensorDictModule(network, in_keys=["pixels"], out_keys=["value"])
    agent.convert_to_functional(module, "critic", expand_dim=None if critics == 1 else critics)
    objective = make_objective("taco", encoder, spaces.Discrete(4), horizon=3)
    if critics == 1:
        ObjectiveLoss(objective, slice_len=3, agent=agent)
        return
    with pytest.raises(ValueError, match=r"LossModule does not hold the objective's encoder.* separate_losses=True"):
        ObjectiveLoss(objective, slice_len=3, agent=agent)


def test_gaps_of_one_kind_share_their_steps() -> None:
    """So that the frames of a clip are consecutive."""
    window = Window(observations=(Gap(2, linear=True), Gap(2, plus=1, linear=True), Gap(2)))
    found = windows(replay(slices(5), 200).sample(), 5, window)
    steps = {name: found["steps", name] for name in ("1..2 linear", "1..2 linear+1", "1..2")}
    assert torch.equal(steps["1..2 linear+1"], steps["1..2 linear"] + 1)
    assert not torch.equal(steps["1..2"], steps["1..2 linear"])
    for name, ahead in steps.items():
        seen = [each[:, 0, 0, 0].long() for each in (found["at", name], found["observation"])]
        assert torch.equal(seen[0] - seen[1], ahead)


def test_looking_back_never_crosses_an_episodes_end() -> None:
    batch = replay(RandomSampler(), 4).sample()[:0]  # an empty batch with all entries
    batch = torch.cat([batch, transitions()[5:9]])  # the first episode ends after the second of these
    for window in (Window(observations=(-2,)), Window(observations=(-1,), actions=1)):
        with pytest.raises(ValueError, match="slices cross an episode's end"):
            windows(batch, 4, window)


def test_a_batch_size_of_its_own_is_refused() -> None:
    curl = make_objective("curl", PixelEncoder(SHAPE, channels=4), None, batch_size=8)
    with pytest.raises(ValueError, match=r"CURL was built with batch_size=8, .* leave batch_size out"):
        ObjectiveLoss(curl, slice_len=3)


def test_spaces_and_discounts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="a space whose bounds differ"):
        continuous_loss(action_space=spaces.Box(1, 1, (2,)))
    for discount in (2.0, float("nan")):
        with pytest.raises(ValueError, match=r"discount must be (at least 0 and at most 1|finite)"):
            continuous_loss(discount=discount)
    with pytest.raises(ValueError, match="an action has 2 numbers, and one of action_space 1"):
        continuous_loss(action_space=spaces.Box(-1, 1, (1,)))(continuous(-1, 1)[-9:])


def test_rewards_that_are_not_finite_or_several_a_step_are_refused() -> None:
    batch = continuous(-1, 1)[-9:].clone()
    batch["next", "reward"][3] = torch.nan
    with pytest.raises(ValueError, match="rewards must be finite"):
        continuous_loss()(batch)
    batch["next", "reward"] = torch.ones(9, 2)
    with pytest.raises(ValueError, match=r"one reward, got \(2,\)"):
        continuous_loss()(batch)


@pytest.mark.parametrize("choice", [-1, 4, 1000])
def test_choices_out_of_range_are_refused(choice: int) -> None:
    """As rows of an embedding, they would crash a process on CUDA."""
    sample = transitions()[:6]
    wrong = sample.clone().set("action", torch.full((6,), choice))
    objective = make_objective("taco", PixelEncoder(SHAPE, channels=2), spaces.Discrete(4), horizon=3)
    loss = ObjectiveLoss(objective, slice_len=3)
    loss(sample)
    with pytest.raises(ValueError, match=rf"discrete actions must be choices in 0\.\.3, got {choice}"):
        loss(wrong)
    if choice < 0:
        with pytest.raises(ValueError, match="must be choices from 0 on"):
            windows(wrong, 3, WINDOW)
