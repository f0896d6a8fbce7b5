"""Sections of the configuration of a run: options that belong together, as in encoder.channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlrep.encoders import ACTIVATIONS, PRECISIONS
from rlrep.experiments.run.options import option, value_of

# The keyword arguments of `PixelEncoder` that say what its weights are for.
ARCHITECTURE = ("channels", "strides", "out_dim", "activation")

# Settings of the noise that kind=pixels has no use for.
OF_SHAPES = ("num_shapes", "background_only")


@dataclass
class EncoderConfig:
    channels: int = option(32, "of the convolutions", above=0)
    strides: list[int] = option([2, 1, 1, 1], "of the convolutions; [2,2,2,2] makes small features at less cost")
    out_dim: int | None = option(
        None, "features, by a linear layer after the convolutions; null leaves theirs as they are", above=0
    )
    activation: str = option("relu", "after each convolution", choices=tuple(ACTIVATIONS))
    precision: str = option(
        "auto", "bfloat16 is chosen where the device is faster at it", choices=("auto", *PRECISIONS)
    )

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of `PixelEncoder`, except for the observation's shape."""
        return {name: getattr(self, name) for name in (*ARCHITECTURE, "precision")}


@dataclass
class AgentEncoderConfig(EncoderConfig):
    path: str | None = option(
        None,
        "folder of an encoder that rlrep.experiments.pretrain made, which the run starts from (encoder=FOLDER), or "
        "encoder=rlrep://NAME for one that comes with rlrep",
        path=True,
    )
    freeze: bool = option(False, "nothing trains the encoder", needs=("encoder.path", "init"))


@dataclass
class WandbConfig:
    project: str | None = option(None, "null is $WANDB_PROJECT, or rlrep", free=True)
    mode: str | None = option(
        None,
        "null is $WANDB_MODE, or online",
        choices=("online", "offline", "disabled"),
        free=True,
    )


@dataclass
class NoiseConfig:
    """Distractors on an environment's pictures, see envs/noise.py; none without a kind."""

    kind: str | None = option(None, "distractors on the pictures; null is none", choices=("shapes", "pixels"))
    persistence: float = option(
        1.0,
        "0 draws the distractors afresh at each step (iid), 1 lets them move on their own (exogenous)",
        least=0,
        most=1,
    )
    num_shapes: int = option(4, "how many", above=0)
    size: float = option(
        0.25,
        "of a shape, as a share of the image's side; of a pixel's offset, of 255",
        above=0,
    )
    background_only: bool = option(False, "shapes cover dark pixels only, as on a black background")

    @property
    def options(self) -> dict[str, Any] | None:
        """The keyword arguments of `rlrep.envs.Noise`; None without noise."""
        if self.kind is None:
            return None
        return {name: value for name, value in vars(self).items() if self.kind == "shapes" or name not in OF_SHAPES}


@dataclass
class FilesConfig:
    """How files of episodes or videos are read."""

    cache: str | None = option(
        None, "folder of the converted frames; null is .rlrep-cache beside the data", path=True, free=True
    )
    skip_corrupt: bool = option(False, "leave out files that can't be used, and list them")
    channels_last: bool | None = option(
        None, "whether pictures in episode files are (height, width, channels); null tells by their shape"
    )
    frame_channels: int | None = option(
        None, "channels of a frame where pictures hold several: 1 for grey; null takes threes for RGB", above=0
    )
    format: str | None = option(
        None, "of the files, by name or my_package.my_file:MyFormat; null tells it by the files"
    )
    format_options: dict[str, Any] = option({}, "of that format: format_options.camera=observation.images.top")


@dataclass
class OfflineShareConfig(FilesConfig):
    """Finished data that an online run learns from as well."""

    data: str | None = option(
        None, "finished data to learn from as well; with init, the data that init has", path=True, free=True
    )
    share: float = option(0.5, "of each batch that comes from it", least=0, below=1)


def idle_noise(plain: Mapping[str, Any]) -> dict[str, str]:
    """The options of noise that its kind has no use for, with the reason."""
    if value_of(plain, "noise.kind") != "pixels":
        return {}
    return {f"noise.{name}": "with noise.kind=pixels, only with noise.kind=shapes" for name in OF_SHAPES}
