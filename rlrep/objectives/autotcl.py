"""AutoTCL: contrast over time with a learned mask of the picture (arXiv 2402.10434)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import NonNegative, Share
from rlrep.contrast import gather, info_nce_of
from rlrep.encoders import PixelEncoder, flat, orthogonal_init, projection
from rlrep.objectives.base import Objective, check_frame_channels
from rlrep.window import Gap, Window

GREY = 127.5  # what the encoder scales to 0


class AutoTCL(Objective):
    """Tells pairs (x_t, x_t+k), k in 1..K, of one episode from others, where a network masks and changes the first.

    The view of x is v = grey + m(x) ∘ (x - grey) + ρ r(x), with a mask m in (0, 1) and a residual r in (-1, 1) of all
    channels, in pixels, clipped to 0..255. With z = projection(φ(·)) of length 1, InfoNCE at temperature τ has two
    halves, the agreement and the uniformity:

    A = -mean_i z(v_i)·z(x'_i) / τ,  U = mean_i log Σ_j exp( z(v_i)·z(x'_j) / τ ).

    - ``loss_autotcl`` = A + U trains the encoder, with views that are constants;
    - ``loss_autotcl_mask`` = A - β U trains the network that makes the views, with an encoder that is a constant: views
      keep what pairs agree on, and lose as much else as they can. (The paper's network follows its principle of
      relevant information: it minimises the distance of the features of x and of its own view, without U.)

    Needs no actions. Negatives come from all ranks, see `Objective.all_ranks`. Simplified for small pictures: both are
    trained at the same time, while the paper trains them in turns; the paper's regularisers, of masks that are sparse
    and smooth in time, and its second, local contrast are left out.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        horizon: K ≥ 1, the largest gap.
        pressure: β ≥ 0.
        residual: ρ in 0..1, as a share of 255; 0 for a mask alone.
        mask_channels: of the two convolutions that make mask and residual.
        feature_dim: size of z.
        temperature: τ > 0.
        augment: the image augmentation, before the mask; a random shift by 4 pixels if None.

    Raises:
        ValueError: for numbers out of range, and an encoder without `observation_shape`.
    """

    comparable = False  # the sum of both is an opponent's

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        horizon: int = 3,
        pressure: NonNegative = 0.1,
        residual: Share = 0.1,
        mask_channels: int = 16,
        feature_dim: int = 50,
        temperature: float = 0.1,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        check_frame_channels(encoder, 1)  # refuses an encoder that does not say its pictures' shape
        channels = encoder.observation_shape[0]
        self.horizon, self.temperature = horizon, temperature
        self.pressure, self.residual = pressure, residual
        self.window = Window(observations=(Gap(horizon),))
        self.in_keys = ["observation", "future_observation"]
        self.out_keys = ["loss_autotcl", "loss_autotcl_mask", "autotcl_accuracy", "autotcl_mask"]
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        self.masker = nn.Sequential(
            nn.Conv2d(channels, mask_channels, 3, padding=1, stride=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(mask_channels, mask_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(mask_channels, 1 + channels, 1),
        )
        for part in (self.state_projection, self.masker):
            part.apply(orthogonal_init)

    def masked(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The view v (B, C, H, W) float32 in 0..255 of pixels (B, C, H, W) uint8, and its mask (B, 1, H, W)."""
        centred = pixels.float() - GREY
        made = F.interpolate(self.masker(centred / 255), size=pixels.shape[-2:])
        mask, residual = made[:, :1].sigmoid(), made[:, 1:].tanh()
        return (GREY + mask * centred + residual * (255 * self.residual)).clamp(0, 255), mask

    def project(self, view: Tensor) -> Tensor:
        """z (B, feature_dim) of length 1, from features or a feature map."""
        return F.normalize(self.state_projection(view), dim=1)

    def losses(self, observation: Tensor, future_observation: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        view, mask = self.masked(self.augment(observation))
        late = self.project(self.view(future_observation))
        others, first = gather(late, self.all_ranks)
        logits = self.project(self.encoder(view.detach())) @ others.T / self.temperature
        loss, accuracy = info_nce_of(logits, first)
        constant = {name: value.detach() for name, value in self.encoder.named_parameters()}
        seen = flat(functional_call(self.encoder, constant, view))
        head = {name: value.detach() for name, value in self.state_projection.named_parameters()}
        early = F.normalize(functional_call(self.state_projection, head, seen), dim=1)
        logits = early @ others.detach().T / self.temperature
        uniformity, agreement = logits.logsumexp(1).mean(), -logits.diagonal(first).mean()
        return {
            "loss_autotcl": loss,
            "loss_autotcl_mask": agreement - self.pressure * uniformity,
            "autotcl_accuracy": accuracy,
            "autotcl_mask": mask.detach().mean(),
        }
