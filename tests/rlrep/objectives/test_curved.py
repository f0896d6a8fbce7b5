"""Curved contrast against its formula, and the direction of its similarity."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from rlrep.objectives.curved import Curved
from tests.rlrep.objectives.test_goal_distances import crossing
from tests.rlrep.objectives.toy import gradients, made, train


def curved(**options: float) -> Curved:
    objective = made("curved", **(dict(feature_dim=16, hidden_dim=32, horizon=8) | options))
    assert isinstance(objective, Curved)
    return objective


def batch(rows: int = 5) -> TensorDict:
    return crossing().sample(rows, curved().window)


def similarities(objective: Curved, given: TensorDict) -> Tensor:
    """The similarities c[a, b, i, j] from row i of set a to row j of set b, (2, 2, B, B): set 0 holds the observations,
    set 1 the future ones.
    """
    both = [objective.state_projection(objective.encoder(given[key])) for key in ("observation", "future_observation")]
    leaving, arriving = (
        torch.stack([F.normalize(head(each), dim=1) for each in both])
        for head in (objective.leaving, objective.arriving)
    )
    return torch.einsum("aid,bjd->abij", leaving, arriving)


@pytest.mark.parametrize("past", [1.0, 0.0, 0.5])
def test_the_loss_is_the_formulas(past: float) -> None:
    objective, given = curved(past=past), batch()
    c = similarities(objective, given)
    ahead = sum((c[0, 1, i, i] - (1 - given["gap"][i] / 8)) ** 2 for i in range(5)) / 5
    behind = sum(c[1, 0, i, i] ** 2 for i in range(5)) / 5
    elsewhere = sum(c[0, 1, i, j] ** 2 for i in range(5) for j in range(5) if i != j) / 20
    torch.testing.assert_close(objective(given)["loss_curved"], ahead + past * behind + elsewhere)


def test_a_gradient_reaches_the_encoder() -> None:
    objective = curved()
    objective(batch())["loss_curved"].backward()
    assert all(gradient.any() for gradient in gradients(objective))


def test_learning_makes_similarities_fall_with_the_steps_ahead_and_vanish_behind() -> None:
    place, objective = crossing(), curved()
    train(objective, lambda: place.sample(32, objective.window), 200)
    given = place.sample(400, objective.window)
    c, gap = similarities(objective, given).detach(), given["gap"]
    ahead = torch.stack([c[0, 1].diagonal()[gap == k].mean() for k in range(1, 9)])
    behind = torch.stack([c[1, 0].diagonal()[gap == k].mean() for k in range(1, 9)])
    torch.testing.assert_close(ahead[1:], 1 - torch.arange(2, 9) / 8, atol=0.25, rtol=0)
    assert (ahead[:4] > behind[:4] + 0.2).all()


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(KeyError, match="Curved reads 'gap', which this batch lacks"):
        curved()(crossing().sample(5).select("observation", "future_observation"))
    with pytest.raises(ValueError, match="horizon must be at least 1"):
        curved(horizon=0)
