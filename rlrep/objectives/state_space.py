"""State-space forward model: predicts each next frame from all before it (arXiv 2310.19694, 2303.14526)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from rlrep.arguments import checked_numbers
from rlrep.augment import RandomShift
from rlrep.bounds import Share
from rlrep.contrast import temporal_contrastive
from rlrep.encoders import PixelDecoder, PixelEncoder, mlp, orthogonal_init, projection
from rlrep.objectives.base import Objective, check_frame_channels
from rlrep.window import Window

SLOWEST, FASTEST = 0.1, 1.0  # step sizes of the states at the start; recordings are a few steps long


class StateSpace(Objective):
    """Predicts each next frame of a sequence by a linear state space, and makes a long and a short view agree.

    With u_t = projection(φ(x_t)), t in 0..K, and a diagonal complex state space of step size Δ (S5, as in
    arXiv 2310.19694), h_-1 = 0:

    h_t = e^(ΛΔ) ∘ h_t-1 + (e^(ΛΔ) - 1) / Λ ∘ B u_t,  y_t = u_t + P(Re h_t, Im h_t)

    - ``loss_state_space`` = mean ‖decoder(y_t) - x_t+1‖², t in 0..K - 1, of the newest frame on the scale
      pixels / 255 - 0.5;
    - ``loss_state_space_agreement`` = symmetric InfoNCE, of cosines at temperature τ, of g(y_K) of two views: the long
      one has all observations but random ones, the short one only the last S (arXiv 2303.14526).

    Needs no actions. All h_t are computed at once. Simplified for small pictures: the state space runs over projected
    features, while the paper's runs over the maps of convolutions; there is one layer; hidden observations are zeros
    after the encoder.

    Args:
        encoder: the shared encoder.
        action_space: not used; every objective is built from the same two arguments.
        horizon: K ≥ 1, frames that are predicted.
        short: S ≥ 1, observations of the short view; at most K.
        hidden_share: probability with which an observation before the last is hidden from the long view.
        state_dim: complex numbers in h.
        feature_dim: size of u and y.
        hidden_dim: width of the hidden layers of P and g.
        temperature: τ > 0.
        frame_channels: channels of one frame (None: 3, or 1 if the observation's are not a multiple of 3).
        decoder_channels: of the `PixelDecoder`.
        augment: the image augmentation, one for a whole sequence; a random shift by 4 pixels if None. The targets have
            the same.

    Raises:
        ValueError: for numbers out of range.
    """

    @checked_numbers
    def __init__(
        self,
        encoder: PixelEncoder,
        action_space: Any = None,
        horizon: int = 4,
        short: int = 1,
        hidden_share: Share = 0.3,
        state_dim: int = 64,
        feature_dim: int = 256,
        hidden_dim: int = 256,
        temperature: float = 0.1,
        frame_channels: int | None = None,
        decoder_channels: int = 32,
        augment: RandomShift | None = None,
    ) -> None:
        super().__init__(encoder, augment)
        if short > horizon:
            raise ValueError(f"short must be at most horizon={horizon}, got {short}: the long view would be no longer")
        self.horizon, self.short, self.hidden_share, self.temperature = horizon, short, hidden_share, temperature
        self.frame_channels = check_frame_channels(encoder, frame_channels)
        self.window = Window(observations=tuple(range(1, horizon + 1)))
        self.in_keys = ["observation", ("sequence", "observation")]
        self.out_keys = ["loss_state_space", "loss_state_space_agreement", "state_space_accuracy"]
        self.state_projection = projection(encoder.repr_dim, feature_dim)
        self.states = DiagonalStateSpace(feature_dim, state_dim)
        self.read_out = mlp(2 * state_dim, [hidden_dim], feature_dim)
        self.head = mlp(feature_dim, [hidden_dim], feature_dim)
        for part in (self.state_projection, self.read_out, self.head):
            part.apply(orthogonal_init)
        self.decoder = PixelDecoder(
            feature_dim, (self.frame_channels, *encoder.observation_shape[1:]), decoder_channels
        )

    def outputs(self, inputs: Tensor) -> Tensor:
        """y (B, T, feature_dim) of u (B, T, feature_dim)."""
        return inputs + self.read_out(torch.view_as_real(self.states(inputs)).flatten(2))

    def losses(self, observation: Tensor, others: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """The losses of sequences: the first observation (B, C, H, W) and the others (B, K, C, H, W)."""
        clip = self.clip_view(torch.cat([observation[:, None], others], dim=1))
        inputs = self.state_projection(self.encoder(clip.flatten(0, 1))).unflatten(0, clip.shape[:2])
        following = clip[:, 1:, -self.frame_channels :].flatten(0, 1)
        error = self.decoder.error(self.outputs(inputs[:, :-1]).flatten(0, 1), following)
        last = torch.arange(self.horizon + 1, device=clip.device) == self.horizon
        visible = (torch.rand(inputs.shape[:2], device=clip.device) >= self.hidden_share) | last
        long = self.outputs(inputs * visible[:, :, None])[:, -1]
        short = self.outputs(inputs[:, -self.short :])[:, -1]
        agreement, accuracy = temporal_contrastive(
            self.head(long), self.head(short), self.temperature, normalize=True, all_ranks=self.all_ranks
        )
        return {
            "loss_state_space": error,
            "loss_state_space_agreement": agreement,
            "state_space_accuracy": accuracy,
        }


class DiagonalStateSpace(nn.Module):
    """The states h_t = e^(ΛΔ) ∘ h_t-1 + (e^(ΛΔ) - 1) / Λ ∘ B u_t of sequences u.

    Λ starts at -1/2 + iπn (S4D's linear start, arXiv 2206.11893), its real part is always negative. The recurrence is
    linear and the same at every step, so that h_t = Σ_s e^(ΛΔ(t - s)) ∘ (…) is one product for all steps.
    """

    def __init__(self, in_dim: int, state_dim: int) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.full((state_dim,), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(state_dim))
        steps = torch.empty(state_dim).uniform_(math.log(SLOWEST), math.log(FASTEST))
        self.step = nn.Parameter(steps)
        self.inputs = nn.Linear(in_dim, 2 * state_dim, bias=False)

    def forward(self, sequence: Tensor) -> Tensor:
        """States (B, T, state_dim) complex64 of inputs (B, T, in_dim)."""
        rate = torch.complex(-self.decay.exp(), self.frequency)
        power = rate * self.step.exp()
        given = torch.view_as_complex(self.inputs(sequence).float().unflatten(2, (-1, 2))) * ((power.exp() - 1) / rate)
        steps = torch.arange(sequence.shape[1], device=sequence.device)
        away = steps[:, None] - steps
        kernel = torch.exp(away.clamp(min=0)[:, :, None] * power) * (away >= 0)[:, :, None]
        return torch.einsum("tsn,bsn->btn", kernel, given)
