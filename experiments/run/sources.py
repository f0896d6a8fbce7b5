"""The sources of a pre-training's pairs: videos and episode files, or an environment played at random."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import to_absolute_path

from rlrep.data import EpisodeDataset, open_video
from rlrep.data.decode import WithoutActions
from rlrep.data.record import Recorded, Recorder, gathered
from rlrep.envs import EpisodeSeeds, make_env, task_name
from rlrep.experiments.run.config import check_env
from rlrep.experiments.run.data import format_of
from rlrep.experiments.run.log import Progress, reading
from rlrep.experiments.run.names import located
from rlrep.experiments.run.options import ConfigError
from rlrep.experiments.run.played import PlayedEpisodes
from rlrep.experiments.run.pretrain_config import ENVIRONMENT, PretrainConfig

PLAYED = "played"  # a folder in the run's folder
ACTIONS = 1  # the last part of the seeds of random actions


def open_source(config: PretrainConfig, folder: Path, actions: bool) -> tuple[EpisodeDataset, EpisodeDataset]:
    """Training and validation data; from files with actions if `actions`. The run's `folder` stores played episodes.

    Raises:
        ConfigError, ValueError, OSError, ModuleNotFoundError: if a source can't be opened.
    """
    if config.streams:
        return split(play(config, folder / PLAYED), config)
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
    with reading(config.source) as progress:
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
            progress=progress,
        )


def split(data: EpisodeDataset, config: PretrainConfig) -> tuple[EpisodeDataset, EpisodeDataset]:
    """Splits off whole episodes for validation; with one episode, its last frames.

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


def play(config: PretrainConfig, folder: Path, state: bool = False) -> EpisodeDataset:
    """Plays `num_frames` frames of an environment under random actions, with noise if configured. `folder` stores whole
    episodes, which are not played again; with `state`, which it does not store, it must be empty.

    Raises:
        ValueError: with `state`, if some episodes lack it.
    """
    options = {"frame_stack": config.frame_stack, "max_gap": config.horizon, "seed": config.seed}
    episodes = played(config, folder)
    if not state:
        episodes = ({name: rows[name] for name in rows.keys() & {"frame", "action"}} for rows in episodes)
    return gathered(episodes, config.num_frames, **options)


def played(config: PretrainConfig, folder: Path) -> Iterator[Recorded]:
    """Episodes with `num_frames` frames in total; the last one is cut."""
    name = task_name(config.source.removeprefix(ENVIRONMENT))
    settings = {"task": name, "num_frames": config.num_frames, "seed": config.seed, **arguments(config)}
    settings["noise"] = config.noise.settings
    kept = PlayedEpisodes(folder, settings)
    frames = number = 0
    while frames < config.num_frames and (rows := kept.read(number, config.num_frames - frames)) is not None:
        yield rows
        frames, number = frames + len(rows["frame"]), number + 1
    if frames == config.num_frames:
        return
    with (
        closing(make(name, config)) as env,
        closing(Progress(f"playing {name}", config.num_frames, frames, "frame")) as bar,
    ):

        def act(_: np.ndarray) -> Any:
            bar.advance(bar.count + 1)
            return env.action_space.sample()

        recorder = Recorder(env, act, config.image_size)
        while frames < config.num_frames:
            # Each episode has its own seeds: it does not depend on earlier episodes.
            seeds = np.random.SeedSequence([config.seed, number, ACTIONS])
            env.action_space.seed(seeds.generate_state(1, np.uint64).item())
            rows = recorder.episode(config.num_frames - frames, options={"episode": number})
            kept.write(number, rows)
            yield rows
            frames, number = frames + len(rows["frame"]), number + 1
            bar.advance(frames)


def make(name: str, config: PretrainConfig) -> EpisodeSeeds:
    """Makes an environment by its task or Gymnasium id, with single frames.

    Raises:
        ConfigError: for an argument of the environment that the run itself sets.
        ValueError, ModuleNotFoundError: as `rlrep.envs.make_env` does.
    """
    options = arguments(config)
    noise = config.noise.options(options["image_size"])
    return make_env(task_name(name), seed=config.seed, **options, noise=noise)


def arguments(config: PretrainConfig) -> dict[str, Any]:
    """The environment's arguments, without noise."""
    check_env(config.env, {"noise"})
    return {"image_size": config.image_size, "frame_stack": 1} | config.env
