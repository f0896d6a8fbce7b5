"""AutoTCL: which part of the loss trains which network, and in which direction."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from rlrep import info_nce
from rlrep.objectives.autotcl import AutoTCL
from tests.rlrep.objectives.toy import gradients, made, train, world


def autotcl(**options: float) -> AutoTCL:
    objective = made("autotcl", **(dict(feature_dim=8, mask_channels=4, horizon=2) | options))
    assert isinstance(objective, AutoTCL)
    return objective


def batch(rows: int = 6) -> TensorDict:
    return world(episodes=2).data.sample(rows, autotcl().window)


def sides(objective: AutoTCL, given: TensorDict) -> tuple[Tensor, Tensor]:
    view, _ = objective.masked(given["observation"])
    early, late = (objective.encoder(pixels) for pixels in (view, given["future_observation"]))
    return tuple(F.normalize(objective.state_projection(each), dim=1) for each in (early, late))  # type: ignore[return-value]


def test_a_view_is_the_masked_picture_and_the_residual() -> None:
    objective, pixels = autotcl(residual=0.5), batch()["observation"]
    with torch.no_grad():
        objective.masker[-1].weight.zero_()
        objective.masker[-1].bias.copy_(torch.tensor([0.0, 100.0]))
    view, mask = objective.masked(pixels)
    torch.testing.assert_close(mask, torch.full((6, 1, 20, 20), 0.5))
    expected = (127.5 + 0.5 * (pixels.float() - 127.5) + 127.5).clamp(0, 255)
    torch.testing.assert_close(view, expected)


def test_the_encoder_learns_infonce_of_views_that_are_constants() -> None:
    objective, given = autotcl(), batch()
    loss = objective(given)["loss_autotcl"]
    expected, _ = info_nce(*sides(objective, given), 0.1)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(gradient.any() for gradient in gradients(objective))
    assert all(parameter.grad is None for parameter in objective.masker.parameters())


@pytest.mark.parametrize("pressure", [0, 0.3])
def test_the_mask_learns_agreement_less_uniformity_of_an_encoder_that_is_constant(pressure: float) -> None:
    objective, given = autotcl(pressure=pressure), batch()
    early, late = sides(objective, given)
    logits = early @ late.T / 0.1
    expected = -logits.diagonal().mean() - pressure * logits.logsumexp(1).mean()
    masker = list(objective.masker.parameters())
    wanted = torch.autograd.grad(expected, masker)
    loss = objective(given)["loss_autotcl_mask"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    torch.testing.assert_close([parameter.grad for parameter in masker], list(wanted))
    others = [*objective.encoder.parameters(), *objective.state_projection.parameters()]
    assert all(parameter.grad is None for parameter in others)


def test_it_learns_to_tell_pairs_through_its_masks() -> None:
    place, objective = world(), autotcl()
    before = objective(place.data.sample(64, objective.window))
    out = train(objective, lambda: place.data.sample(64, objective.window), 150)
    assert out["loss_autotcl"] < before["loss_autotcl"] - 0.3


def test_pressure_makes_views_lose_more() -> None:
    """Without it, the mask only serves the agreement."""
    place, kept = world(), []
    for pressure in (0.0, 0.9):
        objective = autotcl(pressure=pressure, residual=0)
        train(objective, lambda: place.data.sample(64, objective.window), 150)  # noqa: B023
        view, _ = objective.masked(place.data.sample(200, objective.window)["observation"])
        kept.append(view.var(0).sum().item())
    assert kept[1] < kept[0]


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(KeyError, match="AutoTCL reads 'future_observation', which this batch lacks"):
        autotcl()(batch().select("observation"))
    with pytest.raises(ValueError, match="pressure must be at least 0"):
        autotcl(pressure=-1)
