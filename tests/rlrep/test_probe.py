from __future__ import annotations

import math

import pytest
import torch

from rlrep import PixelEncoder
from rlrep.probe import alignment, effective_rank, encode, probe, reconstruction, uniformity


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes in a plane; the first lies on both sides of the second, so that no line tells them apart."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(3, (count,), generator=generator)
    side = torch.randint(2, (count,), generator=generator) * 2 - 1
    x = torch.stack([(label == 0) * side * 2.0, (label == 2) * 4.0], 1)
    return x + 0.2 * torch.randn(count, 2, generator=generator), label


def test_a_linear_probe_reads_what_is_linear_and_an_mlp_what_is_not() -> None:
    linear = probe(blobs(300, 0), blobs(300, 1))
    bent = probe(blobs(300, 0), blobs(300, 1), hidden_dim=32)
    assert linear < 0.85 and bent > 0.97


def test_values_are_scored_by_r_squared() -> None:
    torch.manual_seed(0)
    x = torch.randn(600, 5)
    y = torch.stack([3 * x[:, 0] - x[:, 1] + 100, torch.randn(600)], 1)
    known = probe((x[:400], y[:400, :1]), (x[400:], y[400:, :1]))
    unknown = probe((x[:400], y[:400, 1:]), (x[400:], y[400:, 1:]))
    assert known > 0.99 and -0.2 < unknown < 0.05
    both = probe((x[:400], y[:400]), (x[400:], y[400:]))
    assert both == pytest.approx((known + unknown) / 2, abs=0.01)


def test_targets_that_never_change_do_not_count() -> None:
    torch.manual_seed(0)
    x = torch.randn(600, 5)
    y = torch.stack([x[:, 0], torch.ones(600), torch.arange(600) // 400], 1)
    assert probe((x[:400], y[:400]), (x[400:], y[400:])) > 0.99
    with pytest.raises(ValueError, match="no target varies"):
        probe((x[:400], y[:400, 1:]), (x[400:], y[400:, 1:]))


def test_the_score_is_of_held_out_data() -> None:
    torch.manual_seed(0)
    features, noise_label = torch.randn(40, 200), torch.randint(4, (40,))
    assert probe((features, noise_label), (features, noise_label)) == 1
    assert probe((features, noise_label), (torch.randn(400, 200), torch.randint(4, (400,)))) < 0.4


def test_features_and_targets_must_fit() -> None:
    with pytest.raises(ValueError, match="test needs features"):
        probe((torch.zeros(4, 2), torch.zeros(4).long()), (torch.zeros(4, 2), torch.zeros(3).long()))


def test_a_probe_leaves_the_random_stream_and_the_features_alone() -> None:
    train, test = blobs(30, 0), blobs(30, 1)
    before, copy = torch.get_rng_state(), train[0].clone()
    assert probe(train, test, steps=3) == probe(train, test, steps=3)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(train[0], copy)


def test_alignment_and_uniformity_of_known_points() -> None:
    axes = torch.eye(4)
    assert alignment(axes, 3 * axes) == pytest.approx(0, abs=1e-6)
    assert alignment(axes, axes.roll(1, 0)) == pytest.approx(2)
    assert uniformity(axes) == pytest.approx(-4)
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-5)


def test_effective_rank_counts_directions() -> None:
    torch.manual_seed(0)
    assert effective_rank(torch.randn(2000, 1) * torch.ones(1, 8)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.randn(2000, 8)) == pytest.approx(8, rel=0.01)
    values = torch.cat([torch.eye(2), -torch.eye(2)]) * torch.tensor([3.0, 1.0])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(values) == pytest.approx(math.exp(entropy), rel=1e-4)


def test_encoding_in_parts_changes_nothing() -> None:
    torch.manual_seed(0)
    encoder = PixelEncoder((3, 20, 20), 4)
    pixels = torch.randint(0, 256, (7, 3, 20, 20), dtype=torch.uint8)
    torch.testing.assert_close(encode(encoder, pixels, 3), encoder(pixels).detach())


def test_reconstructions_show_what_the_features_hold() -> None:
    torch.manual_seed(0)
    level = torch.rand(200)
    frames = (level[:, None, None, None] * 255).expand(200, 1, 16, 16).to(torch.uint8)
    known, images = reconstruction(
        (level[:150, None], frames[:150]), (level[150:, None], frames[150:]), 4, 150, 32, 3e-3
    )
    unknown, _ = reconstruction((torch.rand(150, 1), frames[:150]), (torch.rand(50, 1), frames[150:]), 4, 150, 32, 3e-3)
    assert images.dtype == torch.uint8 and images.shape == (50, 1, 16, 16)
    assert known < 0.02 < 0.05 < unknown
