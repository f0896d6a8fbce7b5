"""LAOM's prediction of features, its momentum copies, and its labels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor

from rlrep.objectives.laom import LAOM, labelled_rows
from tests.rlrep.objectives.toy import gradients, made, readable, train, world

SMALL = dict(horizon=3, latent_action_dim=16, feature_dim=32, hidden_dim=32)
CHOICES = spaces.Discrete(3)


def laom(space: spaces.Space | None = None, **options: float) -> LAOM:
    objective = made("laom", space, **(SMALL | options))
    assert isinstance(objective, LAOM)
    return objective


def batch(objective: LAOM, rows: int = 6) -> TensorDict:
    return world(episodes=2).data.sample(rows, objective.window)


def states(objective: LAOM, given: TensorDict) -> list[Tensor]:
    observation, others, *_ = objective.read(given)
    return [objective.state_projection(objective.encoder(each)) for each in (observation, others[:, 1])]


def test_it_reads_the_next_observation_and_a_later_one() -> None:
    objective = laom()
    given = batch(objective, 30)
    assert given["steps", "1"].eq(1).all() and set(given["steps", "1..3"].tolist()) == {1, 2, 3}
    _, others = objective.read(given)
    assert torch.equal(others[:, 0], given["at", "1"]) and torch.equal(others[:, 1], given["at", "1..3"])


def test_the_loss_is_the_squared_distance_to_the_copys_features_of_the_next_observation() -> None:
    objective = laom()
    given = batch(objective)
    with torch.no_grad():
        for parameter in (*objective.target_encoder.parameters(), *objective.target_projection.parameters()):
            parameter.mul_(0.5)
    now, later = states(objective, given)
    prediction = objective.predictor(torch.cat([now, objective.inverse(torch.cat([now, later], 1))], 1))
    target = objective.target_projection(objective.target_encoder(given["at", "1"]))
    torch.testing.assert_close(objective(given)["loss_laom"], F.mse_loss(prediction, target))


def test_a_gradient_reaches_the_encoder_and_never_the_copies() -> None:
    objective = laom()
    objective(batch(objective))["loss_laom"].backward()
    assert all(gradient.any() for gradient in gradients(objective))


def test_copies_follow_by_the_momentum() -> None:
    objective = laom(momentum=0.75)
    for target, online in (
        (objective.target_encoder, objective.encoder),
        (objective.target_projection, objective.state_projection),
    ):
        before = [parameter.clone() for parameter in target.parameters()]
        with torch.no_grad():
            for parameter in online.parameters():
                parameter.add_(1)
        objective.after_step()
        for old, new in zip(before, target.parameters(), strict=True):
            torch.testing.assert_close(new, old + 0.25)
        objective.restart_copies()


def test_learning_puts_what_changed_into_the_latent_action() -> None:
    """With the latent action of a different pair, the same states lead elsewhere."""
    place, objective = world(), laom(horizon=1)
    train(objective, lambda: place.data.sample(32, objective.window), 200)
    given = place.data.sample(200, objective.window)
    now, later = states(objective, given)
    target = objective.target_projection(objective.target_encoder(given["at", "1"]))
    latent = objective.latent_action(now, later)

    def error(actions: Tensor) -> float:
        return F.mse_loss(objective.predictor(torch.cat([now, actions], 1)), target).item()

    assert error(latent) < 0.5 * error(latent.roll(1, 0))


def test_the_labels_loss_is_that_of_the_labelled_rows_alone() -> None:
    objective = laom(CHOICES, labelled=0.5, label_weight=0.3)
    given = batch(objective, 20)
    has_label = labelled_rows(given["index"], 0.5)
    assert 0 < has_label.sum() < 20 and objective.action_head is not None
    logits = objective.action_head(objective.latent_action(*states(objective, given)))
    expected = 0.3 * F.cross_entropy(logits[has_label], given["action"][has_label])
    torch.testing.assert_close(objective(given)["loss_laom_labels"], expected)
    given["action"] = torch.where(has_label, given["action"], (given["action"] + 1) % 3)  # other actions do not matter
    torch.testing.assert_close(objective(given)["loss_laom_labels"], expected)
    given["index"] = torch.full_like(given["index"], -1)
    assert objective(given)["loss_laom_labels"] == 0


def test_continuous_labels() -> None:
    objective = laom(spaces.Box(-1, 1, (2,)), labelled=1.0, label_weight=0.3)
    given = batch(objective)
    given["action"] = torch.rand(6, 2)
    assert objective.action_head is not None
    predicted = objective.action_head(objective.latent_action(*states(objective, given)))
    torch.testing.assert_close(objective(given)["loss_laom_labels"], 0.3 * F.mse_loss(predicted, given["action"]))


def test_labels_make_latent_actions_tell_the_actions() -> None:
    place = world()
    told = []
    for options in ({}, {"labelled": 0.5, "label_weight": 1.0}):
        objective = laom(CHOICES, horizon=1, **options)
        train(objective, lambda objective=objective: place.data.sample(32, objective.window), 200)  # type: ignore[misc]
        given = place.data.sample(400, objective.window)
        told.append(readable(objective.latent_action(*states(objective, given)), given["action"]))
    assert told[1] > 0.75 and told[1] > told[0] + 0.15


@pytest.mark.parametrize("share", [0.0, 0.025, 0.5, 1.0])
def test_the_labelled_share_holds_for_any_stretch_of_rows(share: float) -> None:
    for first in (0, 12345, 10**8):
        assert labelled_rows(torch.arange(first, first + 400), share).sum() == pytest.approx(400 * share, abs=3)
    assert not labelled_rows(torch.tensor([-1]), share).any()
    more = labelled_rows(torch.arange(400), min(1.0, share + 0.2))
    assert (more | ~labelled_rows(torch.arange(400), share)).all()  # a larger share keeps the smaller one's labels


def test_what_it_lacks_is_named() -> None:
    objective = laom()
    with pytest.raises(KeyError, match=r"LAOM reads \('sequence', 'observation'\), which this batch lacks"):
        objective(batch(objective).select("observation"))
    with pytest.raises(ValueError, match="labelled actions need data recorded with actions"):
        laom(labelled=0.1)
    with pytest.raises(ValueError, match="labelled must be at least 0 and at most 1"):
        laom(CHOICES, labelled=1.5)
    with pytest.raises(ValueError, match="momentum must be at least 0 and less than 1"):
        laom(momentum=1.0)
