"""Multistage contrast: its negatives, its clusters, and the feature that plain contrast does not learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from rlrep import info_nce
from rlrep.objectives.multistage import Multistage, k_means
from tests.rlrep.objectives.toy import gradients, made, picture, readable, train, world


def multistage(**options: float) -> Multistage:
    objective = made("multistage", **(dict(feature_dim=8, clusters=3) | options))
    assert isinstance(objective, Multistage)
    return objective


def batch(rows: int = 16) -> TensorDict:
    return world(episodes=4).data.sample(rows, multistage().window)


def test_negatives_come_from_the_group_alone() -> None:
    torch.manual_seed(0)
    query, key, group = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 2])
    losses, accuracy = info_nce(query, key, 0.5, reduction="none", group=group)
    for i in range(5):
        same = [j for j in range(5) if group[j] == group[i]]
        logits = torch.stack([query[i] @ key[j] / 0.5 for j in same])
        torch.testing.assert_close(losses[i], F.cross_entropy(logits, torch.tensor(same.index(i))))
    assert losses[4] == 0 and 0.2 <= accuracy <= 1  # the only row of its group


def test_each_stage_is_infonce_within_the_clusters_of_those_before() -> None:
    objective, given = multistage(stages=3), batch()
    features = [objective.encoder(given[key]) for key in objective.in_keys]
    group, out = torch.zeros(16, dtype=torch.int64), objective(given)
    for stage, part in enumerate(objective.projections, start=1):
        early, late = (F.normalize(part(each), dim=1) for each in features)
        expected = [info_nce(*pair, 0.1, group=group)[0] for pair in ((early, late), (late, early))]
        torch.testing.assert_close(out[f"loss_stage_{stage}"], (expected[0] + expected[1]) / 2)
        group = 3 * group + k_means(early.detach(), 3)
    assert 3 < len(group.unique()) <= 27


def test_a_gradient_reaches_the_encoder_from_every_stage_and_no_stage_trains_another() -> None:
    objective, given = multistage(), batch()
    objective(given)["loss_stage_2"].backward()
    assert all(gradient.any() for gradient in gradients(objective))
    assert all(parameter.grad is None for parameter in objective.projections[0].parameters())


def test_k_means_finds_clusters_that_are_far_apart() -> None:
    torch.manual_seed(0)
    labels = torch.arange(4).repeat(8)
    found = k_means(10 * torch.eye(4)[labels] + torch.randn(32, 4), 4)
    assert all(len(found[labels == each].unique()) == 1 for each in range(4)) and len(found.unique()) == 4
    assert (k_means(torch.ones(3, 2), 8) == 0).all()  # fewer rows than clusters, and all alike


def test_the_second_stage_learns_what_the_first_leaves_out() -> None:
    """Pairs share two squares. The first stage knows one, so only the other distinguishes the rows of a cluster."""
    rng, places = np.random.default_rng(0), torch.zeros(0)

    def draw(rows: int = 64) -> TensorDict:
        nonlocal places
        drawn = rng.integers(0, 5, (rows, 2))
        places = torch.from_numpy(drawn)
        frames = torch.from_numpy(np.concatenate([picture(*each) for each in drawn]))
        return TensorDict({"observation": frames, "future_observation": frames}, batch_size=[rows])

    class First(torch.nn.Module):
        """Knows the place of the upper square, and nothing else."""

        def forward(self, features: Tensor) -> Tensor:
            return F.one_hot(places[:, 0], 8).float()

    objective = multistage(clusters=5, feature_dim=3)
    objective.projections[0] = First()
    train(objective, draw, 150)
    second = objective.projections[1](objective.encoder(draw(400)["observation"]))
    assert readable(second, places[:, 1]) > 0.9 and readable(second, places[:, 0]) < 0.4


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(KeyError, match="Multistage reads 'future_observation', which this batch lacks"):
        multistage()(batch().select("observation"))
    for name, value in (("stages", 0), ("clusters", 1), ("temperature", 0.0)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            multistage(**{name: value})
