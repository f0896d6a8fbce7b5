"""Encoders of pixels to features, and a decoder back."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from torch import Tensor, nn

from rlrep.arguments import as_path, checked_numbers
from rlrep.encoder_files import CARD, CONFIG, WEIGHTS, place_of, read_encoder, write_encoder

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STRIDES = (2, 1, 1, 1)
MAX_PARAMETERS = 2**30
HUB = "hf://"
ACTIVATIONS: dict[str, Callable[..., Tensor]] = {"relu": F.relu, "elu": F.elu}


def orthogonal_init(module: nn.Module) -> None:
    """Initialise in place, for ``Module.apply``: orthogonal weights (gain of ReLU for convolutions), zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.orthogonal_(module.weight)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.orthogonal_(module.weight, nn.init.calculate_gain("relu"))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def xavier_init(module: nn.Module) -> None:
    """Initialise in place, for ``Module.apply``: Xavier-uniform weights of gain √2, zero biases, as MR.Q does."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight, nn.init.calculate_gain("relu"))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def flat(features: Tensor) -> Tensor:
    """Flattens a map (B, C, h, w) of `PixelEncoder.encode_view` to (B, D) float32; leaves features unchanged."""
    return features.flatten(1).float() if features.ndim == 4 else features


class FeatureLinear(nn.Linear):
    """A linear layer that also reads the convolutions' feature maps directly.

    Input: features (…, in_features); or a map (B, C, h, w) with C·h·w = in_features, channels-last, of any precision.
    The layer does not reorder or cast a map of 39,200 features; it does so with the weight, which has fewer rows. The
    product has the map's precision. Output: (…, out_features) in the weight's type. The parameters are ``nn.Linear``'s.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 4 or input.shape[-1] == self.in_features:
            return super().forward(input)
        weight = self.weight.to(input.dtype).unflatten(1, input.shape[1:])
        product = F.linear(_in_memory_order(input), _in_memory_order(weight)).to(self.weight.dtype)
        return product if self.bias is None else product + self.bias


def _in_memory_order(maps: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h·w·C), without a copy if it is channels-last."""
    return maps.permute(0, 2, 3, 1).flatten(1)


@checked_numbers
def projection(in_dim: int, out_dim: int) -> nn.Sequential:
    """Linear → LayerNorm → Tanh, (B, in_dim) to (B, out_dim): the trunk of DrQ-v2 and the state projection of TACO.

    It also reads feature maps, see `FeatureLinear`.
    """
    return nn.Sequential(FeatureLinear(in_dim, out_dim), nn.LayerNorm(out_dim), nn.Tanh())


@checked_numbers
def mlp(in_dim: int, hidden_dims: Sequence[int], out_dim: int) -> nn.Sequential:
    """Linear layers with a ReLU after each hidden one, (B, in_dim) to (B, out_dim)."""
    layers: list[nn.Module] = []
    for hidden_dim in hidden_dims:
        if hidden_dim < 1:
            raise ValueError(f"hidden_dim must be at least 1, got {hidden_dim}")
        layers += [nn.Linear(in_dim, hidden_dim), nn.ReLU(inplace=True)]
        in_dim = hidden_dim
    return nn.Sequential(*layers, nn.Linear(in_dim, out_dim))


def supports_bfloat16(device: torch.device | str) -> bool:
    """Whether convolutions in bfloat16 are faster than float32 on `device` (AMX, AVX512-BF16, or CUDA 8.0 and on)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.device(device).type != "cpu":
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class _Layers(NamedTuple):
    """The convolutions of an encoder: the stride of each, and the precision, memory layout and activation of all."""

    strides: tuple[int, ...]
    dtype: torch.dtype
    layout: torch.memory_format
    activation: str


