"""Sections of the configuration of a run: options that belong together, as in encoder.channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlrep.encoders import ACTIVATIONS, PRECISIONS
from rlrep.envs.distractors import KINDS
from rlrep.envs.noise import options_of
from rlrep.experiments.run.clips import read_clips
from rlrep.experiments.run.options import option
from rlrep.experiments.yaml_files import value_of

# The keyword arguments of `PixelEncoder` that determine its weights.
ARCHITECTURE = ("channels", "strides", "out_dim", "activation")


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
        "folder of the initial encoder, from rlrep.experiments.pretrain (encoder=FOLDER), or rlrep://NAME for one that "
        "comes with rlrep",
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
    """Distractors on an environment's pictures, see envs/distractors.py; none without a kind."""

    kind: str | None = option(None, "distractors on the pictures; null is none", choices=tuple(KINDS))
    persistence: float = option(
        1.0,
        "0 draws the distractors anew at each step (iid), 1 lets them move on their own (exogenous)",
        least=0,
        most=1,
    )
    num_shapes: int = option(4, "how many", above=0)
    size: float = option(
        0.25,
        "of a shape, as a share of the image's side; of a pixel's offset, of 255",
        above=0,
    )
    strength: float = option(
        0.5, "size of changes of camera and color; a video's share of a covered pixel", least=0, most=1
    )
    videos: str | None = option(None, "folder or file of videos for the background, with kind=video", path=True)
    background_only: bool = option(False, "shapes and videos cover the background only, dark pixels if unknown")

    @property
    def settings(self) -> dict[str, Any] | None:
        """The options of the kind, as given; None without noise."""
        if self.kind is None:
            return None
        return {name: getattr(self, name) for name in ("kind", "persistence", *options_of(self.kind))}

    def options(self, image_size: int) -> dict[str, Any] | None:
        """The keyword arguments of `rlrep.envs.Noise`; None without noise.

        Args:
            image_size: of the frames in pixels, the size for videos.

        Raises:
            ConfigError: if no videos can be read.
        """
        found = self.settings
        if found is None or self.kind != "video":
            return found
        return found | {"videos": read_clips(self.videos, image_size)}


@dataclass
class FilesConfig:
    """How files of episodes or videos are read."""

    cache: str | None = option(
        None, "folder of the converted frames; null is .rlrep-cache in the data's folder", path=True, free=True
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
    """Finished data that an online run also uses."""

    data: str | None = option(None, "additional finished data; with init, the data of init", path=True, free=True)
    share: float = option(0.5, "of each batch that comes from it", least=0, below=1)


def idle_noise(plain: Mapping[str, Any]) -> dict[str, str]:
    """The options of noise that have no effect for its kind, with the reason."""
    kind = value_of(plain, "noise.kind")
    if kind not in KINDS:
        return {}
    users = {name: [each for each in KINDS if name in options_of(each)] for each in KINDS for name in options_of(each)}
    return {
        f"noise.{name}": f"with noise.kind={kind}, only with noise.kind={' or '.join(kinds)}"
        for name, kinds in users.items()
        if kind not in kinds
    }
