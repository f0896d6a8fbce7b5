"""The state-space forward model: its recurrence, its predictions and its two views."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict

from rlrep import temporal_contrastive
from rlrep.encoders import to_unit_scale
from rlrep.objectives.state_space import DiagonalStateSpace, StateSpace
from tests.rlrep.objectives.toy import gradients, made, train, world

SMALL = dict(horizon=3, state_dim=8, feature_dim=32, hidden_dim=32, frame_channels=1)


def state_space(**options: float) -> StateSpace:
    objective = made("state_space", **(SMALL | options))
    assert isinstance(objective, StateSpace)
    return objective


def batch(rows: int = 6) -> TensorDict:
    return world(episodes=2).data.sample(rows, state_space().window)


def clips(objective: StateSpace, given: TensorDict) -> torch.Tensor:
    first, others = objective.read(given)
    return torch.cat([first[:, None], others], 1)


def test_all_states_at_once_are_those_of_the_recurrence() -> None:
    torch.manual_seed(0)
    states, sequence = DiagonalStateSpace(6, 5), torch.randn(2, 7, 6)
    rate = torch.complex(-states.decay.exp(), states.frequency)
    decay = (rate * states.step.exp()).exp()
    state, expected = torch.zeros(2, 5, dtype=torch.complex64), []
    for t in range(7):
        given = torch.view_as_complex(states.inputs(sequence[:, t]).unflatten(1, (-1, 2)))
        state = decay * state + (decay - 1) / rate * given
        expected.append(state)
    torch.testing.assert_close(states(sequence), torch.stack(expected, 1))
    assert (decay.abs() < 1).all()


def test_the_loss_is_the_squared_error_of_each_next_frame() -> None:
    objective, given = state_space(), batch()
    clip = clips(objective, given)
    inputs = torch.stack([objective.state_projection(objective.encoder(clip[:, t])) for t in range(4)], 1)
    drawn = objective.decoder(objective.outputs(inputs)[:, :3].flatten(0, 1)).unflatten(0, (6, 3))
    expected = F.mse_loss(drawn, to_unit_scale(clip[:, 1:]))
    torch.testing.assert_close(objective(given)["loss_state_space"], expected)


def test_no_prediction_sees_what_it_predicts() -> None:
    objective, sequence = state_space(), torch.randn(1, 4, 32, requires_grad=True)
    for t in range(4):
        (gradient,) = torch.autograd.grad(objective.outputs(sequence)[:, t].sum(), sequence)
        assert gradient[:, : t + 1].any() and not gradient[:, t + 1 :].any()


def test_the_long_view_misses_random_observations_and_the_short_one_all_but_the_last() -> None:
    objective, given = state_space(short=2, hidden_share=0.5), batch()
    torch.manual_seed(3)
    loss = objective(given)["loss_state_space_agreement"]
    torch.manual_seed(3)
    visible = torch.rand(6, 4) >= 0.5
    visible[:, 3] = True
    assert not visible.all()
    clip = clips(objective, given)
    inputs = torch.stack([objective.state_projection(objective.encoder(clip[:, t])) for t in range(4)], 1)
    long, short = objective.outputs(inputs * visible[..., None])[:, -1], objective.outputs(inputs[:, 2:])[:, -1]
    expected, _ = temporal_contrastive(objective.head(long), objective.head(short), 0.1, normalize=True)
    torch.testing.assert_close(loss, expected)


def test_training_predicts_and_uses_the_past() -> None:
    """A square that has moved may move on: the frame before helps, and its gradient reaches the encoder."""
    place, objective = world(), state_space()
    before = objective(place.data.sample(32, objective.window))
    out = train(objective, lambda: place.data.sample(32, objective.window), 200)
    assert out["loss_state_space"] < 0.8 * before["loss_state_space"]
    assert out["loss_state_space_agreement"] < before["loss_state_space_agreement"] - 0.5
    assert all(gradient.any() for gradient in gradients(objective))


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(KeyError, match=r"StateSpace reads \('sequence', 'observation'\), which this batch lacks"):
        state_space()(batch().select("observation"))
    with pytest.raises(ValueError, match="short must be at most horizon=3, got 4"):
        state_space(short=4)


def test_it_trains_under_autocast() -> None:
    objective, given = state_space(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(given)["loss_state_space"]
    loss.backward()
    gradients = [parameter.grad for parameter in objective.states.parameters()]
    assert loss.isfinite() and all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
