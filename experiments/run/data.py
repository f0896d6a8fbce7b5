"""Finished data for runs, offline and in addition to online data."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import torch
from gymnasium.spaces import Discrete
from hydra.utils import to_absolute_path

from rlrep.data import Dataset, open_dataset
from rlrep.data.formats import Format, make_format
from rlrep.experiments.run import ranks
from rlrep.experiments.run.checkpoint import CheckpointError
from rlrep.experiments.run.device import check_storage
from rlrep.experiments.run.log import reading
from rlrep.experiments.run.options import ConfigError, options_of
from rlrep.experiments.run.sections import FilesConfig
from rlrep.replay import ReplayError


def open_data(path: str, config: Any, files: Any) -> Dataset:
    """Opens the data at `path` for the samples of `config`, on the run's device if they fit. `files` has the options of
    reading: the configuration or a part of it.

    Under torchrun the first rank opens them before the others: it converts them, which takes a while.
    """
    check_storage(config.replay_storage, config.device)
    opened = partial(
        open_dataset,
        path,
        frame_stack=config.frame_stack,
        n_step=config.nstep,
        discount=config.discount,
        cache=None if files.cache is None else to_absolute_path(files.cache),
        skip_corrupt=files.skip_corrupt,
        channels_last=files.channels_last,
        frame_channels=files.frame_channels,
        format=format_of(files),
        device=config.device,
        seed=ranks.seed(config.seed),
    )
    if ranks.rank():
        ranks.from_first(None)
    storage = config.device if config.replay_storage == "cuda" else config.replay_storage
    with reading(path) as progress:
        data = opened(progress=progress, storage=partial(auto_storage, config.device) if storage == "auto" else storage)
    if not ranks.rank():
        ranks.from_first(None)
        idle = [name for name in options_of(FilesConfig) if getattr(files, name) not in (None, False, {})]
        if data.as_it_is and idle:
            print(
                f"note: {' and '.join(idle)} {'has' if len(idle) == 1 else 'have'} no effect on {path}, which is "
                f"opened as it is, without a conversion",
                file=sys.stderr,
            )
    return data


def format_of(files: Any) -> Format | None:
    """The format in `files`, which has the options of `FilesConfig`; None detects it from the files.

    Raises:
        ConfigError: for options without a format.
        ValueError: for an unknown format, and options that it does not have.
    """
    if files.format is not None:
        return make_format(files.format, options=files.format_options)
    if files.format_options:
        raise ConfigError(
            f"format_options={dict(files.format_options)} has no effect without format=…: give that too, or leave "
            f"format_options out"
        )
    return None


def auto_storage(device: str, nbytes: int) -> str:
    """The GPU if frames of `nbytes` fill less than half of it, else "disk"."""
    return device if device.startswith("cuda") and nbytes < torch.cuda.mem_get_info(device)[0] / 2 else "disk"


def check_fit(data: Dataset, name: str, env: Any, config: Any, batch_size: int) -> None:
    """Refuses data `name` if observations or actions differ from the environment's, or if there are too few steps.

    Raises:
        ConfigError: naming both values.
    """
    shape = env.observation_space.shape
    if data.observation_shape != shape:
        raise ConfigError(
            f"{name} holds observations of shape {data.observation_shape}, {config.task} has {shape} at "
            f"image_size={config.image_size} frame_stack={config.frame_stack}: choose the data's, "
            f"image_size={data.observation_shape[-1]}, or name another task"
        )
    discrete = isinstance(env.action_space, Discrete)
    size = env.action_space.n if discrete else env.action_space.shape[0]
    if data.discrete or discrete or size != data.action_dim:
        theirs, ours = ("one of {} choices" if d else "{} numbers" for d in (data.discrete, discrete))
        if data.discrete == discrete and size == data.action_dim:
            advice = "agents do not learn from recorded choices yet, only from numbers"
        else:
            advice = "the data are of another task, name it with task=…"
        raise ConfigError(
            f"an action of {name} is {theirs.format(data.action_dim)}, one of {config.task} is {ours.format(size)}: "
            f"{advice}"
        )
    try:
        data.sample(batch_size)
    except ReplayError as error:
        raise ConfigError(f"{name} is too small: {error}") from error


def resume_data(data: Dataset, state: dict[str, Any], name: str) -> None:
    """Restores the sampler of data `name` from `state`, its `state_dict()`.

    Raises:
        CheckpointError: if the data now have other episodes.
    """
    held = data.state_dict()
    if any(held[key] != value for key, value in state.items() if key != "rng"):
        raise CheckpointError(
            f"{name} holds other episodes than when the run was saved: bring the old data back, or start the run anew "
            f"in another run_dir"
        )
    data.rng.bit_generator.state = json.loads(state["rng"])
