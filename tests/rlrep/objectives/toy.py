"""A small world to learn from: actions move a square along one row, and noise moves a square along another row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlrep import Objective, Objectives, PixelEncoder, RandomShift, make_objective
from rlrep.data import EpisodeDataset

SHAPE, PLACES, CELL = (1, 20, 20), 5, 4


class World(NamedTuple):
    """Episodes of pictures with the actions between them (0 stays, 1 and 2 move), and the places of both squares."""

    data: EpisodeDataset
    state: Tensor
    noise: Tensor


def world(episodes: int = 16, length: int = 24, seed: int = 0) -> World:
    """Random episodes. Places wrap around; `state` and `noise` are (episodes · length,) int64 in 0..PLACES - 1."""
    rng = np.random.default_rng(seed)
    action = rng.integers(0, 3, (episodes, length))
    state, noise = (rng.integers(0, PLACES, (episodes, length)) for _ in range(2))
    for t in range(1, length):
        state[:, t] = (state[:, t - 1] + np.array([0, 1, -1])[action[:, t - 1]]) % PLACES
        noise[:, t] = (noise[:, t - 1] + rng.integers(0, 2, episodes)) % PLACES
    frames = np.concatenate([picture(*places) for places in zip(state.flat, noise.flat, strict=True)])
    data = EpisodeDataset(frames, [length] * episodes, action=action.reshape(-1))
    return World(data, torch.from_numpy(state.reshape(-1)), torch.from_numpy(noise.reshape(-1)))


def picture(state: int, noise: int) -> np.ndarray:
    """A picture of the two squares, (1, 1, 20, 20) uint8."""
    frame = np.zeros((1, *SHAPE), np.uint8)
    frame[..., 4:8, state * CELL : state * CELL + CELL] = 255
    frame[..., 12:16, noise * CELL : noise * CELL + CELL] = 255
    return frame


def encoder(channels: int = 8, seed: int = 0) -> PixelEncoder:
    torch.manual_seed(seed)
    return PixelEncoder(SHAPE, channels=channels, strides=(2, 2), precision="float32")


def made(name: str, action_space: object = None, **options: object) -> Objective:
    """An objective on a small encoder, without augmentation."""
    return make_objective(name, encoder(), action_space, augment=RandomShift(0), **options)


def train(objective: Objective, draw: Callable[[], object], steps: int, lr: float = 3e-3) -> dict[str, Tensor]:
    """Takes Adam steps on the sum of the losses, as owners do; returns the last losses and metrics."""
    objectives = Objectives([objective])
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr)
    out: dict[str, Tensor] = {}
    for _ in range(steps):
        loss, out = objectives(draw())  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objectives.after_step()
    return out


def readable(features: Tensor, labels: Tensor) -> float:
    """Fits a linear map of the features to the first half of the labels; returns its accuracy on the second half."""
    features = torch.cat([features.detach().double(), torch.ones(len(features), 1)], 1)
    half = len(features) // 2
    targets = torch.nn.functional.one_hot(labels).double()
    gram = features[:half].T @ features[:half] + 1e-3 * torch.eye(features.shape[1], dtype=torch.double)
    weights = torch.linalg.solve(gram, features[:half].T @ targets[:half])
    return float(((features[half:] @ weights).argmax(1) == labels[half:]).double().mean())


def gradients(objective: Objective) -> list[Tensor]:
    """The gradients of the encoder; asserts that all are there, and that momentum copies have none."""
    frozen = [parameter for parameter in objective.parameters() if not parameter.requires_grad]
    assert all(parameter.grad is None for parameter in frozen)
    found = [parameter.grad for parameter in objective.encoder.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in found)
    return [gradient.clone() for gradient in found if gradient is not None]
