from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from rlrep import PixelDecoder, PixelEncoder
from rlrep.encoders import STRIDES, FeatureLinear, flat, mlp, projection, supports_bfloat16

SHAPE = (9, 20, 24)


def pixels(batch_size: int = 3, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch_size, *shape), generator=generator).to(torch.uint8)


def reference(encoder: PixelEncoder, observation: Tensor) -> Tensor:
    """The encoder as the paper describes it: normalise, then convolve."""
    x = observation.float() / 255 - 0.5
    for convolution, stride in zip(encoder.convolutions, STRIDES, strict=True):
        x = F.relu(F.conv2d(x, convolution.weight, convolution.bias, stride))
    return x.flatten(1)


def encoder_with_biases(precision: str = "float32") -> PixelEncoder:
    torch.manual_seed(1)
    encoder = PixelEncoder(SHAPE, channels=6, precision=precision)
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return encoder


def test_size_of_the_paper() -> None:
    encoder = PixelEncoder((9, 84, 84), channels=32)
    assert encoder.repr_dim == 39200
    with torch.no_grad():
        assert encoder(pixels(1, (9, 84, 84))).shape == (1, 39200)


@pytest.mark.parametrize("shape", [(3, 17, 17), (1, 18, 31), (9, 20, 20)])
def test_repr_dim_is_the_size_of_the_output(shape: tuple[int, int, int]) -> None:
    encoder = PixelEncoder(shape, channels=2)
    assert encoder(pixels(2, shape)).shape == (2, encoder.repr_dim)


def test_float32_equals_the_paper() -> None:
    encoder, observation = encoder_with_biases(), pixels()
    torch.testing.assert_close(encoder(observation), reference(encoder, observation), rtol=1e-4, atol=1e-5)


def test_gradients_equal_the_paper() -> None:
    encoder, observation = encoder_with_biases(), pixels()
    weights = torch.linspace(-1, 1, encoder.repr_dim)
    parameters = list(encoder.parameters())
    ours = torch.autograd.grad((encoder(observation) * weights).sum(), parameters)
    theirs = torch.autograd.grad((reference(encoder, observation) * weights).sum(), parameters)
    assert all(gradient.abs().sum() > 0 for gradient in ours)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fused_convolutions_have_the_gradients_of_the_paper_and_theirs(layout: torch.memory_format) -> None:
    encoder, observation = encoder_with_biases(), pixels().contiguous(memory_format=layout)
    parameters = list(encoder.parameters())
    results = []
    for features in (encoder(observation), reference(encoder, observation)):
        first = torch.autograd.grad(features.square().mean(), parameters, create_graph=True)
        second = torch.autograd.grad(sum(grad.square().sum() for grad in first), parameters)  # for a gradient penalty
        results.append([features, *first, *second])
    for ours, plain in zip(*results, strict=True):
        assert ours.count_nonzero()
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "trained", [["convolutions.0.bias"], ["convolutions.0.weight"], ["convolutions.1.weight", "convolutions.3.bias"]]
)
def test_a_gradient_reaches_exactly_the_parameters_that_are_trained(trained: list[str]) -> None:
    both = encoder_with_biases(), encoder_with_biases()
    both[0].requires_grad_(False)
    for name in trained:
        both[0].get_parameter(name).requires_grad_()
    for encoder in both:
        encoder(pixels()).square().mean().backward()
    for name, parameter in both[0].named_parameters():
        assert (parameter.grad is not None) == (name in trained)
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, both[1].get_parameter(name).grad, rtol=1e-4, atol=1e-6)


def test_a_gradient_reaches_pixels_that_want_one() -> None:
    encoder, image = encoder_with_biases(), pixels().float()
    ours, plain = (
        torch.autograd.grad(features(image.requires_grad_()).square().sum(), image)[0]
        for features in (encoder, lambda image: reference(encoder, image))
    )
    assert ours.count_nonzero()
    torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["convolutions.0.weight", "convolutions.3.bias"])
def test_weights_that_are_not_finite_show_in_the_features(name: str) -> None:
    encoder = encoder_with_biases()
    encoder.get_parameter(name).data.view(-1)[0] = torch.nan
    assert encoder(pixels()).isnan().any()


def test_function_transforms_see_the_same_encoder() -> None:
    encoders, observation = [PixelEncoder(SHAPE, channels=4) for _ in range(2)], pixels()
    stacked, _ = stack_module_state(encoders)

    def features(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(encoders[0], parameters, (observation,))

    torch.testing.assert_close(vmap(features)(stacked), torch.stack([encoder(observation) for encoder in encoders]))
    parameters = dict(encoders[0].named_parameters())
    gradients = grad(lambda parameters: features(parameters).square().sum())(parameters)
    plain = torch.autograd.grad(encoders[0](observation).square().sum(), list(parameters.values()))
    torch.testing.assert_close(list(gradients.values()), list(plain), rtol=1e-4, atol=1e-4)


def test_bfloat16_is_near_and_leaves_float32_outside() -> None:
    encoder, observation = encoder_with_biases("bfloat16"), pixels()
    out = encoder(observation)
    assert out.dtype == torch.float32
    expected = reference(encoder, observation)
    assert not torch.equal(out, expected)
    assert (out - expected).norm() < 0.03 * expected.norm()
    out.sum().backward()
    for parameter in encoder.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32 and parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_layout_of_the_input_does_not_matter(layout: torch.memory_format) -> None:
    encoder = encoder_with_biases()
    expected = reference(encoder, pixels())
    torch.testing.assert_close(encoder(pixels().contiguous(memory_format=layout)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 9, 24, 20), (3, 6, 20, 24), (2, 3, 9, 24, 20), (9, 20)])
