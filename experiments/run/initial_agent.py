"""Starts a run from another run's agent: init=FOLDER, from offline to online."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from hydra.utils import to_absolute_path

from rlrep.agents import Agent
from rlrep.agents.schedule import parse_schedule
from rlrep.experiments.run.checkpoint import CHECKPOINT, CONFIG, fitting, load_checkpoint
from rlrep.experiments.run.config import RunConfig
from rlrep.experiments.run.offline_config import OfflineConfig, load
from rlrep.experiments.run.options import ConfigError, options_of, shown
from rlrep.experiments.run.sections import ARCHITECTURE, FilesConfig
from rlrep.experiments.run.train_config import TrainConfig
from rlrep.experiments.yaml_files import differences, flat, value_of
from rlrep.kept import forget_embeddings

# Options that weights and optimizers depend on; all others may change.
OBSERVATION = ("task", "action_repeat", "frame_stack", "image_size", "camera")
SHAPES = ("latent_actions", "codes")  # and all options that end in _dim


def settle_agent(config: TrainConfig, saved: TrainConfig | None) -> None:
    """Adapts a run, in place, to its initial agent. This agent has already explored, so it acts from the start, with
    the final noise of its schedule. If it comes from an offline run, the new run also uses that run's data.

    Raises:
        ConfigError: if the agent is missing or differs from the run's.
    """
    if config.init is None:
        return
    config.init = to_absolute_path(config.init)
    config.agent["num_expl_steps"] = 0
    if (schedule := config.agent.get("stddev_schedule")) is not None:
        config.agent["stddev_schedule"] = config.stddev_schedule = f"{parse_schedule(schedule)(inf):g}"
    if saved is not None and saved.init == config.init:  # the folder may be deleted now
        take_data(config, saved.offline.data, saved.offline)
        return
    initial = load(Path(config.init) / CONFIG)
    if isinstance(initial, OfflineConfig):
        take_data(config, initial.dataset, initial)
    there, here = ({"noise": each.noise.settings, "env": each.env} for each in (initial, config))
    if changed := differences(there, here):
        of_init, own = (" ".join(f"{name}={shown(pair[i])}" for name, pair in changed.items()) for i in (0, 1))
        print(f"note: init={config.init} has {of_init}, this run {own}: its environment is another", file=sys.stderr)
    ours, theirs = described(config), described(initial)
    different = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    if different:
        raise ConfigError(
            f"init={config.init} holds another agent than this run's: it has "
            f"{' '.join(f'{name}={shown(theirs[name])}' for name in different)}, this run "
            f"{' '.join(f'{name}={shown(ours[name])}' for name in different)}. Give the run the values of init"
        )


def take_data(config: TrainConfig, data: str | None, source: FilesConfig) -> None:
    """Gives a run without data of its own another run's, read with its options where none are given; in place."""
    if config.offline.data is None:
        given = {name: getattr(config.offline, name) for name in options_of(FilesConfig)}
        read_alike = {name: value or getattr(source, name) for name, value in given.items()}
        config.offline = replace(config.offline, data=data, **read_alike)


def brings_data(plain: Mapping[str, Any]) -> bool:
    """Whether a run, as typed, uses finished data in addition to online data: its own, or those of `init`. True if this
    is not yet known."""
    init = value_of(plain, "init")
    if init is None or value_of(plain, "offline.data") is not None:
        return True
    try:
        initial = load(Path(to_absolute_path(init)) / CONFIG)
    except (ValueError, OSError):
        return True  # the reader reports errors in it later, unless a run resumes without it
    return isinstance(initial, OfflineConfig)


def described(config: RunConfig) -> dict[str, object]:
    """The values that must agree for a run to continue another's agent, by the names in overrides."""
    encoder = {f"encoder.{name}": getattr(config.encoder, name) for name in (*ARCHITECTURE, "freeze")}
    options = flat({"agent": config.agent_options})
    options |= flat({"objective": {name: config.objective.get(name, {}) for name in config.objectives}})
    shapes = {
        name: value for name, value in options.items() if name.endswith("_dim") or name.rpartition(".")[2] in SHAPES
    }
    observation = {name: getattr(config, name) for name in OBSERVATION}
    agent = {"agent": config.agent["algorithm"], "objectives": config.objectives, "update": config.update}
    return observation | agent | encoder | shapes


def load_agent(agent: Agent, folder: Path) -> None:
    """Loads weights and optimizers of the agent in the run `folder` into `agent`; its step sizes do not change.

    Raises:
        CheckpointError: if the run has no checkpoint, or it does not fit.
    """
    path = folder / CHECKPOINT
    state = load_checkpoint(path, agent.device)
    groups = [group for optimizer in agent.optimizers.values() for group in optimizer.param_groups]
    step_sizes = [group["lr"] for group in groups]
    with fitting(path):
        agent.load_state_dict(state["agent"])
    groups = [group for optimizer in agent.optimizers.values() for group in optimizer.param_groups]
    for group, lr in zip(groups, step_sizes, strict=True):
        group["lr"] = lr
    forget_embeddings(agent)  # they are of the other run's replay
