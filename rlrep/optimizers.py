"""Optimizers as everything here uses them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Adam:
    """Adam, fused into one kernel where there is one, and fit for CUDA graphs; a parameter named twice counts once,
    a frozen one not at all."""
    parameters = [parameter for parameter in dict.fromkeys(parameters) if parameter.requires_grad]
    kinds = {parameter.device.type for parameter in parameters}
    return torch.optim.Adam(parameters, lr=lr, fused=kinds <= {"cpu", "cuda"}, capturable=kinds == {"cuda"})
