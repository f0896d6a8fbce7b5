"""Momentum copies of modules: the slowly moving targets of SPR, BYOL, DrQ-v2's critic and others."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def momentum_copy(module: M) -> M:
    """A copy without gradients; `ema_` moves it."""
    return deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_(target: nn.Module, online: nn.Module, rate: float) -> None:
    """target ← (1 - rate) target + rate online, for all parameters; buffers are copied.

    Args:
        target: a `momentum_copy` of `online`.
        online: the trained module.
        rate: τ in [0, 1]; a momentum m is a rate of 1 - m.
    """
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), rate)
    for kept, buffer in zip(target.buffers(), online.buffers(), strict=True):
        kept.copy_(buffer)
