"""LAPO's latent actions, on a square that three actions move."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from rlrep.encoders import to_unit_scale
from rlrep.objectives.lapo import LAPO
from tests.rlrep.objectives.toy import gradients, made, train, world

SMALL = dict(latent_action_dim=8, feature_dim=32, hidden_dim=32, frame_channels=1)


def lapo(**options: int) -> LAPO:
    objective = made("lapo", **(SMALL | options))
    assert isinstance(objective, LAPO)
    return objective


def batch(rows: int = 6) -> TensorDict:
    return world(episodes=2).data.sample(rows, lapo().window)


def test_the_loss_is_the_squared_error_of_the_next_frame() -> None:
    objective, given = lapo(), batch()
    now, then = (objective.state_projection(objective.encoder(given[key])) for key in objective.in_keys)
    latent = objective.inverse(torch.cat([now, then], 1))
    drawn = objective.decoder(objective.predictor(torch.cat([now, latent], 1)))
    expected = F.mse_loss(drawn, to_unit_scale(given["future_observation"]))
    torch.testing.assert_close(objective(given)["loss_lapo"], expected)


def test_a_gradient_reaches_the_encoder_through_the_latent_action_too() -> None:
    objective, given = lapo(), batch()
    with torch.no_grad():
        objective.predictor[0].weight[:, :32] = 0  # the forward model sees only the latent action
    objective(given)["loss_lapo"].backward()
    assert all(gradient.any() for gradient in gradients(objective))


def test_learning_puts_what_changed_into_the_latent_action() -> None:
    """With the latent action of a different pair, the same states lead elsewhere."""
    place, objective = world(), lapo()
    train(objective, lambda: place.data.sample(32, objective.window), 150)
    pairs = place.data.sample(200, objective.window)
    now, then = (objective.state_projection(objective.encoder(pairs[key])) for key in objective.in_keys)
    latent = objective.latent_action(now, then)

    def error(actions: Tensor) -> float:
        given = torch.cat([now, actions], 1)
        return objective.decoder.error(objective.predictor(given), pairs["future_observation"]).item()

    assert error(latent) < 0.5 * error(latent.roll(1, 0))


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(KeyError, match="LAPO reads 'future_observation', which this batch lacks"):
        lapo()(batch().select("observation"))
    with pytest.raises(ValueError, match="frame_channels must lie in"):
        lapo(frame_channels=3)
