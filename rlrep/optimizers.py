"""The optimizer that the whole project uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def adam(
    parameters: Iterable[nn.Parameter], lr: float, weight_decay: float | None = None, capturable: bool = True
) -> torch.optim.Adam:
    """Adam, or AdamW with a `weight_decay`, fused into one kernel where possible.

    With `capturable` it is usable in CUDA graphs, and torch warns if none is captured. A parameter that is given twice
    counts once, and a frozen parameter is left out.
    """
    parameters = [parameter for parameter in dict.fromkeys(parameters) if parameter.requires_grad]
    kinds = {parameter.device.type for parameter in parameters}
    how: dict[str, Any] = dict(lr=lr, fused=kinds <= {"cpu", "cuda"}, capturable=capturable and kinds == {"cuda"})
    if weight_decay is None:
        return torch.optim.Adam(parameters, **how)
    return torch.optim.AdamW(parameters, weight_decay=weight_decay, **how)
