"""Momentum copies."""

from __future__ import annotations

import torch
from torch import nn

from rlrep.momentum import ema_, momentum_copy


def test_a_copy_moves_towards_the_online_module_and_gets_no_gradient() -> None:
    online = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    copy = momentum_copy(online)
    before = copy[0].weight.clone()
    with torch.no_grad():
        online[0].weight.add_(1)
    online(torch.randn(8, 2))
    ema_(copy, online, 0.25)
    torch.testing.assert_close(copy[0].weight, before + 0.25)
    assert torch.equal(copy[1].running_mean, online[1].running_mean)
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    ema_(copy, online, 1.0)
    assert torch.equal(copy[0].weight, online[0].weight)
