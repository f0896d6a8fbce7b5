"""SwAV's assignments and loss against the paper's formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict

from rlrep.objectives.swav import SwAV, sinkhorn
from tests.rlrep.objectives.toy import gradients, made, train, world


def swav(**options: float) -> SwAV:
    objective = made("swav", **(dict(feature_dim=8, hidden_dim=16, prototypes=4) | options))
    assert isinstance(objective, SwAV)
    return objective


def batch(rows: int = 16) -> TensorDict:
    return world(episodes=4).data.sample(rows, swav().window)


def test_assignments_share_the_prototypes_evenly_and_follow_the_scores() -> None:
    torch.manual_seed(0)
    q = sinkhorn(torch.randn(40, 4))
    torch.testing.assert_close(q.sum(1), torch.ones(40))
    torch.testing.assert_close(q.sum(0), torch.full((4,), 10.0), atol=0.1, rtol=0)
    alike = torch.tensor([[5.0, 0.0], [4.0, 0.0]])  # both rows prefer the first prototype, the first row more so
    q = sinkhorn(alike)
    assert q[0, 0] > 0.5 > q[1, 0]


def test_assignments_are_those_of_the_papers_algorithm() -> None:
    torch.manual_seed(0)
    scores = torch.rand(6, 4) * 2 - 1
    q = (scores / 0.05).double().exp().T
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(1, keepdim=True) * 4
        q /= q.sum(0, keepdim=True) * 6
    torch.testing.assert_close(sinkhorn(scores / 0.05), (q * 6).T.float())


def test_the_loss_is_the_swapped_cross_entropy() -> None:
    objective, given = swav(), batch()
    z = [F.normalize(objective.projection(objective.encoder(given[key])), dim=1) for key in objective.in_keys]
    scores = [each @ objective.prototypes.T for each in z]
    q = [sinkhorn(each / 0.05) for each in scores]
    expected = (F.cross_entropy(scores[0] / 0.1, q[1]) + F.cross_entropy(scores[1] / 0.1, q[0])) / 2
    torch.testing.assert_close(objective(given)["loss_swav"], expected)


def test_a_gradient_reaches_encoder_and_prototypes_but_not_through_assignments() -> None:
    objective, given = swav(), batch()
    objective(given)["loss_swav"].backward()
    assert all(gradient.any() for gradient in gradients(objective))
    assert objective.prototypes.grad is not None and objective.prototypes.grad.any()
    assert not objective.assign(objective.scores(objective.encoder(given["observation"]))).requires_grad


def test_prototypes_have_length_one_after_each_step() -> None:
    objective = swav()
    with torch.no_grad():
        objective.prototypes.mul_(3)
    objective.after_step()
    torch.testing.assert_close(objective.prototypes.norm(dim=1), torch.ones(4))


def test_learning_makes_pairs_agree_and_uses_all_prototypes() -> None:
    place, objective = world(), swav(horizon=1, prototypes=8)
    before = objective(place.data.sample(200, objective.window))["swav_agreement"]
    train(objective, lambda: place.data.sample(64, objective.window), 150)
    given = place.data.sample(200, objective.window)
    after = objective(given)["swav_agreement"]
    used = objective.scores(objective.encoder(given["observation"])).argmax(1).unique()
    assert after > before + 0.2 and len(used) == 8  # no collapse


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(KeyError, match="SwAV reads 'future_observation', which this batch lacks"):
        swav()(batch().select("observation"))
    for name in ("prototypes", "temperature", "epsilon", "feature_dim", "horizon"):
        with pytest.raises(ValueError, match=f"{name} must be"):
            swav(**{name: 0})