def test_observations_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, 9, 20, 24\), got"):
        PixelEncoder(SHAPE, channels=2)(torch.zeros(shape, dtype=torch.uint8))


def test_single_observations_and_sequences_are_encoded_as_in_a_batch() -> None:
    encoder = encoder_with_biases()
    batch = torch.cat([pixels(), pixels()])
    features = encoder(batch)
    torch.testing.assert_close(encoder(batch[0]), features[0], rtol=1e-4, atol=1e-5)
    sequences = encoder(batch.view(2, -1, *SHAPE))
    torch.testing.assert_close(sequences, features.view(2, -1, encoder.repr_dim), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 84), (9, 16, 84), (9, 84, 16), (0, 84, 84), (9, 84, 84, 3)])
def test_impossible_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 17 pixels"):
        PixelEncoder(shape)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="channels must be at least 1"):
        PixelEncoder(SHAPE, channels=0)
    with pytest.raises(ValueError, match="float32, bfloat16, got 'float16'"):
        PixelEncoder(SHAPE, precision="float16")


def test_orthogonal_start() -> None:
    encoder = PixelEncoder(SHAPE, channels=6)
    for convolution in encoder.convolutions:
        rows = convolution.weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(6), rtol=0, atol=1e-5)
        assert not convolution.bias.any()


def test_share_and_load_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder = encoder_with_biases("bfloat16")
    encoder.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    loaded = PixelEncoder.from_pretrained(tmp_path)
    assert (loaded.observation_shape, loaded.channels, loaded.precision) == (SHAPE, 6, "bfloat16")
    assert torch.equal(loaded(pixels()), encoder(pixels()))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_trunk_reads_a_feature_map_as_it_reads_the_features(precision: str) -> None:
    encoder, trunk = encoder_with_biases(precision), projection(PixelEncoder(SHAPE, channels=6).repr_dim, 5)
    parameters = [*encoder.parameters(), *trunk.parameters()]
    feature_map = encoder(pixels(), as_map=True)
    assert feature_map.shape == (3, 6, *encoder.feature_size)
    assert feature_map.is_contiguous(memory_format=torch.channels_last)
    assert str(feature_map.dtype) == f"torch.{precision}"
    assert torch.equal(flat(feature_map), encoder(pixels()))
    results = []
    for features in (feature_map, encoder(pixels())):
        out = trunk(features)
        assert out.dtype == torch.float32
        gradients = torch.autograd.grad(out.square().mean(), parameters)
        assert all(gradient.dtype == torch.float32 and gradient.count_nonzero() for gradient in gradients)
        results.append([out, *gradients])
    tolerance = 1e-5 if precision == "float32" else 0.03
    for ours, plain in zip(*results, strict=True):
        assert (ours - plain).norm() <= tolerance * plain.norm()


def test_a_feature_layer_reads_what_any_linear_layer_reads() -> None:
    layer = FeatureLinear(6, 2)
    plain = torch.nn.Linear(6, 2)
    plain.load_state_dict(layer.state_dict())
    for shape in [(6,), (3, 6), (2, 3, 6), (2, 3, 4, 6)]:
        features = torch.randn(shape)
        assert torch.equal(layer(features), plain(features))
    with pytest.raises(RuntimeError):
        layer(torch.randn(3, 5))


def test_an_encoder_with_a_head_returns_its_output_where_a_map_would_do() -> None:
    encoder = PixelEncoder(SHAPE, channels=4, precision="bfloat16", out_dim=7)
    features = encoder(pixels(), as_map=True)
    assert features.shape == (3, 7) and features.dtype == torch.float32
    assert torch.equal(features, encoder(pixels()))


def test_decoder_gives_images_of_the_shape_asked_for() -> None:
    assert PixelDecoder(5, (3, 20, 24), channels=2)(torch.zeros(2, 5)).shape == (2, 3, 20, 24)
    with pytest.raises(ValueError, match="divisible by 4, got 18×20"):
        PixelDecoder(5, (3, 18, 20))


def test_mlp_has_a_relu_after_each_hidden_layer_only() -> None:
    layers = [type(layer).__name__ for layer in mlp(2, [3, 4], 1)]
    assert layers == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]


def test_support_for_bfloat16_is_known_for_every_device() -> None:
    assert not supports_bfloat16("meta")


def test_a_decoders_error_is_that_of_its_image() -> None:
    decoder, features = PixelDecoder(8, (3, 24, 16), channels=4), torch.randn(5, 8)
    frame = torch.randint(256, (5, 9, 24, 16), dtype=torch.uint8)[:, -3:]
    with torch.no_grad():
        image = decoder(features)
        expected = (image - (frame / 255 - 0.5)).square().mean()
        torch.testing.assert_close(decoder.error(features, frame), expected)
        grey = torch.randint(256, (5, 24, 16, 1), dtype=torch.uint8).permute(0, 3, 1, 2)  # strides as of a picture file
        decoder = PixelDecoder(8, (1, 24, 16), channels=4)
        expected = (decoder(features) - (grey / 255 - 0.5)).square().mean()
        torch.testing.assert_close(decoder.error(features, grey), expected)


def test_an_array_is_no_tensor() -> None:
    with pytest.raises(TypeError, match=r"torch\.as_tensor"):
        PixelEncoder((3, 20, 20), channels=4)(np.zeros((1, 3, 20, 20), np.uint8))


@pytest.mark.parametrize("low", [0, -1])
def test_floats_that_were_scaled_already_are_refused(low: int) -> None:
    encoder = encoder_with_biases()
    scaled = torch.empty(pixels().shape).uniform_(low, 1, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"reads 0\.\.255, got floats of .*: leave them uint8, or multiply by 255"):
        encoder(scaled)
    encoder(torch.zeros_like(scaled))  # a black picture is valid at both scales
