"""The configuration of a run in an environment: read from conf/, completed for the task, and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlrep import Window
from rlrep.agents import find_agent
from rlrep.envs import TASKS, task_name
from rlrep.experiments.run.config import RunConfig, settle
from rlrep.experiments.run.config_file import load_as, register, typed_as
from rlrep.experiments.run.learner_options import defaults_of
from rlrep.experiments.run.names import as_folder, import_modules, located, short_name
from rlrep.experiments.run.options import ConfigError, defaults, option, section
from rlrep.experiments.run.sections import OfflineShareConfig
from rlrep.experiments.yaml_files import value_of

# DrQ-v2's schedules by difficulty of the task (arXiv 2107.09645, table 4), in agent steps.
EASY = {
    "cartpole_balance",
    "cartpole_balance_sparse",
    "cartpole_swingup",
    "cup_catch",
    "ball_in_cup_catch",
    "finger_spin",
    "hopper_stand",
    "pendulum_swingup",
    "walker_stand",
    "walker_walk",
}
# TACO's code has the last one.
HARD = {"humanoid_stand", "humanoid_walk", "humanoid_run", "manipulator_bring_ball"}
SHORTEST = 50  # agent steps of an episode of dm_control; other tasks may end at once


@dataclass
class TrainConfig(RunConfig):
    """Every option of a run in an environment; checked on construction."""

    num_train_frames: int = option(1_000_000, "length of the run, in simulator steps", above=0, free=True)
    num_seed_frames: int = option(
        None, "before the first update: 4000, with agent=mrq those that explore, or one batch if that is more", above=0
    )
    eval_every_frames: int = option(20_000, "simulator steps between evaluations", above=0, free=True)
    checkpoint_every_frames: int = option(20_000, "simulator steps between checkpoints", above=0)
    num_envs: int = option(1, "environments side by side, each in its own process", above=0)
    env_timeout: float = option(
        60.0,
        "seconds without an answer before such a process counts as dead; five times that to start",
        above=0,
        free=True,
    )
    replay_buffer_size: int = option(1_000_000, "frames in the replay; reserved on disk when the run starts", above=0)
    batch_size: int = option(None, "rows of a batch: 512 for walker, 256 for the other tasks", above=0)
    nstep: int = option(None, "n of the n-step targets: 1 for walker, 3 for the other tasks", above=0)
    save_snapshot: bool = option(False, "also keep each checkpoint as checkpoints/FRAME.pt", free=True)
    init: str | None = option(None, "folder of the run with the initial agent: offline to online", path=True)
    offline: OfflineShareConfig = section(needs=("offline.data", "init"))

    def __post_init__(self) -> None:
        super().__post_init__()
        before_updates = self.num_seed_frames // self.action_repeat
        for name, size in self.batch_sizes.items():
            if before_updates < size:
                raise ConfigError(
                    f"{name}={size} is larger than the data at the first update, {before_updates} transitions "
                    f"(num_seed_frames={self.num_seed_frames} at action_repeat={self.action_repeat}): make it smaller, "
                    f"or num_seed_frames at least {size * self.action_repeat}"
                )
        if self.num_seed_frames >= self.num_train_frames:
            raise ConfigError(
                f"num_seed_frames={self.num_seed_frames} leaves no update within "
                f"num_train_frames={self.num_train_frames}: make num_train_frames larger, or num_seed_frames smaller"
            )
        steps = (self.num_train_frames - self.num_seed_frames) / self.action_repeat
        updates = int(steps / self.agent_options.get("update_every_steps", 1)) + 1
        if self.agent_options.get("target_every", 1) > updates:
            raise ConfigError(
                f"agent.target_every={self.agent['target_every']} is longer than the run, which has {updates} updates: "
                f"make it smaller, or num_train_frames larger"
            )
        if self.agent.get("learns_from") == "data" and not (self.init or self.offline.data):
            raise ConfigError(
                f"{self.agent['algorithm']} learns from finished data, and this run has none: give offline.data=PATH "
                f"or init=RUN, or choose agent=taco, drqv2 or sac"
            )
        if self.init is not None and self.encoder.path is not None:
            raise ConfigError(
                f"init={self.init} brings its encoder, encoder={self.encoder.path} is another: leave one of them out"
            )

    @classmethod
    def idle(cls, plain: Mapping[str, Any]) -> dict[str, str]:
        found = super().idle(plain)
        if value_of(plain, "num_envs") == 1:
            found["env_timeout"] = "without num_envs=2 or more: one environment has no process of its own"
        if value_of(plain, "init"):
            found["agent.num_expl_steps"] = "with init, whose agent has explored already"
        return found

    @property
    def batch_sizes(self) -> dict[str, int]:
        """The rows of all batches, by the option that sets them."""
        own = {short_name(name): self.objective.get(name, {}).get("batch_size") for name in self.objectives}
        sizes = {f"objective.{name}.batch_size": size for name, size in own.items() if size is not None}
        return {"batch_size": self.batch_size} | sizes

    @property
    def useful_replay_size(self) -> int:
        """Rows of the replay, at most as many as `num_train_frames` can fill."""
        rows = self.num_train_frames // self.action_repeat
        shortest = SHORTEST if self.task in TASKS else 1
        # One more row per episode, and a few more for the environments that share it.
        return min(self.replay_buffer_size, rows + rows // shortest + 100 * self.num_envs)

    def check_episode(self, episode_steps: float, windows: Mapping[str, Window]) -> None:
        """Refuses windows and replays that do not fit the episodes.

        Args:
            episode_steps: agent steps of an episode.
            windows: the windows by their readers.
        """
        if episode_steps == float("inf"):
            raise ConfigError(
                f"{self.task} has no time limit: its evaluations would not end. Give it one, env.max_episode_steps=1000"
            )
        for learner, window in windows.items():
            if window.span + window.lookback > episode_steps:
                raise ConfigError(
                    f"{learner} reads {window.reach}, and an episode of {self.task} has {episode_steps:g} agent steps "
                    f"at action_repeat={self.action_repeat}: make its nstep or horizon smaller"
                )
        steps = max(window.span + window.lookback for window in windows.values())
        if self.num_seed_frames / self.num_envs < self.action_repeat * steps:
            raise ConfigError(
                f"num_seed_frames={self.num_seed_frames} over {self.num_envs} environments is less than one window of "
                f"{steps} agent steps: make it larger"
            )
        # An episode of T transitions takes T + 1 rows; its start may have left the ring, and its end may be missing.
        transitions = self.replay_buffer_size * episode_steps / (episode_steps + 1) - 2 * self.num_envs
        largest = max(self.batch_sizes.values())
        if transitions < largest or self.replay_buffer_size / self.num_envs < 2 * (steps + self.frame_stack):
            raise ConfigError(
                f"replay_buffer_size={self.replay_buffer_size} is too small for batch_size={largest} and "
                f"windows of {steps} agent steps in each of {self.num_envs} environments: make it larger"
            )


def complete(composed: DictConfig) -> TrainConfig:
    """The checked configuration, with the literature's values for null and this machine's values for "auto".

    Raises:
        ConfigError: for impossible values.
        ValueError: for unknown names, with the nearest known ones.
    """
    config = OmegaConf.create(OmegaConf.to_container(composed))
    assert isinstance(config, DictConfig)
    import_modules(config.imports)
    config.task = task_name(str(config.task))
    walker = config.task.startswith("walker")
    duration = 100_000 if config.task in EASY else 2_000_000 if config.task in HARD else 500_000
    usual = {
        "nstep": 1 if walker else 3,
        "batch_size": 512 if walker else 256,
        "stddev_schedule": f"linear(1.0,0.1,{duration})",
    }
    for name, value in usual.items():
        if config[name] is None:
            config[name] = value
    if config.num_seed_frames is None:
        kind = find_agent(str(config.agent.algorithm))
        exploring = (defaults_of(kind) | dict(config.agent)).get("num_expl_steps", 0)
        explored = int(exploring) * int(config.action_repeat) if kind.waits_for_exploration else 4000
        config.num_seed_frames = max(explored, int(config.batch_size) * int(config.action_repeat))
    if config.offline.data is not None:
        config.offline.data = located(str(config.offline.data))
    settle(config)
    if config.run_dir is None:
        config.run_dir = f"runs/{as_folder(config.task)}/{as_folder(config.agent.name)}/seed_{config.seed}"
    return typed_as(TrainConfig, config)


def load(path: Path) -> TrainConfig:
    """The configuration in a run's folder."""
    return load_as(TrainConfig, path)


register("train_options", defaults(TrainConfig))
