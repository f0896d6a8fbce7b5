"""Autoencoders: they reconstruct an observation from its features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import Count, Several, Share
from rlrep.encoders import PixelDecoder, PixelEncoder, orthogonal_init, projection, to_pixels
from rlrep.extras import install
from rlrep.objectives.base import Objective, check_frame_channels

if TYPE_CHECKING:
    from tensordict import TensorDict


class Autoencoder(Objective):
    """Reconstructs the newest frame of x_t from z = projection(φ(x_t)), section 3 of arXiv 2403.13765.

    ``loss_reconstruction`` = mean ‖decoder(z) - x‖² on the scale pixels / 255 - 0.5. With `denoise` the encoder sees
    x + ε, ε ~ N(0, (255 · denoise)²), clipped to 0..255 (arXiv 0810.3956's denoising autoencoder). With `codes`, a
    vector-quantised bottleneck (arXiv 1711.00937) precedes the decoder: it replaces each of z's `codebooks` parts by
    one of `codes` vectors; ``loss_commitment`` pulls the parts to their codes.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        feature_dim: size of z; None decodes the features themselves, for encoders with a small ``out_dim``: the
            convolutions' 39,200 features of an 84×84 picture would make a decoder of 2 GB.
        denoise: standard deviation of the noise that the encoder must remove, as a share of 255; 0 for none.
        codes: vectors of each codebook; 0 means no bottleneck. Needs the vector-quantize-pytorch package.
        codebooks: parts that the features are cut into; must divide the size of z.
        frame_channels: channels of one frame (None: 3, or 1 if the observation's are not a multiple of 3); the newest
            frame is decoded.
        decoder_channels: of the `PixelDecoder`.
        augment: the image augmentation; a random shift by 4 pixels if None. The target is not augmented.

    Raises:
        ValueError: for numbers out of range.
        ModuleNotFoundError: for `codes` without vector-quantize-pytorch.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        feature_dim: int | None = 256,
        denoise: Share = 0.0,
        codes: Count = 0,
        codebooks: int = 4,
        frame_channels: int | None = None,
        decoder_channels: int = 32,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        self.in_keys = ["observation"]
        self.out_keys = ["loss_reconstruction", *(["loss_commitment"] if codes else [])]
        self.denoise = denoise
        self.same_every_update = not codes  # the quantiser replaces unused codes
        self.frame_channels = check_frame_channels(encoder, frame_channels)
        frame_shape = (self.frame_channels, *encoder.observation_shape[1:])
        self.projection: nn.Module = nn.Identity()
        if feature_dim is not None:
            self.projection = projection(encoder.repr_dim, feature_dim).apply(orthogonal_init)
        dim = encoder.repr_dim if feature_dim is None else feature_dim
        self.decoder = PixelDecoder(dim, frame_shape, decoder_channels)
        self.quantizer = vector_quantizer(dim, codes, codebooks) if codes else None

    def losses(self, observation: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        pixels, offset = observation, 0 if not self.denoise else None
        if self.denoise:
            noise = torch.randn(observation.shape, device=observation.device)
            pixels = (observation + noise * (255 * self.denoise)).clamp(0, 255)
        z, commitment = self.bottleneck(self.encode(pixels, offset))
        out = {"loss_reconstruction": self.decoder.error(z, observation[:, -self.frame_channels :])}
        return out if commitment is None else out | {"loss_commitment": commitment}

    def bottleneck(self, features: Tensor, learn: bool = True) -> tuple[Tensor, Tensor | None]:
        """The decoder's input z (B, feature_dim), and the commitment loss if it is quantised. In training mode the
        quantiser's codes move, if they are to `learn`."""
        z = self.projection(features)
        if self.quantizer is None:
            return z, None
        quantized, _, commitment = self.quantizer(z[:, None], freeze_codebook=not learn)
        return quantized[:, 0], commitment.sum()

    @torch.no_grad()
    def reconstruct(self, batch: TensorDict) -> Tensor:
        """The decoder's reconstruction of each observation's newest frame, (B, frame_channels, H, W) uint8."""
        z, _ = self.bottleneck(self.encoder(batch["observation"]), learn=False)
        return to_pixels(self.decoder(z))


@checked_numbers
def vector_quantizer(dim: int, codes: Several, codebooks: int) -> nn.Module:
    """A quantiser of (B, 1, dim) in `codebooks` parts, its codes moved by exponential averages."""
    try:
        from vector_quantize_pytorch import VectorQuantize
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"codes needs vector-quantize-pytorch: {install('theory')}") from error
    if dim % codebooks:
        raise ValueError(f"codebooks must divide the features' {dim} dimensions, got {codebooks}")
    return VectorQuantize(
        dim=dim,
        codebook_dim=dim // codebooks,
        heads=codebooks,
        separate_codebook_per_head=True,
        codebook_size=codes,
        threshold_ema_dead_code=1,
        # The paper's, which are not the package's defaults.
        rotation_trick=False,
        commitment_weight=0.25,
        decay=0.99,
    )
