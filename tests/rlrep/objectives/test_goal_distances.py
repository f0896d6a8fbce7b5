"""VIP's and R3M's losses against the papers' formulas, and the distances between learned features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor, nn

from rlrep import Objective, RandomShift
from rlrep.data import EpisodeDataset
from rlrep.objectives import find_objective
from tests.rlrep.objectives.toy import SHAPE, gradients, made, train


def built(name: str, **options: float) -> Objective:
    return made(name, **(dict(feature_dim=6, horizon=8) | options))


def crossing(episodes: int = 12) -> EpisodeDataset:
    """Videos of 17 frames in which a square crosses the picture, one pixel per step, at a random height."""
    frames = np.zeros((episodes, 17, *SHAPE), np.uint8)
    for episode in range(episodes):
        for step in range(17):
            frames[episode, step, 0, episode : episode + 5, step : step + 4] = 255
    return EpisodeDataset(frames.reshape(-1, *SHAPE), [17] * episodes)


def states(objective: Objective, given: TensorDict) -> list[Tensor]:
    observation, others = objective.read(given)
    return [objective.state_projection(objective.encoder(each)) for each in (observation, *others.unbind(1))]  # type: ignore[operator]


def test_vip_reads_two_consecutive_observations_before_the_goal() -> None:
    given = crossing().sample(100, built("vip").window)
    steps = {name: set(given["steps", name].tolist()) for name in ("1", "1..7", "1..7+1", "8")}
    assert steps == {"1": {1}, "1..7": set(range(1, 8)), "1..7+1": set(range(2, 9)), "8": {8}}
    assert (given["steps", "1..7+1"] == given["steps", "1..7"] + 1).all()


def test_vips_loss_is_the_papers() -> None:
    objective = built("vip", discount=0.9)
    given = crossing().sample(5, objective.window)
    for name in ("1..7", "1..7+1"):
        given["at", name][4] = given["at", "8"][4]  # this row is at its goal
    start, first, before, after, goal = states(objective, given)
    attraction, apart = torch.zeros(()), torch.tensor(0.9**8)
    for row in range(5):
        attraction += 0.1 * (start[row] - goal[row]).norm() / 5
        for here, there, steps, reward in (
            (start, first, 1, -1),
            (before, after, 7, -1 if row < 4 else 0),  # one stands for seven
        ):
            difference = -(here[row] - goal[row]).norm() - reward + 0.9 * (there[row] - goal[row]).norm()
            apart += (1 - 0.9**8) * steps / 8 * difference.exp() / 5
    torch.testing.assert_close(objective(given)["loss_vip"], attraction + apart.log())


class Numbered(nn.Module):
    """Features of a frame that shows its number: one of nine."""

    repr_dim, observation_shape = 9, SHAPE

    def forward(self, pixels: Tensor) -> Tensor:
        return F.one_hot(pixels[:, 0, 0, 0].long(), 9).float()


@pytest.mark.parametrize("away", [1.0, 10.0, 100.0])
def test_vips_optimum_is_the_discounted_steps_and_no_detour_is_cheaper(away: float) -> None:
    """Without a window's first step, nothing would keep its beginning from the place of its goal."""
    objective = find_objective("vip")(Numbered(), horizon=8, feature_dim=9, discount=0.9, augment=RandomShift(0))  # type: ignore[arg-type]
    later = torch.arange(1, 8)
    steps = torch.stack([torch.ones(7), later, later + 1, torch.full((7,), 8)], 1)
    others = steps[..., None, None, None].expand(7, 4, *SHAPE).to(torch.uint8)
    left = (1 - 0.9 ** torch.arange(8, -1, -1.0)) / 0.1  # the distances to the goal
    detour = torch.tensor([0.0, *[away] * 7, 0.0])
    found = []
    for distances_to_goal in (left, detour):
        weight = torch.zeros(9, 9)
        weight[0] = distances_to_goal
        objective.state_projection.weight.data.copy_(weight)
        found.append(objective.losses(torch.zeros(7, *SHAPE, dtype=torch.uint8), others)["loss_vip"].item())
    assert found[0] == pytest.approx(1 - 0.9**8, abs=1e-5) and found[1] > found[0]


