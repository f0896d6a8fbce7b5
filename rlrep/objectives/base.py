"""What every objective is: a module around a shared encoder that turns a batch into losses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlrep.augment import RandomShift
from rlrep.encoders import PixelEncoder

if TYPE_CHECKING:
    from tensordict import TensorDict

PIXELS = ("observation", "future_observation")
WHO_HAS = {
    "action": "data recorded with actions (a replay buffer, offline RL data), not video",
    "action_sequence": "a replay buffer built with horizon=K, or offline RL data, not video",
    "future_observation": "a replay buffer built with horizon=K, offline RL data, and video sources",
    "gap": "a replay buffer built with horizon=K, offline RL data, and video sources",
    "reward": "a replay buffer or offline RL data, not video",
}


class Objective(nn.Module):
    """A representation loss on an encoder that it shares with whoever owns it.

    Calling it with a batch returns a TensorDict without batch dimensions: entries named ``loss_*`` are scalars to
    minimise, the others are detached metrics (TorchRL's LossModule convention). The parameters are the encoder's and
    those of the objective's own heads. A method of one's own says what it reads in `in_keys`, what it returns in
    `out_keys`, and computes it in `losses`, where pixels go through `encode`.

    The encoder may be any module from pixels (B, C, H, W) uint8 to features (B, repr_dim) float32 that has the number
    `repr_dim`; an objective that draws pixels also reads its `observation_shape` (C, H, W).

    Attributes:
        in_keys: what it reads from a batch.
        out_keys: what it returns.
        horizon: K, how many steps ahead it looks; 0 if only at the current observation.
        all_ranks: under torch.distributed, whether a contrastive loss takes its negatives from all ranks, each of which
            must call it with as many rows. Set it to False where ranks train apart, or one evaluates alone.
        same_every_update: whether each call makes the same operations and waits for no value, so that a CUDA graph can
            stand for all of them. A method that calls ``item()``, or counts in Python, sets it to False.

    Raises:
        ValueError: for an encoder without `repr_dim`.
    """

    in_keys: list[Any]
    out_keys: list[str]
    horizon: int = 0
    all_ranks: bool = True
    same_every_update: bool = True

    def __init__(self, encoder: PixelEncoder, augment: RandomShift | None = None) -> None:
        super().__init__()
        if not isinstance(getattr(encoder, "repr_dim", None), int):
            raise ValueError(
                f"{type(self).__name__} needs an encoder with the attribute repr_dim, the size of its features "
                f"(B, repr_dim): {type(encoder).__name__} has none"
            )
        self.encoder = encoder
        self.augment = RandomShift(4) if augment is None else augment
        self._encoded: list[tuple[Tensor, Tensor]] = []  # filled while `forward` runs

    def losses(self, *values: Tensor) -> dict[str, Tensor]:
        """The losses and metrics `out_keys`, from the batch's entries `in_keys`."""
        raise NotImplementedError

    def encode(self, observation: Tensor) -> Tensor:
        """Features (B, repr_dim) of an augmented view of the pixels (B, C, H, W) uint8.

        The first view of pixels that the owner has encoded already is the owner's, unless a gradient is wanted that it
        does not carry; further views are drawn and encoded afresh.
        """
        for i, (pixels, features) in enumerate(self._encoded):
            if pixels is observation and (features.requires_grad or not torch.is_grad_enabled()):
                del self._encoded[i]
                return features
        if hasattr(self.encoder, "encode_view"):
            return self.encoder.encode_view(observation, self.augment)
        return self.encoder(self.augment(observation))

    def forward(self, batch: TensorDict, encoded: Iterable[tuple[Tensor, Tensor]] = ()) -> TensorDict:
        """The losses and metrics of a batch.

        Args:
            batch: holds the entries `in_keys`.
            encoded: (pixels, features) of entries of the batch that the encoder has read already in this update, if
                they are to be shared: see `encode`.
        """
        from tensordict import TensorDict  # takes over a second to import

        self._encoded = list(encoded)
        try:
            return TensorDict(self.losses(*self.read(batch)))
        finally:
            self._encoded = []

    def read(self, batch: TensorDict) -> list[Tensor]:
        """The entries `in_keys` of a batch, in that order.

        Raises:
            KeyError: naming the missing entry and the kind of data that has it.
            TypeError: for a dictionary, which has no nested keys.
            ValueError: for pixels that are not (B, C, H, W) uint8, an action sequence of another length than `horizon`,
                or a larger gap (which is looked at on the CPU only).
        """
        if not hasattr(batch, "batch_size"):
            raise TypeError(
                f"{type(self).__name__} reads a TensorDict, got a {type(batch).__name__}: "
                f"pass tensordict.TensorDict(batch, batch_size=[B])"
            )
        values = []
        for key in self.in_keys:
            value = batch.get(key, None)
            if value is None:
                name = key if isinstance(key, str) else key[-1]
                raise KeyError(
                    f"{type(self).__name__} reads {key!r}, which this batch lacks. "
                    f"It is in {WHO_HAS.get(name, 'every batch of a replay buffer')}."
                )
            if key in PIXELS and (value.dtype != torch.uint8 or value.ndim != 4):
                raise ValueError(
                    f"{key} must be uint8 pixels (B, C, H, W) in 0..255, got {str(value.dtype).removeprefix('torch.')} "
                    f"of shape {tuple(value.shape)}: the encoder scales them itself"
                )
            if key == "gap" and value.device.type == "cpu" and value.max() > self.horizon:
                raise ValueError(
                    f"{type(self).__name__} was built with horizon={self.horizon}, the batch holds a gap of "
                    f"{value.max()} steps: build both with the same number"
                )
            if key == "action_sequence" and value.shape[1] != self.horizon:
                raise ValueError(
                    f"{type(self).__name__} was built with horizon={self.horizon}, the batch holds sequences of "
                    f"{value.shape[1]} actions: build both with the same horizon"
                )
            values.append(value)
        return values


def check_horizon(horizon: int) -> int:
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1 step, got {horizon}")
    return horizon


def check_frame_channels(encoder: PixelEncoder, frame_channels: int) -> int:
    if not hasattr(encoder, "observation_shape"):
        raise ValueError(
            f"what draws pixels needs an encoder with the attribute observation_shape, (C, H, W): "
            f"{type(encoder).__name__} has none"
        )
    if not 1 <= frame_channels <= encoder.observation_shape[0]:
        raise ValueError(
            f"frame_channels must lie in 1..{encoder.observation_shape[0]}, the observation's channels, "
            f"got {frame_channels}"
        )
    return frame_channels
