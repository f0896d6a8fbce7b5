"""What an encoder knows: probes on frozen features, and the geometry of the features themselves."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlrep.arguments import checked_numbers
from rlrep.bounds import Count, NonNegative, Several
from rlrep.encoders import PixelDecoder, PixelEncoder, mlp, to_pixels, to_unit_scale

__all__ = [
    "ProbeScore",
    "alignment",
    "effective_rank",
    "encode",
    "probe",
    "probe_folds",
    "reconstruction",
    "tolerance",
    "uniformity",
]

NEGLIGIBLE = 1e-3  # of the typical spread
PENALTIES = tuple(10.0**exponent for exponent in range(-6, 3))  # of ridge regression, per row


@checked_numbers
@torch.no_grad()
def encode(encoder: PixelEncoder, observation: Tensor, batch_size: int = 512) -> Tensor:
    """Features of many pictures, a batch at a time, without a gradient.

    Args:
        encoder: on any device, to which each batch is moved.
        observation: (N, C, H, W) uint8.
        batch_size: pictures at once.

    Returns:
        (N, repr_dim) float32 on the device of `observation`.
    """
    device = next((parameter.device for parameter in encoder.parameters()), observation.device)
    return torch.cat([encoder(pixels.to(device)).to(pixels.device) for pixels in observation.split(batch_size)])


@checked_numbers
def probe(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    hidden_dim: int | None = None,
    steps: int = 300,
    lr: float = 1e-2,
    weight_decay: NonNegative = 1e-2,
    seed: Count = 0,
) -> float:
    """How well a probe predicts a target from frozen features: fitted on one part of the data, scored on the other.

    The features are standardised, see `standardised`. Ridge regression predicts values; its penalty has the least
    leave-one-out error on `train`. Full-batch AdamW trains the probe of classes, and any probe with a hidden layer. A
    single score does not show its noise: see `probe_folds`.

    Args:
        train, test: (features, target): (N, D) float with (N,) int64 classes 0..C-1, or with (N, T) float values.
        hidden_dim: width of the hidden layer; None for a linear probe.
        steps, lr, weight_decay: of AdamW.
        seed: of the initial weights, if AdamW trains them.

    Returns:
        For classes the accuracy on the test, in 0..1. For values the mean over targets of R² = 1 - error / variance: 1
        is perfect, 0 as good as the mean. Targets that (almost) stay the same in either part do not count.

    Raises:
        ValueError: if features and targets do not fit each other or are not finite, or no target varies.
    """
    (features, target), (test_features, test_target) = train, test
    classes = not target.is_floating_point()
    for name, (x, y) in {"train": train, "test": test}.items():
        if not x.is_floating_point() or y.is_floating_point() == classes or (classes and y.dtype != torch.int64):
            raise ValueError(
                f"{name} needs float features, and in both parts float values or int64 classes, got {x.dtype} and "
                f"{y.dtype}: convert them with .float() or .long()"
            )
        if x.ndim != 2 or len(x) != len(y) or not len(x) or y.ndim != (1 if classes else 2):
            shapes = f"{tuple(x.shape)}, {tuple(y.shape)}"
            raise ValueError(
                f"{name} needs features (N, D) and as many targets, (N,) classes or (N, T) values, got {shapes}"
            )
        if not (x.isfinite().all() and y.isfinite().all()):
            raise ValueError(f"features and targets must be finite, and those of {name} are not")
        if x.shape[1:] != features.shape[1:] or y.shape[1:] != target.shape[1:] or not features.shape[1]:
            raise ValueError(
                f"train and test must have the same features and targets, at least one: {tuple(features.shape[1:])} "
                f"and {tuple(target.shape[1:])} in train, {tuple(x.shape[1:])} and {tuple(y.shape[1:])} in {name}"
            )
        if classes and y.amin() < 0:
            raise ValueError(f"classes are numbered from 0 on, {name} has {int(y.amin())}")
    features, test_features = (x.float() for x in standardised(features, test_features))
    if classes:
        known, number = target.unique(return_inverse=True)
        readout = _trained(features, number, len(known), hidden_dim, steps, lr, weight_decay, seed)
        return float((known[readout(test_features).argmax(1)] == test_target).float().mean())
    spread, test_spread = target.std(0, unbiased=False), test_target.std(0, unbiased=False)
    varies = torch.minimum(spread, test_spread) > NEGLIGIBLE * torch.maximum(spread, test_spread)
    if not varies.any():
        raise ValueError("no target varies in both train and test, so there is nothing to read")
    center, scale = target[:, varies].mean(0), spread[varies]
    target, test_target = (((part[:, varies] - center) / scale).float() for part in (target, test_target))
    if hidden_dim is None:
        prediction = _ridge(features, target, test_features)
    else:
        out_dim = target.shape[1]
        prediction = _trained(features, target, out_dim, hidden_dim, steps, lr, weight_decay, seed)(test_features)
    error = (prediction - test_target).square().mean(0)
    return float((1 - error / test_target.var(0, unbiased=False)).mean())


class ProbeScore(NamedTuple):
    """Scores of one probe on several parts of the data.

    Attributes:
        mean: of the scores.
        std: their standard deviation (over folds - 1), the error of a single score.
        scores: one a fold.
    """

    mean: float
    std: float
    scores: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.std:.3f}"


@checked_numbers
def probe_folds(
    features: Tensor, target: Tensor, groups: Tensor | None = None, folds: Several = 5, seed: Count = 0, **options: Any
) -> ProbeScore:
    """`probe` with its noise: the data are split at random into `folds` parts, and each part is the test once.

    Args:
        features, target: as of `probe`, (N, D) and (N,) or (N, T).
        groups: (N,) int64; rows of one group are in one part. Use each frame's episode, because neighbouring frames are
            almost equal. None for independent rows.
        folds: at least 2, at most the number of groups.
        seed: of the parts, and of `probe`.
        options: of `probe`.

    Raises:
        ValueError: as `probe`, and for `groups` of another length or fewer than `folds`.
    """
    number = torch.arange(len(features)) if groups is None else groups.cpu().unique(return_inverse=True)[1]
    if len(number) != len(features) or len(number) != len(target):
        raise ValueError(
            f"features, target and groups must be of one length, got {len(features)}, {len(target)}, {len(number)}"
        )
    count = int(number.max()) + 1 if len(number) else 0
    if not 2 <= folds <= count:
        raise ValueError(f"folds must lie in 2..{count}, the number of groups, got {folds}")
    part = torch.randperm(count, generator=torch.Generator().manual_seed(seed)) % folds
    fold = part[number].to(features.device)
    scores = []
    for i in range(folds):
        held_out = fold == i
        train, test = ((features[rows], target[rows]) for rows in (~held_out, held_out))
        scores.append(probe(train, test, **options | {"seed": seed}))
    return ProbeScore(float(np.mean(scores)), float(np.std(scores, ddof=1)), tuple(scores))


def standardised(features: Tensor, *others: Tensor) -> list[Tensor]:
    """Scales features (N, D) to mean 0 and spread 1, and others by the same numbers.

    A feature that hardly varies in the first part, such as a unit that is almost never active, would be huge in the
    others. So its spread counts as at least a thousandth of the typical spread, and values are clipped to the first
    part's range, extended by its length on either side. A feature that is constant there becomes 0 everywhere.
    """
    spread = features.std(0, unbiased=False)
    varying = spread[spread > 0]
    floor = NEGLIGIBLE * varying.median() if len(varying) else 1.0
    low, high = features.amin(0), features.amax(0)
    room = high - low
    mean, scale = features.mean(0), spread.clamp_min(floor)
    return [torch.where(room > 0, (x.clamp(low - room, high + room) - mean) / scale, 0.0) for x in (features, *others)]


@torch.no_grad()
def _ridge(features: Tensor, target: Tensor, test_features: Tensor) -> Tensor:
    """Predictions (M, T) of ridge regression on standardised features and targets.

    Each target has the penalty of `PENALTIES` with the least leave-one-out error, which has a closed form:
    residual / (1 - leverage).
    """
    x, y = features.double(), target.double()
    wide = x.shape[1] > len(x)
    values, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    values = values.clamp_min(0)
    projected = vectors * values.sqrt() if wide else x @ vectors  # x in the basis of its principal directions
    penalties = torch.tensor(PENALTIES, dtype=x.dtype, device=x.device) * len(x)
    on_target = projected.T @ y
    errors = []
    for penalty in penalties:
        shrunk = 1 / (values + penalty)
        leverage = (projected.square() * shrunk).sum(1, keepdim=True) + 1 / len(x)
        residual = y - projected @ (shrunk[:, None] * on_target)
        errors.append((residual / (1 - leverage).clamp_min(1e-9)).square().mean(0))
    best = penalties[torch.stack(errors).argmin(0)]  # (T,)
    shrunk = 1 / (values[:, None] + best)
    weight = x.T @ (vectors @ (shrunk * (vectors.T @ y))) if wide else vectors @ (shrunk * on_target)
    return (test_features.double() @ weight).to(target.dtype)


def _trained(
    features: Tensor,
    target: Tensor,
    out_dim: int,
    hidden_dim: int | None,
    steps: int,
    lr: float,
    weight_decay: float,
    seed: int,
) -> nn.Module:
    """A trained readout of standardised features, frozen."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs, for all that follows
        readout = mlp(features.shape[1], [hidden_dim] if hidden_dim else [], out_dim).to(features.device)
    optimizer = torch.optim.AdamW(readout.parameters(), lr=lr, weight_decay=weight_decay)
    loss_of = F.mse_loss if target.is_floating_point() else F.cross_entropy
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss_of(readout(features), target).backward()
        optimizer.step()
    return readout.requires_grad_(False)


