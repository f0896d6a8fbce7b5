"""DBC's losses against the paper's formulas, and which information it drops."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict

from rlrep import Window
from rlrep.objectives.bisimulation import Bisimulation
from tests.rlrep.objectives.toy import World, gradients, made, train, world

CHOICES = spaces.Discrete(3)


def bisimulation(**options: float) -> Bisimulation:
    objective = made("bisimulation", CHOICES, **(dict(feature_dim=8, hidden_dim=32) | options))
    assert isinstance(objective, Bisimulation)
    return objective


def draw(place: World, rows: int) -> TensorDict:
    """A batch with a reward of 1 if the square that actions move is at the first place."""
    batch = place.data.sample(rows, Window(observations=(1,), actions=1))
    reward = (place.state[batch["index"]] == 0).float()
    batch["sequence"] = TensorDict({"reward": reward[:, None, None]}, batch_size=[rows])
    return batch


def test_the_losses_are_the_papers() -> None:
    objective, given = bisimulation(discount=0.9), draw(world(episodes=2), 6)
    reward = given["sequence", "reward"].flatten()
    state, following = (
        objective.state_projection(objective.encoder(given[k])) for k in ("observation", "future_observation")
    )
    mean, std = objective.predict(state, given["action"])
    assert (std > 0).all()
    bisimulation_loss = likelihood = 0.0
    for i in range(6):
        j = (i - 1) % 6
        transport = ((mean[i] - mean[j]).square().sum() + (std[i] - std[j]).square().sum()).sqrt()
        target = (reward[i] - reward[j]).abs() + 0.9 * transport
        bisimulation_loss += ((state[i] - state[j]).abs().sum() - target).square() / 6
        log_prob = torch.distributions.Normal(mean[i], std[i]).log_prob(following[i]).sum()
        likelihood -= (log_prob / 8 + 0.5 * torch.tensor(2 * torch.pi).log()) / 6
    out = objective(given)
    torch.testing.assert_close(out["loss_bisimulation"], bisimulation_loss)
    torch.testing.assert_close(out["loss_bisimulation_model"], likelihood)
    errors = objective.reward_head(mean).flatten() - reward
    torch.testing.assert_close(out["loss_bisimulation_reward"], errors.square().mean())


@pytest.mark.parametrize("name", ["loss_bisimulation", "loss_bisimulation_model", "loss_bisimulation_reward"])
def test_each_loss_trains_the_encoder_and_distances_do_not_train_the_model(name: str) -> None:
    objective, given = bisimulation(), draw(world(episodes=2), 6)
    objective(given)[name].backward()
    assert all(gradient.any() for gradient in gradients(objective))
    trained = [parameter.grad is not None for parameter in objective.model.parameters()]
    assert all(trained) if name != "loss_bisimulation" else not any(trained)


def test_the_next_observation_carries_no_gradient() -> None:
    """If the model ignores the current observation, the likelihood gives the encoder no gradient."""
    objective, given = bisimulation(), draw(world(episodes=2), 6)
    with torch.no_grad():
        objective.model[0].weight[:, :8] = 0
    objective(given)["loss_bisimulation_model"].backward()
    assert not any(gradient.any() for gradient in gradients(objective))


def test_learning_keeps_what_rewards_depend_on_and_drops_the_rest() -> None:
    place, objective = world(episodes=32), bisimulation()
    train(objective, lambda: draw(place, 64), 200)
    given = draw(place, 400)
    z = objective.state_projection(objective.encoder(given["observation"]))
    state, noise = place.state[given["index"]], place.noise[given["index"]]

    def spread(labels: torch.Tensor) -> float:
        """The variance of the mean features over the values of a label."""
        return torch.stack([z[labels == each].mean(0) for each in range(5)]).var(0).sum().item()

    assert spread(state) > 5 * spread(noise)


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(KeyError, match=r"Bisimulation reads \('sequence', 'reward'\), which this batch lacks"):
        bisimulation()(draw(world(episodes=2), 6).exclude("sequence"))
    with pytest.raises(ValueError, match="Bisimulation reads rewards, which these data lack"):
        world(episodes=2).data.check(bisimulation().window, "Bisimulation")
    with pytest.raises(ValueError, match="discount must be at least 0 and at most 1"):
        bisimulation(discount=1.1)
