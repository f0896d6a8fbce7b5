"""Autoencoder, temporal contrast, forward model of video and inverse model: what they learn, and from which data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import nn

from rlrep import (
    Autoencoder,
    ForwardModel,
    InverseModel,
    PixelEncoder,
    RandomShift,
    TemporalContrastive,
    make_objective,
)

SHAPE = (6, 20, 20)
VIDEO = ("autoencoder", "forward_model", "temporal_contrastive")


@pytest.fixture
def encoder() -> PixelEncoder:
    torch.manual_seed(0)
    return PixelEncoder(SHAPE, channels=4)


def video(batch_size: int = 6) -> TensorDict:
    generator = torch.Generator().manual_seed(1)
    pixels = lambda: torch.randint(0, 256, (batch_size, *SHAPE), dtype=torch.uint8, generator=generator)  # noqa: E731
    batch = {"observation": pixels(), "future_observation": pixels(), "gap": torch.arange(batch_size) % 3 + 1}
    return TensorDict(batch, batch_size=[batch_size])


@pytest.mark.parametrize("name", VIDEO)
def test_video_alone_is_enough(name: str, encoder: PixelEncoder) -> None:
    objective = make_objective(name, encoder, None)
    out = objective(video())
    assert list(out.keys()) == objective.out_keys
    sum(value for key, value in out.items() if key.startswith("loss_")).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())


def test_the_inverse_model_says_what_it_needs(encoder: PixelEncoder) -> None:
    with pytest.raises(ValueError, match="was given no action space: use data recorded with actions"):
        make_objective("inverse_model", encoder, None)
    model = make_objective("inverse_model", encoder, spaces.Discrete(3))
    with pytest.raises(KeyError, match=r"InverseModel reads 'action'.*not video"):
        model(video())


def test_the_autoencoder_compares_with_the_newest_frame_unshifted(encoder: PixelEncoder) -> None:
    model = Autoencoder(encoder)
    for parameter in model.decoder.parameters():
        nn.init.zeros_(parameter)
    batch = video()
    expected = (batch["observation"][:, 3:].float() / 255 - 0.5).square().mean()
    torch.testing.assert_close(model(batch)["loss_reconstruction"], expected)
    assert (model.reconstruct(batch) == 128).all()  # the middle of 0..255


def test_a_denoising_autoencoder_sees_noise_and_is_asked_for_the_clean_frame(encoder: PixelEncoder) -> None:
    seen: list[torch.Tensor] = []
    encoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model = Autoencoder(encoder, denoise=0.1, augment=RandomShift(0))
    batch = video(64)
    model(batch)
    inside = (batch["observation"] > 100) & (batch["observation"] < 155)  # not near the limits where pixels are clipped
    error = (seen[0] - batch["observation"].float())[inside]
    assert error.std().item() == pytest.approx(25.5, rel=0.05)
    model.reconstruct(batch)
    assert torch.equal(seen[1], batch["observation"])


def test_the_quantised_bottleneck_passes_codes_only(encoder: PixelEncoder) -> None:
    model = Autoencoder(encoder, codes=4, codebooks=2)
    assert model.quantizer is not None
    assert model(video())["loss_commitment"] > 0
    model.eval()
    features, _ = model.bottleneck(torch.randn(50, encoder.repr_dim))
    halves = features.detach().view(50, 2, -1)
    for half in range(2):
        assert 1 < len(torch.unique(halves[:, half].round(decimals=4), dim=0)) <= 4
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.reconstruct(video())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_forward_model_of_video_reads_the_gap(encoder: PixelEncoder) -> None:
    model = ForwardModel(encoder, None, horizon=3, augment=RandomShift(0))
    assert model.in_keys == ["observation", "gap", "future_observation"]
    batch = video()
    images = model.decoder(model.predict(encoder(batch["observation"]), batch["gap"]))  # type: ignore[misc]
    expected = (images - (batch["future_observation"][:, 3:].float() / 255 - 0.5)).square().mean()
    torch.testing.assert_close(model(batch)["loss_forward"], expected)
    other = video()
    other["gap"] = other["gap"] % 3 + 1
    assert model(other)["loss_forward"] != expected
    assert model.reconstruct(batch).dtype == torch.uint8


def test_temporal_contrast_finds_pairs_and_not_what_is_alike(encoder: PixelEncoder) -> None:
    model = TemporalContrastive(encoder, augment=RandomShift(0))
    batch = video(16)
    batch["future_observation"] = batch["observation"]
    assert model(batch)["temporal_accuracy"] == 1
    batch["future_observation"] = batch["observation"].roll(1, 0)
    assert model(batch)["temporal_accuracy"] == 0


@pytest.mark.parametrize("feature_dim", [None, 12])
def test_the_inverse_model_learns_the_action(feature_dim: int | None) -> None:
    """A bar moves to one side or the other: only the two pictures together show the action."""
    generator = torch.Generator().manual_seed(0)

    def bars(count: int) -> TensorDict:
        action = torch.randint(2, (count,), generator=generator)
        place = torch.randint(4, 13, (count,), generator=generator)
        columns = torch.arange(17)
        pictures = [255 * ((columns - at[:, None]).abs() < 2) for at in (place, place + 4 * action - 2)]
        early, late = (picture.to(torch.uint8)[:, None, None].expand(-1, 1, 17, 17) for picture in pictures)
        values: dict[str, Any] = {"observation": early, "future_observation": late, "action": action}
        return TensorDict(values | {"gap": torch.ones(count, dtype=torch.int64)}, batch_size=[count])

    torch.manual_seed(0)
    encoder = PixelEncoder((1, 17, 17), 8, out_dim=16)
    model = InverseModel(encoder, spaces.Discrete(2), 1, 64, feature_dim, augment=RandomShift(0))
    assert model.state_projection(torch.zeros(2, 16)).shape == (2, feature_dim or 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        model(bars(32))["loss_inverse"].backward()
        optimizer.step()
    held_out = bars(256)
    assert model(held_out)["inverse_accuracy"] > 0.9
    held_out["future_observation"] = held_out["observation"]
    assert model(held_out)["inverse_accuracy"] < 0.7


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("autoencoder", {"denoise": -1.0}, "denoise must be at least 0 and at most 1"),
        ("autoencoder", {"codes": 1}, "codes must be at least 2"),
        ("autoencoder", {"codes": 4, "codebooks": 7}, "codebooks must divide the features' 256 dimensions"),
        ("autoencoder", {"frame_channels": 7}, "frame_channels must lie in 1..6"),
        ("autoencoder", {"frame_channels": 4}, "6 channels are no whole number of frames of frame_channels=4"),
        ("temporal_contrastive", {"temperature": 0.0}, "temperature must be greater than 0"),
        ("temporal_contrastive", {"horizon": 0}, "horizon must be at least 1"),
        ("forward_model", {"horizon": 0}, "horizon must be at least 1"),
    ],
)
def test_impossible_options_are_refused(
    name: str, options: dict[str, Any], message: str, encoder: PixelEncoder
) -> None:
    with pytest.raises(ValueError, match=message):
        make_objective(name, encoder, None, **options)