def alignment(early: Tensor, late: Tensor) -> float:
    """Mean squared distance of positive pairs on the unit sphere (arXiv 2005.10242): 0 is perfect, 2 unrelated.

    Args:
        early, late: (N, D) float; row i of both belongs together.

    Raises:
        ValueError: for parts of different shapes.
    """
    if early.shape != late.shape:
        raise ValueError(f"pairs need two parts of one shape, got {tuple(early.shape)} and {tuple(late.shape)}")
    return float((F.normalize(early, dim=1) - F.normalize(late, dim=1)).square().sum(1).mean())


def uniformity(features: Tensor) -> float:
    """log E exp(-2 ‖z_i - z_j‖²) over pairs i ≠ j on the unit sphere (arXiv 2005.10242): lower is more spread out.

    Args:
        features: (N, D) float, N ≥ 2; a few thousand are enough, as it computes N² distances.

    Raises:
        ValueError: for fewer than two rows.
    """
    if len(features) < 2:
        raise ValueError(f"pairs need at least 2 rows of features, got {len(features)}")
    return float(torch.pdist(F.normalize(features, dim=1)).square().mul(-2).exp().mean().log())


def tolerance(features: Tensor, label: Tensor) -> float:
    """Mean cosine similarity of pairs i ≠ j with the same label (arXiv 2012.09740): 1 if a label has one direction.

    Args:
        features: (N, D) float.
        label: (N,) int64.

    Raises:
        ValueError: if no two rows have the same label.
    """
    directions = F.normalize(features, dim=1)
    count = label.unique(return_counts=True)[1]
    pairs = int((count * (count - 1)).sum())
    if not pairs:
        raise ValueError(f"tolerance compares rows of one label, and all {len(label)} rows have different labels")
    # The square of a label's sum has all its pairs, those of a row with itself included.
    number = label.unique(return_inverse=True)[1]
    sums = torch.zeros(len(count), features.shape[1]).to(directions).index_add(0, number, directions)
    return float((sums.square().sum() - directions.square().sum()) / pairs)


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the centred features' normalised singular values (Roy and Vetterli, 2007), in 1..D.

    Args:
        features: (N, D) float.

    Raises:
        ValueError: for features that are not finite.
    """
    if not features.isfinite().all():
        raise ValueError("features must be finite, and these are not")
    values = torch.linalg.svdvals(features - features.mean(0))
    share = values / values.sum().clamp_min(1e-12)
    return float(torch.special.entr(share).sum().exp())


@checked_numbers
def reconstruction(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    channels: int = 16,
    steps: int = 300,
    batch_size: int = 64,
    lr: float = 1e-3,
    seed: Count = 0,
) -> tuple[float, Tensor]:
    """How well a decoder draws frames from frozen features: fitted on one part of the data, scored on the other.

    Args:
        train, test: (features, frames): (N, D) float and (N, C, H, W) uint8.
        channels: of the `PixelDecoder`.
        steps, batch_size, lr: of Adam.
        seed: of the decoder's initial weights and the batches.

    Returns:
        The mean squared error on the test, on the scale pixels / 255; and its reconstructions, (N, C, H, W) uint8.

    Raises:
        ValueError: for features and frames that do not fit each other, features that are not finite, or frames of
            another type.
    """
    (features, frames), (test_features, test_frames) = train, test
    for name, (x, pixels) in {"train": train, "test": test}.items():
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or len(x) != len(pixels):
            raise ValueError(
                f"{name} needs features (N, D) and as many frames (N, C, H, W) uint8, got {tuple(x.shape)} and "
                f"{tuple(pixels.shape)} {pixels.dtype}"
            )
        if not x.isfinite().all():
            raise ValueError(f"features must be finite, and those of {name} are not")
    features, test_features = (x.float() for x in standardised(features, test_features))
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs, for all that follows
        decoder = PixelDecoder(features.shape[1], frames.shape[1:], channels).to(features.device)
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(decoder.parameters(), lr=lr)
        for _ in range(steps):
            index = torch.randint(len(features), (batch_size,), generator=generator).to(features.device)
            optimizer.zero_grad(set_to_none=True)
            decoder.error(features[index], frames[index]).backward()
            optimizer.step()
    with torch.no_grad():
        images = torch.cat([decoder(part) for part in test_features.split(512)])
    return float(F.mse_loss(images, to_unit_scale(test_frames))), to_pixels(images)
