"""The ceiling of the study: an encoder that is trained on the labels of the state, under the same noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rlrep import PixelEncoder
from rlrep.encoders import orthogonal_init, projection
from rlrep.experiments.video_study.domain import Domain, Settings
from rlrep.optimizers import adam

EACH = 5  # labels of each state in the first request, which shows how many states a domain has


def train_on_labels(
    encoder: PixelEncoder,
    place: Domain,
    noise: dict[str, Any] | None,
    settings: Settings,
    seed: int,
    lengths: Sequence[int],
) -> Iterator[nn.Module]:
    """Trains the encoder by the loss of a linear readout of the state, behind a projection like that of other methods.

    The loss is the cross-entropy of the state's number, or the squared error of its standardised values.

    Args:
        encoder: to be trained.
        place: where the states are.
        noise: the noise on them, a draw for each picture.
        settings: the same number of frames and the same batch size as the other methods have.
        seed: of the noise and the batches; the probes' observations are drawn with other seeds.
        lengths: of training, in updates, in their order.

    Yields:
        The projection, after each of the lengths.
    """
    states = len(place.samples(None, EACH, seed, held_out=False).state) / EACH
    samples = place.samples(noise, -(-settings.frames // round(states)), seed + 60_000, held_out=False)
    classes = not samples.state.is_floating_point()
    target = samples.state if classes else standardised(samples.state)
    head = projection(encoder.repr_dim, encoder.repr_dim).apply(orthogonal_init)
    readout = nn.Linear(encoder.repr_dim, int(target.max()) + 1 if classes else target.shape[1])
    loss_of = F.cross_entropy if classes else F.mse_loss
    optimizer = adam([*encoder.parameters(), *head.parameters(), *readout.parameters()], settings.lr)
    generator = torch.Generator().manual_seed(seed)
    for update in range(1, lengths[-1] + 1):
        rows = torch.randint(len(target), (settings.batch_size,), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        loss_of(readout(head(encoder(samples.observation[rows]))), target[rows]).backward()
        optimizer.step()
        yield from [head] * lengths.count(update)


def standardised(state: torch.Tensor) -> torch.Tensor:
    """(N, T) float32 of mean 0 and standard deviation 1; columns that do not vary are 0."""
    spread = state.std(0, unbiased=False)
    return torch.where(spread > 0, (state - state.mean(0)) / spread.clamp_min(1e-6), 0.0)