def test_r3ms_loss_is_the_papers() -> None:
    objective = built("r3m")
    given = crossing().sample(5, objective.window)
    assert set(given["steps", "1..7"].tolist()) <= set(range(1, 8)) and (given["steps", "8"] == 8).all()
    start, near, far = states(objective, given)
    expected = 0.0
    for row in range(5):
        positive, *negatives = ((-(start[row] - each).norm()).exp() for each in (near[row], far[row], near[row - 1]))
        expected -= (positive / (positive + sum(negatives))).log() / 5
    torch.testing.assert_close(objective(given)["loss_r3m"], expected)


def test_r3m_leaves_out_rows_whose_later_observations_are_one() -> None:
    objective = built("r3m")
    given = crossing().sample(5, objective.window)
    given["at", "1..7"][4] = given["at", "8"][4]  # an episode really ended there
    start, near, far = states(objective, given)
    expected = 0.0
    for row in range(4):
        positive, *negatives = ((-(start[row] - each).norm()).exp() for each in (near[row], far[row], near[row - 1]))
        expected -= (positive / (positive + sum(negatives))).log() / 4
    torch.testing.assert_close(objective(given)["loss_r3m"], expected)


@pytest.mark.parametrize("name", ["vip", "r3m"])
def test_a_gradient_reaches_the_encoder(name: str) -> None:
    objective = built(name)
    objective(crossing().sample(5, objective.window))[f"loss_{name}"].backward()
    assert all(gradient.any() for gradient in gradients(objective))


@pytest.mark.parametrize("name", ["vip", "r3m"])
def test_equal_observations_give_finite_gradients(name: str) -> None:
    """As after a real end, where the last observation is repeated."""
    objective = built(name)
    still = torch.full((4, *SHAPE), 9, dtype=torch.uint8)
    others = still[:, None].expand(-1, len(objective.window.observations), *SHAPE)
    given = TensorDict({"observation": still, "sequence": {"observation": others}}, batch_size=[4])
    objective(given)[f"loss_{name}"].backward()
    gradients(objective)


def distances(objective: Objective, place: EpisodeDataset) -> Tensor:
    """The mean distances between features of observations 1..8 steps apart, (8,)."""
    z = objective.state_projection(objective.encoder(torch.from_numpy(place.frames))).view(-1, 17, 6)  # type: ignore[operator]
    return torch.stack([(z[:, steps:] - z[:, :-steps]).norm(dim=2).mean() for steps in range(1, 9)]).detach()


def test_vips_distances_become_about_the_discounted_steps() -> None:
    place, objective = crossing(), built("vip", discount=0.9)
    train(objective, lambda: place.sample(32, objective.window), 200)
    expected = (1 - 0.9 ** torch.arange(1, 9)) / 0.1
    assert ((distances(objective, place) / expected).log().abs() < 0.65).all()  # before training: 1.1 to 2.4


def test_r3ms_distances_grow_with_the_steps() -> None:
    place, objective = crossing(), built("r3m")
    train(objective, lambda: place.sample(32, objective.window), 100)
    far = distances(objective, place)
    assert (far.diff() > 0).all() and far[7] > 1.3 * far[3]  # before training: 1.1


@pytest.mark.parametrize("name", ["vip", "r3m"])
def test_what_it_lacks_is_named(name: str) -> None:
    still = TensorDict({"observation": torch.zeros(2, *SHAPE, dtype=torch.uint8)}, batch_size=[2])
    with pytest.raises(KeyError, match=r"reads \('sequence', 'observation'\), which this batch lacks"):
        built(name)(still)
    with pytest.raises(ValueError, match="horizon must be at least 2, got 1"):
        built(name, horizon=1)
