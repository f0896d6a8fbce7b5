"""`joint`: the critic and the objectives learn in one backward pass, on one encoding of the observation."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor, nn

from rlrep import Objective, PixelEncoder, RandomShift, Window
from rlrep.agents import Agent, DrQV2
from tests.agents.test_agents import SMALL, Fixed, build, make_batch

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "taco": ("taco", {}),
    "drqv2 with taco, without latent actions": ("drqv2", {"objectives": ["taco"]}),
    "drqv2 with curl": ("drqv2", {"objectives": ["curl"]}),
    "drqv2 with all": ("drqv2 with all", {}),
    "sac with taco": ("sac with taco", {}),
    "sac with forward_model": ("sac", {"objectives": ["forward_model"]}),
}


def build_case(case: str, **options: Any) -> Agent:
    name, usual = CASES[case]
    return build(name, **(usual | options))


def batch_of_one_horizon() -> TensorDict:
    """As from a replay where n_step equals the horizon: the next observation is also the future one."""
    batch = make_batch()
    batch["future_observation"] = batch["next", "observation"]
    assert batch["future_observation"] is batch["next", "observation"]
    return batch


def encodings(agent: Agent, batch: TensorDict) -> list[bool]:
    """Whether the features carry a gradient, for each pass through the encoder in one update."""
    passes: list[bool] = []
    hook = agent.encoder.register_forward_hook(lambda module, given, features: passes.append(features.requires_grad))
    agent.update(Fixed(batch), 0)
    hook.remove()
    return passes


# observation, next observation; TACO's own passes: the observation, a second view of it, and the future
@pytest.mark.parametrize(
    ("case", "separate", "other_horizon", "same_horizon"),
    [
        ("taco", 5, 4, 3),
        ("sac with taco", 5, 4, 3),
        ("drqv2 with curl", 4, 3, 3),
        ("sac with forward_model", 3, 2, 2),
    ],
)
def test_the_observation_is_encoded_once_with_gradient(
    case: str, separate: int, other_horizon: int, same_horizon: int
) -> None:
    for n_step, expected in ((2, other_horizon), (3, same_horizon)):
        passes = encodings(build_case(case, n_step=n_step), make_batch())
        assert (len(passes), sum(passes)) == (separate, 2)
        passes = encodings(build_case(case, n_step=n_step, joint=True), make_batch())
        assert (len(passes), sum(passes)) == (expected, 1)


def critic_gradients(agent: Agent, batch: TensorDict) -> dict[str, Tensor]:
    """The gradients that the critic's optimizer uses in one update."""
    names = {parameter: name for name, parameter in agent.named_parameters()}
    gradients: dict[str, Tensor] = {}

    def record(optimizer: Any, *_: Any) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            if parameter.grad is not None:
                gradients[names[parameter]] = parameter.grad.clone()

    handle = agent.optimizers["critic"].register_step_pre_hook(record)
    torch.manual_seed(3)
    agent.update(Fixed(batch), 0)
    handle.remove()
    return gradients


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_the_sum_of_the_critics_and_the_objectives(case: str) -> None:
    batch = batch_of_one_horizon()
    joint = critic_gradients(build_case(case, joint=True, shift=0), batch)
    of_critic = critic_gradients(build_case(case, shift=0), batch)

    agent = build_case(case, shift=0)
    for objective in agent.objectives:
        out = objective(batch)
        torch.stack([value for name, value in out.items() if name.startswith("loss_")]).sum().backward()
    of_objectives = {name: p.grad for name, p in agent.named_parameters() if p.grad is not None}

    assert joint.keys() == of_critic.keys() | of_objectives.keys()
    shared = of_critic.keys() & of_objectives.keys()
    assert {f"encoder.{name}" for name, _ in agent.encoder.named_parameters()} <= shared
    for name, gradient in joint.items():
        parts = [part[name] for part in (of_critic, of_objectives) if name in part]
        torch.testing.assert_close(
            gradient, torch.stack(parts).sum(0), rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("case", CASES)
def test_one_adam_steps_encoder_critic_and_objectives(case: str) -> None:
    agent = build_case(case, joint=True)
    assert set(agent.optimizers) == {"critic", "actor"} | ({"temperature"} if case.startswith("sac") else set())
    held = {
        name: [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for name, optimizer in agent.optimizers.items()
    }
    times = Counter(parameter for parameters in held.values() for parameter in parameters)
    learned = [parameter for parameter in agent.parameters() if parameter.requires_grad]
    assert times == dict.fromkeys(learned, 1)
    together = {*agent.encoder.parameters(), *agent.critic.parameters(), *agent.objectives.parameters()}
    assert set(held["critic"]) == together


@pytest.mark.parametrize("name", ["drqv2", "sac"])
def test_without_objectives_it_changes_nothing(name: str) -> None:
    both = []
    for joint in (False, True):
        agent = build(name, [], joint=joint)
        torch.manual_seed(3)
        metrics = [agent.update(Fixed(make_batch(seed=step)), step) for step in range(2)]
        both.append((agent, metrics))
    (separate, expected), (joined, metrics) = both
    assert separate.optimizers.keys() == joined.optimizers.keys()
    assert [list(m) for m in metrics] == [list(m) for m in expected]
    for ours, theirs in zip(metrics, expected, strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for key, value in separate.state_dict().items():
        if key != "_extra_state":
            assert torch.equal(value, joined.state_dict()[key]), key


@pytest.mark.parametrize("case", CASES)
def test_losses_and_metrics_are_those_of_separate_steps(case: str) -> None:
    """With tiny steps; otherwise the losses that are computed after the encoder's first step would differ."""
    both = []
    for joint in (True, False):
        agent = build_case(case, joint=joint, shift=0, lr=1e-12)
        torch.manual_seed(3)
        both.append(agent.update(Fixed(batch_of_one_horizon()), 0))
    assert set(both[0]) == set(both[1])
    assert not any(value.requires_grad for value in both[0].values())
    torch.testing.assert_close(both[0], {key: both[1][key] for key in both[0]})


class Views(Objective):
    """Keeps the results of `encode` for a list of (entry, whether with a gradient)."""

    def __init__(self, encoder: PixelEncoder, wanted: list[tuple[str, bool]]) -> None:
        super().__init__(encoder, RandomShift(2))
        self.window = Window(observations=(3,))
        self.in_keys, self.out_keys = ["observation", "future_observation"], ["loss_views"]
        self.wanted = wanted
        self.scale = nn.Parameter(torch.ones(()))
        self.features: list[Tensor] = []

    def losses(self, observation: Tensor, future_observation: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        entries = {"observation": (observation, 0), "future_observation": (future_observation, 3)}
        self.features = []
        for name, gradient in self.wanted:
            with torch.set_grad_enabled(gradient):
                self.features.append(self.encode(*entries[name]))
        return {"loss_views": self.scale * sum(features.mean() for features in self.features)}


@pytest.fixture
def encoder() -> PixelEncoder:
    torch.manual_seed(0)
    return PixelEncoder((3, 20, 20), channels=4)


def views(encoder: PixelEncoder, *wanted: tuple[str, bool]) -> tuple[list[Tensor], Tensor, Tensor]:
    """The features that an objective gets, and its owner's features of the observation and of the future."""
    batch = make_batch()
    features = encoder(batch["observation"])
    with torch.no_grad():
        future_features = encoder(batch["future_observation"])
    encoded = {0: features, 3: future_features}
    objective = Views(encoder, list(wanted))
    objective(batch, encoded)
    return objective.features, features, future_features


def test_each_shared_view_is_used_once(encoder: PixelEncoder) -> None:
    wanted = [("observation", True), ("observation", True), ("observation", False)]
    (first, second, third), shared, _ = views(encoder, *wanted)
    assert first is shared and second is not shared and third is not shared
    assert second.requires_grad and not third.requires_grad
    assert not torch.equal(second, third) and not torch.equal(second, shared)  # different shifts


def test_a_gradient_is_never_lost_to_a_shared_view_without_one(encoder: PixelEncoder) -> None:
    (trained, target), _, shared = views(encoder, ("future_observation", True), ("future_observation", False))
    assert trained is not shared and trained.requires_grad
    assert target is shared  # the owner's view is still available without a gradient


def test_a_view_is_shared_if_no_gradient_is_needed(encoder: PixelEncoder) -> None:
    (target, future), shared, shared_future = views(encoder, ("observation", False), ("future_observation", False))
    assert target is shared and future is shared_future


@pytest.mark.parametrize("broken", [False, True])
def test_a_view_is_not_kept_after_the_call(encoder: PixelEncoder, broken: bool) -> None:
    batch = make_batch()
    observation, shared = batch["observation"], encoder(batch["observation"])
    objective = Views(encoder, [("nothing" if broken else "future_observation", False)])  # no "observation"
    with pytest.raises(KeyError) if broken else nullcontext():
        objective(batch, {0: shared})
    assert objective.encode(observation, offset=0) is not shared


def test_an_objective_that_trains_on_the_future_trains_the_encoder_on_it(encoder: PixelEncoder) -> None:
    """Although the critic's own encoding of the same pixels has no gradient."""
    objective = Views(encoder, [("future_observation", True)])
    agent = DrQV2(encoder, spaces.Box(-1, 1, (2,)), [objective], joint=True, **SMALL)
    assert encodings(agent, batch_of_one_horizon()) == [True, False, True]
    assert objective.features[0].requires_grad


def test_an_objective_of_ones_own_shares_the_view_and_is_trained(encoder: PixelEncoder) -> None:
    objective = Views(encoder, [("observation", True)])
    agent = DrQV2(encoder, spaces.Box(-1, 1, (2,)), [objective], joint=True, **SMALL)
    assert encodings(agent, make_batch()) == [True, False]
    assert objective.scale.item() != 1


def test_every_objective_gets_the_owners_view() -> None:
    # taco and forward_model: observation, next; taco's second view and future
    passes = {n: encodings(build("drqv2 with all", joint=True, n_step=n), make_batch()) for n in (2, 3)}
    assert passes == {2: [True, False, False, False], 3: [True, False, False]}
