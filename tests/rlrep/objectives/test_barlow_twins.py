"""Barlow Twins against the paper's formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from rlrep import PixelEncoder, RandomShift
from rlrep.objectives.barlow_twins import BarlowTwins, cross_correlation

SHAPE = (3, 20, 20)


def made(**options: float) -> BarlowTwins:
    torch.manual_seed(0)
    encoder = PixelEncoder(SHAPE, channels=4, precision="float32")
    return BarlowTwins(encoder, feature_dim=6, hidden_dim=16, augment=RandomShift(0), **options)  # type: ignore[arg-type]


def batch() -> TensorDict:
    pixels = torch.randint(0, 256, (2, 12, *SHAPE), dtype=torch.uint8)
    return TensorDict({"observation": pixels[0], "future_observation": pixels[1]}, batch_size=[12])


def test_the_loss_is_the_papers() -> None:
    barlow, given = made(off_diagonal_weight=0.3), batch()
    z = [barlow.projection(barlow.encoder(given[key])).detach().numpy() for key in given.keys()]  # noqa: SIM118
    correlation = np.corrcoef(*z, rowvar=False)[:6, 6:]
    same = np.eye(6, dtype=bool)
    expected = np.square(1 - correlation[same]).sum() + 0.3 * np.square(correlation[~same]).sum()
    out = barlow(given)
    assert out["loss_barlow"].item() == pytest.approx(expected, rel=1e-3)
    assert out["barlow_correlation"].item() == pytest.approx(correlation[same].mean(), abs=1e-3)


def test_a_gradient_reaches_the_encoder_from_both_sides() -> None:
    barlow, given = made(), batch()
    sides: list[Tensor] = []
    barlow.projection.register_forward_pre_hook(lambda module, seen: sides.append(seen[0]) or seen[0].retain_grad())
    barlow(given)["loss_barlow"].backward()
    assert len(sides) == 2 and all(side.grad is not None and side.grad.any() for side in sides)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in barlow.encoder.parameters())


def test_equal_and_decorrelated_features_are_the_best() -> None:
    def loss(first: Tensor, second: Tensor) -> float:
        correlation = cross_correlation(first, second)
        return float((correlation - torch.eye(2)).square().sum())

    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert loss(square, 3 * square + 1) == pytest.approx(0, abs=1e-3)
    assert loss(square, -square) > 7
    assert loss(square[:, :1].expand(4, 2), square[:, :1].expand(4, 2)) > 1  # redundant


def test_what_it_lacks_is_named() -> None:
    with pytest.raises(KeyError, match="BarlowTwins reads 'future_observation', which this batch lacks"):
        made()(batch().exclude("future_observation"))
    with pytest.raises(ValueError, match="off_diagonal_weight must be at least 0"):
        made(off_diagonal_weight=-1)
