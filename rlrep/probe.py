"""What an encoder knows: probes on frozen features, and the geometry of the features themselves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlrep.encoders import PixelDecoder, PixelEncoder, mlp, to_pixels, to_unit_scale


@torch.no_grad()
def encode(encoder: PixelEncoder, observation: Tensor, batch_size: int = 512) -> Tensor:
    """Features (N, repr_dim) float32 of pixels (N, C, H, W) uint8, a batch at a time, without a gradient.

    They lie where the pixels do; a batch is moved to the encoder's device.
    """
    device = next((parameter.device for parameter in encoder.parameters()), observation.device)
    return torch.cat([encoder(pixels.to(device)).to(pixels.device) for pixels in observation.split(batch_size)])


def probe(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    hidden_dim: int | None = None,
    steps: int = 300,
    lr: float = 1e-2,
    weight_decay: float = 1e-2,
    seed: int = 0,
) -> float:
    """How well a target can be read from frozen features: fitted on one part of the data, scored on the other.

    The features are standardised; the probe is linear, or has one hidden layer; full-batch AdamW.

    Args:
        train, test: (features, target): (N, D) float with (N,) int64 classes 0..C-1, or with (N, T) float values.
        hidden_dim: width of the hidden layer; None for a linear probe.
        steps: of AdamW.
        lr, weight_decay: of AdamW.
        seed: of the probe's first weights.

    Returns:
        For classes the share of the test that is told right, in 0..1. For values the mean over targets of R² = 1 -
        error / variance: 1 is perfect, 0 as good as the mean. Targets that stay the same in either part don't count.

    Raises:
        ValueError: if features and targets do not fit each other, or no target varies.
    """
    (features, target), (test_features, test_target) = train, test
    for name, (x, y) in {"train": train, "test": test}.items():
        if x.ndim != 2 or len(x) != len(y) or not len(x):
            shapes = f"{tuple(x.shape)}, {tuple(y.shape)}"
            raise ValueError(f"{name} needs features (N, D) and as many targets, got {shapes}")
    classes = not target.is_floating_point()
    mean, std = features.mean(0), features.std(0) + 1e-6
    features, test_features = (features - mean) / std, (test_features - mean) / std
    out_dim = int(max(target.max(), test_target.max())) + 1 if classes else target.shape[1]
    if not classes:
        varies = (target.amax(0) > target.amin(0)) & (test_target.amax(0) > test_target.amin(0))
        if not varies.any():
            raise ValueError("no target varies in both train and test, so there is nothing to read")
        target, test_target, out_dim = target[:, varies], test_target[:, varies], int(varies.sum())
        center, scale = target.mean(0), target.std(0)
        target = (target - center) / scale
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        readout = mlp(features.shape[1], [hidden_dim] if hidden_dim else [], out_dim).to(features.device)
    optimizer = torch.optim.AdamW(readout.parameters(), lr=lr, weight_decay=weight_decay)
    loss_of = F.cross_entropy if classes else F.mse_loss
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss_of(readout(features), target).backward()
        optimizer.step()
    with torch.no_grad():
        prediction = readout(test_features)
        if classes:
            return float((prediction.argmax(1) == test_target).float().mean())
        error = (prediction * scale + center - test_target).square().mean(0)
        return float((1 - error / test_target.var(0, unbiased=False)).mean())


def alignment(early: Tensor, late: Tensor) -> float:
    """Mean squared distance of positive pairs on the unit sphere (arXiv 2005.10242): 0 is perfect, 2 unrelated.

    Args:
        early, late: (N, D) float; row i of both belongs together.
    """
    return float((F.normalize(early, dim=1) - F.normalize(late, dim=1)).square().sum(1).mean())


def uniformity(features: Tensor) -> float:
    """log E exp(-2 ‖z_i - z_j‖²) over pairs i ≠ j on the unit sphere (arXiv 2005.10242): the lower the more spread out.

    Args:
        features: (N, D) float, N ≥ 2; a few thousand are enough, it takes N² distances.
    """
    return float(torch.pdist(F.normalize(features, dim=1)).square().mul(-2).exp().mean().log())


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the centred features' normalised singular values (Roy and Vetterli, 2007), in 1..D.

    Args:
        features: (N, D) float.
    """
    values = torch.linalg.svdvals(features - features.mean(0))
    share = values / values.sum().clamp_min(1e-12)
    return float(torch.special.entr(share).sum().exp())


def reconstruction(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    channels: int = 16,
    steps: int = 300,
    batch_size: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
) -> tuple[float, Tensor]:
    """What can be drawn from frozen features: a decoder fitted on one part of the data, scored on the other.

    Args:
        train, test: (features, frames): (N, D) float and (N, C, H, W) uint8.
        channels: of the `PixelDecoder`.
        steps, batch_size, lr: of Adam.
        seed: of the decoder's first weights and the batches.

    Returns:
        The mean squared error on the test, on the scale pixels / 255; and its reconstructions, (N, C, H, W) uint8.
    """
    (features, frames), (test_features, test_frames) = train, test
    mean, std = features.mean(0), features.std(0) + 1e-6
    features, test_features = (features - mean) / std, (test_features - mean) / std
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
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
