"""Where a pre-training's pairs come from: videos and episode files, or an environment played at random."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
from hydra.utils import to_absolute_path

from rlrep.data import EpisodeDataset, open_video, record
from rlrep.data.decode import WithoutActions
from rlrep.envs import pixel_env, task_name
from rlrep.experiments.run.config import check_env
from rlrep.experiments.run.data import format_of
from rlrep.experiments.run.log import Progress
from rlrep.experiments.run.names import located
from rlrep.experiments.run.options import ConfigError
from rlrep.experiments.run.pretrain_config import ENVIRONMENT, PretrainConfig


def open_source(config: PretrainConfig, actions: bool) -> tuple[EpisodeDataset, EpisodeDataset]:
    """Training and validation data; of files, with actions if `actions`.

    Raises:
        ConfigError, ValueError, OSError, ModuleNotFoundError: for what can't be opened.
    """
    if config.streams:
        return split(play(config), config)
    if not actions:
        return split(watch(config, actions=False), config)
    try:
        return split(watch(config, actions=True), config)
    except WithoutActions as error:
        raise ConfigError(
            f"objective={config.objective} reads actions: {error}. Use data recorded with actions (the folder of a "
            f"run, .npz, HDF5, Minari or LeRobot episodes with actions, or source={ENVIRONMENT}TASK), or "
            f"temporal_contrastive, forward_model or autoencoder for video alone"
        ) from error


def watch(config: PretrainConfig, actions: bool) -> EpisodeDataset:
    """Videos and episode files."""
    return open_video(
        located(config.source),
        image_size=config.image_size,
        frame_stack=config.frame_stack,
        max_gap=config.horizon,
        cache=None if config.cache is None else to_absolute_path(config.cache),
        skip_corrupt=config.skip_corrupt,
        channels_last=config.channels_last,
        frame_channels=config.frame_channels,
        seed=config.seed,
        fps=config.fps,
        mixed_sizes=config.mixed_sizes,
        actions=actions,
        format=format_of(config),
    )


def split(data: EpisodeDataset, config: PretrainConfig) -> tuple[EpisodeDataset, EpisodeDataset]:
    """Whole episodes for validation; the last frames where there is but one episode.

    Raises:
        ConfigError: for one episode that is too short for both.
    """
    if data.num_episodes > 1:
        return data.split(config.validation_fraction, config.seed)
    first, end = data.episodes[0]
    frames = end - first
    held_out = max(round(config.validation_fraction * frames), config.horizon + 1)
    if frames - held_out <= config.horizon:
        raise ConfigError(
            f"{config.source} holds one episode of {frames} frames; to train and to validate on pairs horizon="
            f"{config.horizon} steps apart it takes {2 * config.horizon + 2}: choose a smaller horizon, or more video"
        )
    cut = EpisodeDataset(
        data.frames[first:end],
        [frames - held_out, held_out],
        action=None if data.action is None else data.action[first:end],
        frame_stack=config.frame_stack,
        max_gap=config.horizon,
        seed=config.seed,
    )
    return cut.select(np.array([0])), cut.select(np.array([1]))


def play(config: PretrainConfig) -> EpisodeDataset:
    """`num_frames` frames of an environment, with noise if there is to be any, under random actions."""
    name = config.source.removeprefix(ENVIRONMENT)
    with closing(make(name, config)) as env:
        progress = Progress(f"playing {name}", config.num_frames, 0, "frame")

        def act(_: np.ndarray) -> Any:
            progress.advance(min(progress.count + 1, config.num_frames))
            return env.action_space.sample()

        with closing(progress):
            data = record(
                env,
                act,
                config.num_frames,
                image_size=config.image_size,
                frame_stack=config.frame_stack,
                max_gap=config.horizon,
                seed=config.seed,
            )
            progress.advance(config.num_frames)
    return data


def make(name: str, config: PretrainConfig) -> gym.Env[Any, Any]:
    """An environment by its task or Gymnasium id, showing single frames.

    Raises:
        ConfigError: for an argument of the environment that the run itself sets.
        ValueError, ModuleNotFoundError: as `rlrep.envs.pixel_env` does.
    """
    check_env(config.env, {"noise"})
    options = {"image_size": config.image_size, "frame_stack": 1} | config.env
    return pixel_env(task_name(name), **options, noise=config.noise.options(options["image_size"]))
