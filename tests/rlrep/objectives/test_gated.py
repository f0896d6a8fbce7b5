"""Gated pairs against the formula, and which features the gates learn to select."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict

from rlrep.objectives.gated import Gated, gated_cosine
from tests.rlrep.objectives.test_goal_distances import crossing
from tests.rlrep.objectives.toy import gradients, made, train, world


def gated(**options: float) -> Gated:
    objective = made("gated", **(dict(feature_dim=8, horizon=3) | options))
    assert isinstance(objective, Gated)
    return objective


def batch(rows: int = 12) -> TensorDict:
    return world(episodes=4).data.sample(rows, gated().window)


def test_the_cosine_is_that_of_the_gated_features() -> None:
    torch.manual_seed(0)
    query, key, gate = torch.randn(3, 4), torch.randn(5, 4), torch.rand(3, 4)
    found = gated_cosine(query, key, gate)
    for i in range(3):
        torch.testing.assert_close(found[i], F.cosine_similarity((gate[i] * query[i])[None], gate[i] * key))


def test_the_loss_is_infonce_from_both_sides_in_the_anchors_subspace() -> None:
    objective, given = gated(), batch()
    gate = objective.gates.weight[given["gap"]].sigmoid()
    early, late = (objective.state_projection(objective.encoder(given[key])) for key in objective.in_keys[:2])
    sides = [gated_cosine(*pair, gate) / 0.1 for pair in ((early, late), (late, early))]
    expected = [F.cross_entropy(each, torch.arange(12)) for each in sides]
    torch.testing.assert_close(objective(given)["loss_gated"], (expected[0] + expected[1]) / 2)


def test_a_gradient_reaches_the_encoder_and_the_gates_of_the_batchs_gaps() -> None:
    objective, given = gated(), batch()
    objective(given)["loss_gated"].backward()
    assert all(gradient.any() for gradient in gradients(objective))
    assert objective.gates.weight.grad is not None
    assert objective.gates.weight.grad.any(1).tolist() == [k in given["gap"] for k in range(4)]


def test_gates_drop_the_features_that_do_not_last_as_long() -> None:
    """Half of the features change after two steps: the gate for one step keeps them, the gate for two does not."""
    rng, objective = np.random.default_rng(0), gated(horizon=2)
    lasting, passing = (torch.from_numpy(rng.normal(size=(200, 4))).float() for _ in range(2))
    fresh = torch.from_numpy(rng.normal(size=(200, 4))).float()
    gap = torch.arange(200) % 2 + 1
    early = torch.cat([lasting, passing], 1)
    late = torch.cat([lasting, torch.where(gap[:, None] == 1, passing, fresh)], 1)
    optimizer = torch.optim.Adam([objective.gates.weight], 0.05)
    for _ in range(100):
        optimizer.zero_grad()
        objective.contrast(early, late, objective.gates(gap).sigmoid())[0].backward()
        optimizer.step()
    gate = objective.gates.weight.sigmoid()
    share = gate[:, 4:].sum(1) / gate.sum(1)
    assert share[2] < 0.2 and share[1] > 0.35


def test_learning_recognises_the_pairs() -> None:
    place, objective = crossing(), gated()
    before = objective(place.sample(24, objective.window))["loss_gated"]
    out = train(objective, lambda: place.sample(24, objective.window), 60)
    assert out["loss_gated"] < before - 0.5


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(KeyError, match="Gated reads 'future_observation', which this batch lacks"):
        gated()(batch().select("observation", "gap"))
    for name in ("temperature", "horizon", "feature_dim"):
        with pytest.raises(ValueError, match=f"{name} must be"):
            gated(**{name: 0})