def convolve(
    pixels: Tensor, parameters: Sequence[Tensor], layers: _Layers, fused: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Every convolution with its activation, in the precision and layout of `layers`.

    Args:
        pixels: (B, C, H, W) in 0..255, of any type.
        parameters: weight and bias of each convolution in turn, float32.
        layers: their strides, precision, layout and activation.
        fused: let oneDNN compute the ReLU inside the convolution. In a large batch, a separate ReLU takes longer than
            the convolution. Only for finite pixels (oneDNN's ReLU of nan is 0) that need no gradient.

    Returns:
        The input of each convolution, followed by the last output; and the convolutions' weights.
    """
    # Two steps: a cast that also moves the channels takes twice as long on the CPU.
    maps = [pixels.to(layers.dtype).contiguous(memory_format=layers.layout)]
    weights = []
    for i, stride in enumerate(layers.strides):
        weight, bias = parameters[2 * i : 2 * i + 2]
        if i == 0:
            # x / 255 - 0.5 goes into the weights: it costs nothing there, and bfloat16 holds 0..255 exactly.
            weight, bias = weight / 255, bias - 0.5 * weight.sum((1, 2, 3))
        weight, bias = weight.to(layers.dtype, memory_format=layers.layout), bias.to(layers.dtype)
        if fused and layers.activation == "relu":
            out = torch.ops.mkldnn._convolution_pointwise(
                maps[-1], weight, bias, [0, 0], [stride, stride], [1, 1], 1, "relu", [], ""
            )
        else:
            out = ACTIVATIONS[layers.activation](F.conv2d(maps[-1], weight, bias, stride), inplace=True)
        maps.append(out)
        weights.append(weight)
    return maps, weights


class _FusedConvolutions(torch.autograd.Function):
    """The last map of `convolve` with `fused`, for pixels that need no gradient.

    This is one node of the graph: the casts of weights and gradients, as separate nodes, take as long as a convolution
    of a small image.
    """

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, layers: _Layers, *parameters: Tensor) -> Tensor:
        maps, weights = convolve(pixels, parameters, layers, fused=True)
        ctx.save_for_backward(pixels, *parameters, *weights, *maps)
        ctx.layers = layers
        return maps[-1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layers: _Layers = ctx.layers
        wanted = ctx.needs_input_grad[2:]
        pixels, *saved = ctx.saved_tensors
        count = len(layers.strides)
        parameters, weights, maps = saved[: 2 * count], saved[2 * count : 3 * count], saved[3 * count :]
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted
            return None, None, *_plain_gradients(pixels, parameters, layers, grad, wanted)
        gradients: list[Tensor | None] = [None] * len(wanted)
        for i in reversed(range(wanted.index(True) // 2, count)):
            # The gradient of a flattened map has another memory order than the map, and two orders in one loop are
            # slow.
            grad = grad.contiguous(memory_format=layers.layout)
            if layers.activation == "relu":
                grad = torch.ops.aten.threshold_backward(grad, maps[i + 1], 0)
            else:
                grad = torch.ops.aten.elu_backward(grad, 1, 1, 1, True, maps[i + 1])
            stride, sizes = [layers.strides[i]] * 2, [len(weights[i])]
            earlier = any(wanted[: 2 * i])
            grad, of_weight, of_bias = torch.ops.aten.convolution_backward(
                grad, maps[i], weights[i], sizes, stride, [0, 0], [1, 1], False, [0, 0], 1, [earlier, True, True]
            )
            of_weight = of_weight.to(parameters[2 * i].dtype, memory_format=torch.contiguous_format)
            of_bias = of_bias.to(parameters[2 * i].dtype)
            if i == 0:  # the gradient of what `convolve` does to these two
                of_weight = of_weight / 255 - 0.5 * of_bias[:, None, None, None]
            gradients[2 * i : 2 * i + 2] = of_weight, of_bias
        return None, None, *gradients


def _plain_gradients(
    pixels: Tensor, parameters: Sequence[Tensor], layers: _Layers, grad: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The wanted gradients of `parameters`, with a graph for second gradients."""
    maps, _ = convolve(pixels, parameters, layers, fused=False)
    chosen = [parameter for parameter, needed in zip(parameters, wanted, strict=True) if needed]
    found = iter(torch.autograd.grad(maps[-1], chosen, grad, create_graph=True))
    return [next(found) if needed else None for needed in wanted]


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has a fast convolution with the ReLU inside."""
    return (
        device.type == "cpu"
        and not torch.compiler.is_compiling()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and (dtype == torch.float32 or supports_bfloat16(device))
    )


class PixelEncoder(nn.Module, PyTorchModelHubMixin):
    """The convolutional encoder of DrQ-v2 (arXiv 2107.09645): `x / 255 - 0.5`, then four 3×3 convolutions with ReLU.

    Input: (…, C, H, W) uint8 in 0..255. Output: (…, repr_dim) float32; `repr_dim` is 39 200 for (9, 84, 84), 32
    channels and the default strides. Share a trained encoder by ``encoder.save_pretrained(folder)`` (safetensors
    and a JSON configuration, both with checksums) and `from_pretrained`.

    Args:
        observation_shape: (C, H, W) of the stacked frames; with the default strides H and W are at least 17.
        channels: filters of every convolution.
        precision: "float32", or "bfloat16" for the convolutions alone: parameters and output stay float32.
        strides: one per convolution. (2, 2, 2, 2) is cheaper and gives features of few dimensions.
        out_dim: size of the features: Linear → LayerNorm follows the convolutions. None leaves them as they are.
        activation: after each convolution: "relu", or "elu" as in MR.Q (arXiv 2501.16142).

    Raises:
        ValueError: for an impossible shape, an unknown name, or more than 2³⁰ parameters; when called with another
            shape, or with floats that were scaled to 1 already.
    """

    _scale_known = False

    @checked_numbers
    def __init__(
        self,
        observation_shape: Sequence[int] = (9, 84, 84),
        channels: int = 32,
        precision: str = "float32",
        strides: Sequence[int] = STRIDES,
        out_dim: int | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        observation_shape, strides = tuple(observation_shape), tuple(strides)
        if len(strides) < 1 or min(strides) < 1:
            raise ValueError(f"strides must be numbers of at least 1, one a convolution, got {tuple(strides)}")
        smallest = 2  # the last feature map's side
        for stride in reversed(strides):
            smallest = (smallest - 1) * stride + 3
        if len(observation_shape) != 3 or observation_shape[0] < 1 or min(observation_shape[1:]) < smallest:
            raise ValueError(
                f"observation_shape must be (channels, height, width) with at least {smallest} pixels a side, "
                f"got {tuple(observation_shape)}; rlrep.envs.make_env(ID, image_size=84) gives them from any Gymnasium "
                f"environment"
            )
        for name, choice, known in (
            ("precision", precision, list(PRECISIONS)),
            ("activation", activation, list(ACTIVATIONS)),
        ):
            if choice not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {choice!r}")
        self.observation_shape = observation_shape
        self.channels = channels
        self.precision = precision
        self.strides = strides
        self.out_dim = out_dim
        self.activation = activation
        height, width = self.feature_size
        self.repr_dim = channels * height * width
        parameters = 9 * channels * (observation_shape[0] + (len(strides) - 1) * channels) + self.repr_dim * (
            out_dim or 0
        )
        if parameters > MAX_PARAMETERS:
            raise ValueError(
                f"channels={channels} and out_dim={out_dim} make an encoder of {parameters:,} parameters for "
                f"observations of shape {observation_shape}, at most {MAX_PARAMETERS:,} are possible: make them smaller"
            )
        widths = (self.observation_shape[0], *[channels] * len(strides))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride) for i, stride in enumerate(strides)
        )
        self.head: nn.Sequential | None = None
        if out_dim is not None:
            self.head = nn.Sequential(FeatureLinear(self.repr_dim, out_dim), nn.LayerNorm(out_dim))
            self.repr_dim = out_dim
        self.apply(orthogonal_init)

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that rebuild this encoder; a subclass stores its own as attributes of their names."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Saves the encoder in a folder. One that is there already is replaced at the end, so that it stays if the new
        one is refused or the process is killed before.

        Args:
            save_directory: the folder, which need not exist.
            options: of ``huggingface_hub.ModelHubMixin.save_pretrained``: `push_to_hub`, `repo_id` and so on.

        Returns:
            The address of the commit with `push_to_hub`, else None.

        Raises:
            ValueError: for weights that are not finite or not float32.
        """
        folder = as_path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        if options.get("push_to_hub"):
            options = {"repo_id": folder.name} | options
        with TemporaryDirectory(prefix=".", dir=folder) as temporary:
            address = super().save_pretrained(temporary, **options)
            if (folder / CONFIG).exists() and (folder / CONFIG).read_bytes() != Path(temporary, CONFIG).read_bytes():
                (folder / CONFIG).unlink()  # with the other's weights it would describe a third encoder
            for name in (CARD, WEIGHTS, CONFIG):
                if name != CARD or not (folder / CARD).exists():  # it may have been edited
                    os.replace(Path(temporary, name), folder / name)
        return address

    def _save_pretrained(self, save_directory: Path) -> None:
        write_encoder(save_directory, self.options, self.state_dict())

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, precision: str | None = None, **hub_options: Any
    ) -> PixelEncoder:
        """The encoder that ``save_pretrained`` wrote, with its weights bit for bit, in evaluation mode on the CPU.

        Args:
            pretrained_model_name_or_path: its folder; ``rlrep://NAME`` for one that comes with this package, such as
                ``rlrep://cheetah_run_iid``; or ``hf://OWNER/NAME`` for one on the Hugging Face Hub. Only this prefix
                contacts the Hub.
            precision: see `PixelEncoder`; None keeps the saved one.
            hub_options: of ``huggingface_hub.snapshot_download``: `revision`, `token`, `cache_dir` and so on.

        Raises:
            FileNotFoundError: if the folder, its configuration or its weights do not exist.
            ValueError: if they were not written by ``save_pretrained``, or changed since: a missing or unknown entry,
                an impossible shape or number, a checksum mismatch.
        """
        place = str(pretrained_model_name_or_path)
        if place.startswith(HUB):
            place = snapshot_download(place.removeprefix(HUB), allow_patterns=[CONFIG, WEIGHTS], **hub_options)
        elif hub_options:
            raise TypeError(f"{', '.join(hub_options)} are for encoders on the Hub (hf://OWNER/NAME), got {place}")
        changes = {} if precision is None else {"precision": precision}
        return read_encoder(place_of(place), cls, inspect.signature(cls).parameters, **changes).eval()

    @property
    def feature_size(self) -> tuple[int, int]:
        """Height and width of the last feature map."""
        height, width = self.observation_shape[1:]
        for stride in self.strides:
            height, width = (height - 3) // stride + 1, (width - 3) // stride + 1
        return height, width

    def encode_view(self, observation: Tensor, augment: Callable[[Tensor], Tensor]) -> Tensor:
        """Features of an augmented view, for a `FeatureLinear` or `flat` to read: the last convolution's map, or the
        head's output.

        One function, so that a compiler can fuse all steps before the convolutions into one pass.
        """
        return self(augment(observation), as_map=True)

    def forward(self, observation: Tensor, as_map: bool = False) -> Tensor:
        """Features (…, repr_dim) float32 of pixels (…, C, H, W) in 0..255.

        Args:
            as_map: return the last convolution's output (B, channels, h, w) unchanged, channels-last and in
                `precision`; an encoder with a head still returns the head's output.
        """
        if not isinstance(observation, Tensor):
            raise TypeError(f"pixels must be a tensor, got {type(observation).__name__}: use torch.as_tensor(pixels)")
        if observation.shape[-3:] != self.observation_shape:
            raise ValueError(
                f"this encoder reads observations of shape (B, {', '.join(map(str, self.observation_shape))}), "
                f"got {tuple(observation.shape)}: build the encoder with the environment's observation shape"
            )
        if observation.is_floating_point() and not self._scale_known:
            self._check_scale(observation)
        if observation.ndim != 4:  # one observation, or a batch of sequences, as TorchRL gives them
            return self(observation.reshape(-1, *self.observation_shape)).view(*observation.shape[:-3], -1)
        features = self._convolve(observation)
        if self.head is not None:
            return self.head(features)
        return features if as_map else flat(features)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """The last convolution's output (B, channels, h, w) float32 of pixels (B, C, H, W) in 0..255, no head."""
        return self._convolve(pixels).float()

    def _check_scale(self, pixels: Tensor) -> None:
        """Refuses pixels that are already scaled to 0..1; checks only the first batch of floats, for speed."""
        busy = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if busy or (pixels.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        if pixels.numel() and pixels.abs().max() <= 1 and (pixels % 1).any():
            raise ValueError(
                f"the encoder scales pixels itself and reads 0..255, got floats of {pixels.min():g} to "
                f'{pixels.max():g}: leave them uint8, or multiply by 255 (in Stable-Baselines3, use "PixelPolicy" or '
                f"policy_kwargs=dict(normalize_images=False))"
            )
        self._scale_known = True

    def _convolve(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W) to the last convolution's output after its ReLU."""
        parameters: list[Tensor] = []
        for convolution in self.convolutions:
            assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
            parameters += convolution.weight, convolution.bias
        transformed = torch._C._are_functorch_transforms_active()  # vmap supports neither
        layout = torch.contiguous_format if transformed else torch.channels_last
        layers = _Layers(self.strides, PRECISIONS[self.precision], layout, self.activation)
        if transformed or pixels.requires_grad or not can_fuse(pixels.device, layers.dtype) or not finite(parameters):
            return convolve(pixels, parameters, layers, fused=False)[0][-1]
        if torch.is_grad_enabled():
            return _FusedConvolutions.apply(pixels, layers, *parameters)
        return convolve(pixels, parameters, layers, fused=True)[0][-1]


def finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all values are finite; waits for the device."""
    with torch.no_grad():
        return math.isfinite(torch.cat([tensor.flatten() for tensor in tensors]).sum().item())


def to_unit_scale(pixels: Tensor) -> Tensor:
    """Scales uint8 pixels for encoders and decoders: pixels / 255 - 0.5, float32."""
    return pixels.float().div_(255).sub_(0.5)


def to_pixels(images: Tensor) -> Tensor:
    """The inverse of `to_unit_scale`, clipped: uint8."""
    return images.add(0.5).mul_(255).round_().clamp_(0, 255).to(torch.uint8)


class PixelDecoder(nn.Module):
    """Features (B, in_dim) to an image (B, C, H, W) float32 on the encoder's scale, pixels / 255 - 0.5.

    One hidden layer gives `channels` values for each patch of 4×4 pixels. The patch is a linear function of these
    values, the same everywhere. On a CPU this takes half the time of transposed convolutions.

    Args:
        in_dim: size of the features.
        image_shape: (C, H, W); H and W at least 16 and divisible by 4.
        channels: values per patch; 16·C values can represent any patch.

    Raises:
        ValueError: for another height or width.
    """

    PATCH = 4

    @checked_numbers
    def __init__(self, in_dim: int, image_shape: Sequence[int], channels: int = 32) -> None:
        super().__init__()
        out_channels, height, width = image_shape
        if min(height, width) < 16 or height % 4 or width % 4:
            raise ValueError(f"image height and width must be at least 16 and divisible by 4, got {height}×{width}")
        rows, columns = height // self.PATCH, width // self.PATCH
        self.grid = (rows, columns, out_channels)
        self.patches = nn.Sequential(
            nn.Linear(in_dim, rows * columns * channels),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (rows * columns, channels)),
            nn.Linear(channels, out_channels * self.PATCH**2),
        )
        self.apply(orthogonal_init)

    def forward(self, features: Tensor) -> Tensor:
        """Images (B, C, H, W) float32 of features (B, in_dim); `to_pixels` makes uint8 of them."""
        patches = self.patches(features).unflatten(1, self.grid[:2]).unflatten(3, (-1, self.PATCH, self.PATCH))
        return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    def error(self, features: Tensor, image: Tensor) -> Tensor:
        """Mean squared error against images (B, C, H, W) uint8, on the encoder's scale; a scalar. Images of floats, as
        some augmentations return them, are rounded.

        The patches are compared without forming an image: to reorder them, and back for the gradient, would make an
        update of `ForwardModel` 1.15 times slower on a CPU.
        """
        rows, columns, _ = self.grid
        if image.dtype != torch.uint8:
            image = image.round().clamp(0, 255).to(torch.uint8)
        flat = image.flatten(1).contiguous()  # of (B, 1, H, W) as well, where strides don't matter to contiguous()
        fours = flat.view(torch.int32).view(*image.shape[:-1], columns)  # a patch's row, (B, C, H, columns)
        cut = fours.unflatten(2, (rows, self.PATCH)).permute(0, 2, 4, 1, 3).contiguous().view(torch.uint8)
        return F.mse_loss(self.patches(features), to_unit_scale(cut.view(len(image), rows * columns, -1)))
