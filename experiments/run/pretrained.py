"""Starts a run from an encoder of rlrep.experiments.pretrain: encoder=FOLDER."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.utils import to_absolute_path
from torch import nn

from rlrep import PixelEncoder
from rlrep.encoder_files import CONFIG as DESCRIPTION
from rlrep.encoder_files import SHIPPED, WEIGHTS, place_of
from rlrep.experiments.run.config import RunConfig
from rlrep.experiments.run.options import ConfigError
from rlrep.experiments.run.sections import ARCHITECTURE


def settle_encoder(config: RunConfig, saved: RunConfig | None) -> None:
    """Gives a run the architecture of its initial encoder, or, on resume, that in `saved`; in place.

    Raises:
        ConfigError: if the encoder is missing, or reads other observations than the run's.
    """
    if config.encoder.path is None:
        return
    path = config.encoder.path
    config.encoder.path = path if path.startswith(SHIPPED) else to_absolute_path(path)
    if saved is not None and saved.encoder.path == config.encoder.path:  # the folder may be deleted now
        for name in ARCHITECTURE:
            setattr(config.encoder, name, getattr(saved.encoder, name))
        return
    description = read_description(place_of(config.encoder.path))
    for name in ARCHITECTURE:
        setattr(config.encoder, name, description[name])
    channels, height, width = description["observation_shape"]
    ours = (3 * config.frame_stack, config.image_size, config.image_size)
    if (channels, height, width) != ours:
        fits = height == width and channels % 3 == 0
        advice = (
            f"use image_size={height} frame_stack={channels // 3}, or"
            if fits
            else "no image_size and frame_stack of a run give that:"
        )
        raise ConfigError(
            f"encoder={config.encoder.path} reads observations of shape ({channels}, {height}, {width}), this run's "
            f"are {ours} (image_size={config.image_size} frame_stack={config.frame_stack}): {advice} pretrain an "
            f"encoder with the run's image_size and frame_stack"
        )


def read_description(folder: Path) -> dict[str, Any]:
    """The keyword arguments of the encoder in `folder`.

    Raises:
        ConfigError: if the folder has no encoder.
    """
    missing = [name for name in (WEIGHTS, DESCRIPTION) if not (folder / name).is_file()]
    if missing:
        inside = folder / "encoder"
        hint = (
            f"did you mean encoder={inside}?"
            if (inside / WEIGHTS).is_file()
            else "rlrep.experiments.pretrain makes them"
        )
        raise ConfigError(f"{folder} is not a folder of an encoder, it has no {' and no '.join(missing)}: {hint}")
    options = read_encoder(folder).options
    return options | {"strides": list(options["strides"])}


def read_encoder(folder: Path) -> PixelEncoder:
    try:
        return PixelEncoder.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"encoder={folder} can't be used: {error}") from error


def load_weights(encoder: nn.Module, folder: Path) -> None:
    """Loads the weights in `folder` into `encoder`, which has the same architecture.

    Raises:
        ConfigError: if they are damaged or do not fit.
    """
    try:
        encoder.load_state_dict(read_encoder(folder).state_dict())
    except RuntimeError as error:
        raise ConfigError(
            f"encoder={folder} has another architecture than this run's encoder ({str(error).splitlines()[0]}): use "
            f"another run_dir"
        ) from error
