"""Encoders of actions and of action sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rlrep.arguments import checked_numbers
from rlrep.encoders import orthogonal_init, projection

HIDDEN_DIM = 64
ROUNDING = 1e-3  # by which an action may lie out of [-1, 1]


def action_spec(action_space: Any) -> tuple[int, bool]:
    """What an action space holds: (number of dimensions or of choices, whether it is discrete).

    `action_space` is a Gymnasium ``Box`` of one axis or ``Discrete``, or anything with their `shape` or `n`.
    """
    shape = getattr(action_space, "shape", None)
    choices = hasattr(action_space, "n") or hasattr(action_space, "nvec")  # MultiBinary has both a shape and n
    if hasattr(action_space, "n") and not shape and not getattr(action_space, "start", 0):
        return int(action_space.n), True
    if shape is None or len(shape) != 1 or shape[0] < 1 or choices:
        raise ValueError(
            f"actions must be a vector (Box with one axis) or one choice of 0..n-1 (Discrete), got {action_space}: "
            "change them with a wrapper first"
        )
    return int(shape[0]), False


def check_range(action: Tensor) -> None:
    """Refuses continuous actions out of [-1, 1] that a network is to read. It looks at them on a CPU alone, outside of
    torch.compile: to look costs a GPU's time, and breaks a compiled update in two.

    Raises:
        ValueError: with the least and the largest.
    """
    if action.device.type != "cpu" or torch.compiler.is_compiling() or not action.numel():
        return
    low, high = action.detach().aminmax()
    if not (low >= -1 - ROUNDING and high <= 1 + ROUNDING):  # nan, too
        raise ValueError(
            f"actions must lie in [-1, 1], the batch holds {low:.4g} to {high:.4g}: scale them by their bounds, as "
            f"gymnasium.wrappers.RescaleAction(env, -1, 1) does for an environment"
        )


class ActionEncoder(nn.Module):
    """Encodes an action as a latent action u, TACO's φ: Linear(A, 64) → Tanh → Linear(64, latent_dim).

    Input: (..., A) float32 in [-1, 1] for continuous actions, (...,) int64 in 0..A-1 for discrete ones (read as one-hot
    vectors, so that the first layer is a table). Output: (..., latent_dim) float32.

    Args:
        action_space: Gymnasium ``Box`` or ``Discrete``.
        latent_dim: size of u; the paper's int(1.25 · A) + 1 if None.
    """

    @checked_numbers
    def __init__(self, action_space: Any, latent_dim: int | None = None) -> None:
        super().__init__()
        self.action_dim, self.discrete = action_spec(action_space)
        self.latent_dim = int(1.25 * self.action_dim) + 1 if latent_dim is None else latent_dim
        first = nn.Embedding(self.action_dim, HIDDEN_DIM) if self.discrete else nn.Linear(self.action_dim, HIDDEN_DIM)
        self.layers = nn.Sequential(first, nn.Tanh(), nn.Linear(HIDDEN_DIM, self.latent_dim))
        self.apply(orthogonal_init)

    def forward(self, action: Tensor) -> Tensor:
        """Latent actions (..., latent_dim) of actions.

        Raises:
            ValueError: for continuous actions out of [-1, 1], on a CPU.
        """
        if not self.discrete:
            check_range(action)
        return self.layers(action if self.discrete else action.float())


class ActionSequenceEncoder(nn.Module):
    """Encodes K latent actions as one vector: concatenate, then Linear(U·K, U·K) → LayerNorm → Tanh.

    Input: (B, K, U) float32. Output: (B, K·U) float32 in (-1, 1).

    Args:
        latent_dim: U.
        horizon: K ≥ 1.
    """

    @checked_numbers
    def __init__(self, latent_dim: int, horizon: int) -> None:
        super().__init__()
        self.out_dim = latent_dim * horizon
        self.layers = projection(self.out_dim, self.out_dim)
        self.apply(orthogonal_init)

    def forward(self, latent_actions: Tensor) -> Tensor:
        """One vector (B, K·U) of K latent actions (B, K, U)."""
        return self.layers(torch.flatten(latent_actions, 1))
