"""The configuration of a run: read from conf/, completed for the task, and checked before anything starts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import torch
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from agents import AGENTS, PATHS
from envs import environment_spec, task_name
from rlrep import OBJECTIVES
from rlrep.encoders import PRECISIONS, STRIDES, supports_bfloat16
from rlrep.registry import look_up

# The schedules of DrQ-v2 by difficulty of the task (arXiv 2107.09645, table 4), in agent steps.
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
HARD = {"humanoid_stand", "humanoid_walk", "humanoid_run"}

POSITIVE = (
    "num_eval_episodes",
    "action_repeat",
    "frame_stack",
    "image_size",
    "batch_size",
    "nstep",
    "lr",
    "feature_dim",
    "hidden_dim",
)
POSITIVE_ONLINE = (
    "num_train_frames",
    "num_seed_frames",
    "eval_every_frames",
    "checkpoint_every_frames",
    "num_envs",
    "env_timeout",
    "replay_buffer_size",
)

# Options of agents and objectives whose 0 means something.
MAY_BE_ZERO = {
    "num_expl_steps",
    "pre_activation_weight",
    "stddev_clip",
    "stddev_schedule",
    "policy_noise",
    "cql_weight",
    "inverse_temperature",
    "denoise",
    "codes",
}

# Arguments of agents and objectives that are no options.
GIVEN_BY_US = {"encoder", "action_space", "objectives", "joint", "augment", "return"}

# What may change when a run is resumed; a checkpoint means nothing under another value of the rest. Where the offline
# data lie may: the checkpoint tells what they held.
FREE_ON_RESUME = {
    "resume",
    "run_dir",
    "device",
    "env_timeout",
    "offline.data",
    "offline.cache",
    "num_train_frames",
    "num_eval_episodes",
    "eval_every_frames",
    "save_snapshot",
    "save_video",
    "use_tb",
    "use_wandb",
    "wandb",
}


Config = TypeVar("Config")


class ConfigError(ValueError):
    """A configuration that can't work; the message says what to change."""


@contextmanager
def refusals() -> Iterator[None]:
    """Makes a `ConfigError` of what the parts of a run refuse while they are built: it is the user's to mend."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OSError, ModuleNotFoundError) as error:
        raise ConfigError(str(error)) from error


@dataclass
class EncoderConfig:
    channels: int
    precision: str
    strides: list[int] = field(default_factory=lambda: list(STRIDES))
    out_dim: int | None = None
    path: str | None = None
    freeze: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of `PixelEncoder`, but for the observation's shape."""
        return {name: getattr(self, name) for name in ("channels", "precision", "strides", "out_dim")}


@dataclass
class WandbConfig:
    project: str
    mode: str


@dataclass
class NoiseConfig:
    """Distractors on an environment's pictures; none without a kind."""

    kind: str | None = None
    persistence: float = 1.0
    num_shapes: int = 4
    size: float = 0.25
    background_only: bool = False

    @property
    def options(self) -> dict[str, Any] | None:
        """The keyword arguments of `envs.Noise`; None without noise."""
        return None if self.kind is None else vars(self)


@dataclass
class RunConfig:
    """What every run that trains an agent has, from an environment or from data; checked on construction."""

    task: str
    seed: int
    device: str
    run_dir: str
    resume: bool
    num_eval_episodes: int
    action_repeat: int
    frame_stack: int
    image_size: int
    camera: Any
    rendering: str
    replay_storage: str
    batch_size: int
    nstep: int
    discount: float
    shift: int
    lr: float
    feature_dim: int
    hidden_dim: int
    stddev_schedule: str
    pre_activation_weight: float
    update: str
    path: str
    encoder: EncoderConfig
    objectives: list[str]
    objective: dict[str, Any]
    agent: dict[str, Any]
    save_video: bool
    use_tb: bool
    use_wandb: bool
    wandb: WandbConfig
    noise: NoiseConfig = field(default_factory=NoiseConfig, kw_only=True)
    env: dict[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        for name in (*self.objectives, *self.objective):
            look_up("objective", name, OBJECTIVES)
        self.check_positive(POSITIVE)
        check_options("agent", self.agent_options, look_up("agent", self.agent["algorithm"], AGENTS))
        for name in self.objectives:
            check_options(f"objective.{name}", self.objective.get(name, {}), OBJECTIVES[name])
        if not 0 <= self.shift < self.image_size:
            raise ConfigError(f"shift must lie in 0..{self.image_size - 1}, less than the image, got {self.shift}")
        if self.agent_options.get("critic_target_tau", 0) > 1:
            raise ConfigError(f"agent.critic_target_tau must be at most 1, got {self.agent['critic_target_tau']}")
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, got {self.seed}")
        if len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(f"objectives names one twice: {', '.join(self.objectives)}")
        if self.replay_storage.startswith("cuda") and not self.device.startswith("cuda"):
            raise ConfigError(f"replay_storage={self.replay_storage} needs device=cuda, this run has {self.device}")
        if not self.replay_storage.startswith("cuda"):
            check_choice("replay_storage", self.replay_storage, ("auto", "memory", "disk", "cuda"))
        check_choice("update", self.update, ("separate", "joint"))
        check_choice("path", self.path, tuple(PATHS))
        check_choice("encoder.precision", self.encoder.precision, tuple(PRECISIONS))
        if self.path == "eager" and self.encoder.precision != "float32":
            raise ConfigError(f"path=eager is float32 throughout, not encoder.precision={self.encoder.precision}")
        check_choice("wandb.mode", self.wandb.mode, ("online", "offline"))

    def check_positive(self, names: Iterable[str]) -> None:
        for name in names:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be greater than 0, got {getattr(self, name)}")

    @property
    def agent_options(self) -> dict[str, Any]:
        """The keyword arguments of the agent."""
        return {name: value for name, value in self.agent.items() if name not in ("name", "algorithm")}

    @property
    def horizon(self) -> int:
        """The longest of the objectives' horizons; 0 if none looks ahead."""
        return longest_horizon(self.objectives, self.objective)


@dataclass
class OfflineShareConfig:
    """Finished data that an online run learns from as well."""

    data: str | None = None
    share: float = 0.5
    skip_corrupt: bool = False
    cache: str | None = None


@dataclass
class TrainConfig(RunConfig):
    """Every value of a run, see conf/config.yaml for what each means; checked on construction."""

    num_train_frames: int
    num_seed_frames: int
    eval_every_frames: int
    checkpoint_every_frames: int
    num_envs: int
    replay_buffer_size: int
    save_snapshot: bool
    env_timeout: float = 60.0
    init: str | None = None
    offline: OfflineShareConfig = field(default_factory=OfflineShareConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive(POSITIVE_ONLINE)
        if not 0 <= self.offline.share < 1:
            raise ConfigError(f"offline.share must be at least 0 and less than 1, got {self.offline.share}")
        before_updates = self.num_seed_frames // self.action_repeat
        if before_updates < self.batch_size:
            raise ConfigError(
                f"batch_size={self.batch_size} is larger than the data at the first update, {before_updates} "
                f"transitions (num_seed_frames={self.num_seed_frames} at action_repeat={self.action_repeat}): make "
                f"batch_size smaller or num_seed_frames at least {self.batch_size * self.action_repeat}"
            )
        if self.num_seed_frames >= self.num_train_frames:
            raise ConfigError(
                f"num_seed_frames={self.num_seed_frames} leaves no update within "
                f"num_train_frames={self.num_train_frames}: make num_train_frames larger, or num_seed_frames smaller"
            )
        if self.init is not None and self.encoder.path is not None:
            raise ConfigError(
                f"init={self.init} brings its encoder, encoder={self.encoder.path} is another: leave one of them out"
            )

    def check_episode(self, episode_steps: float) -> None:
        """Refuses windows and replays that do not fit episodes of `episode_steps` agent steps."""
        if episode_steps == float("inf"):
            raise ConfigError(
                f"{self.task} has no time limit: its evaluations would not end. Give it one, env.max_episode_steps=1000"
            )
        for name, steps in {"nstep": self.nstep, "horizon": self.horizon}.items():
            if steps > episode_steps:
                raise ConfigError(
                    f"{name}={steps} is longer than an episode of {self.task}, {episode_steps:g} agent steps at "
                    f"action_repeat={self.action_repeat}: make it smaller"
                )
        window = max(self.nstep, self.horizon)
        if self.num_seed_frames / self.num_envs < self.action_repeat * window:
            raise ConfigError(
                f"num_seed_frames={self.num_seed_frames} over {self.num_envs} environments is less than one window of "
                f"{window} agent steps: make it larger"
            )
        # An episode of T transitions takes T + 1 rows; its start may have left the ring, and its end be still to come.
        transitions = self.replay_buffer_size * episode_steps / (episode_steps + 1) - 2 * self.num_envs
        if transitions < self.batch_size or self.replay_buffer_size / self.num_envs < 2 * (window + self.frame_stack):
            raise ConfigError(
                f"replay_buffer_size={self.replay_buffer_size} is too small for batch_size={self.batch_size} and "
                f"windows of {window} agent steps in each of {self.num_envs} environments: make it larger"
            )


def complete(composed: DictConfig) -> TrainConfig:
    """The checked configuration, with the literature's values for what is null and this machine's for what is auto.

    Raises:
        ConfigError: for impossible values.
        ValueError: for unknown names, with the nearest known ones.
    """
    config = OmegaConf.create(OmegaConf.to_container(composed))
    assert isinstance(config, DictConfig)
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
        config.num_seed_frames = max(4000, int(config.batch_size) * int(config.action_repeat))
    if config.offline.data is not None:
        config.offline.data = located(str(config.offline.data))
    settle(config)
    return typed_as(TrainConfig, config)


def settle(config: DictConfig) -> None:
    """This machine's values for what is auto, and a name for the agent that says which losses it has; in place.

    The name is the run's in its folder and in plots.
    """
    added = [name for name in config.objectives if name != config.agent.name]
    if config.get("init"):
        added.append("init")
    if config.encoder.path or config.encoder.freeze:
        added.append("frozen" if config.encoder.freeze else "pretrained")
    config.agent.name = "+".join([config.agent.name, *added])
    config.device = resolve_device(str(config.device))
    if config.encoder.precision == "auto":
        faster = config.path != "eager" and supports_bfloat16(config.device)
        config.encoder.precision = "bfloat16" if faster else "float32"


def longest_horizon(objectives: Sequence[str], options: Mapping[str, Any]) -> int:
    return max((options.get(name, {}).get("horizon", 0) for name in objectives), default=0)


def typed_as(schema: type[Config], config: DictConfig) -> Config:
    """The values of `config`, checked."""
    try:
        typed = OmegaConf.merge(OmegaConf.structured(schema), config)
        OmegaConf.resolve(typed)
        built = OmegaConf.to_object(typed)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration does not fit: {explanation(error)}") from error
    assert isinstance(built, schema)
    return built


def check_precision(config: RunConfig) -> None:
    """Refuses to begin a run in bfloat16 where that is no faster; one that was begun elsewhere can be gone on with."""
    if config.encoder.precision == "bfloat16" and not supports_bfloat16(config.device):
        raise ConfigError(
            f"encoder.precision=bfloat16, but {config.device} here computes it no faster than float32 (that takes a "
            f"processor with AMX or AVX512-BF16, or a GPU of compute capability 8.0): use encoder.precision=auto or "
            f"float32"
        )


def explanation(error: Exception) -> str:
    """OmegaConf's error in one line: the key, and what is wrong with it."""
    first_line = str(error).partition("\n")[0]
    key = getattr(error, "full_key", None)
    return f"{key}: {first_line}" if key else first_line


def check_same(config: Any, saved: Any, folder: object, free: Set[str]) -> None:
    """Refuses to go on with a run of another configuration, but for what is `free`.

    Raises:
        ConfigError: with what differs.
    """
    different = differences(config, saved, free)
    if different:
        raise ConfigError(
            f"{folder} holds a run of another configuration: {'; '.join(different)}. Resume with the run's values, "
            f"or choose another run_dir"
        )


def useful_replay_size(config: TrainConfig, wanted: int) -> int:
    """`wanted` rows of a replay, but no more than `num_train_frames` can fill."""
    rows = config.num_train_frames // config.action_repeat
    # One more row an episode, and a few more for the environments that share it.
    return min(wanted, rows + rows // 50 + 100 * config.num_envs)


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    look_up(name, value, dict.fromkeys(known))


def check_options(section: str, options: Mapping[str, Any], built: type) -> None:
    """Refuses keyword arguments that the class `built` does not have, of another type, or numbers that are too small.

    Raises:
        ConfigError: naming the option, what it is and what it should be.
    """
    hints = {name: hint for name, hint in arguments_of(built).items() if name not in GIVEN_BY_US}
    for name, value in options.items():
        hint = look_up(f"option of {section}", name, hints)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        takes_float = hint is float or float in get_args(hint)
        fits = (number and takes_float) or (isinstance(value, hint) and (number or hint is not int))
        if not fits:
            raise ConfigError(f"{section}.{name} must be {getattr(hint, '__name__', hint)}, got {value!r}")
        least = "at least" if name in MAY_BE_ZERO else "greater than"
        if number and not (value > 0 or (value == 0 and name in MAY_BE_ZERO)):
            raise ConfigError(f"{section}.{name} must be {least} 0, got {value}")


def arguments_of(built: type) -> dict[str, Any]:
    """The arguments of a class and their types; where it hands others on, `**options`, those of its base too."""
    hints: dict[str, Any] = {}
    for each in built.__mro__:
        if "__init__" in vars(each):
            hints = get_type_hints(each.__init__) | hints  # type: ignore[misc]
            hands_on = [p for p in signature(each.__init__).parameters.values() if p.kind is p.VAR_KEYWORD]  # type: ignore[misc]
            if not hands_on:
                return hints
            hints.pop(hands_on[0].name, None)
    return hints


def located(name: str) -> str:
    """A file or folder by its absolute path, `~` included; what is neither, such as the id of a Minari data set, as it
    is."""
    path = os.path.abspath(to_absolute_path(os.path.expanduser(name)))
    return path if os.path.exists(path) else name


def check_task(name: str) -> None:
    """Refuses a task that is neither one of ours nor the id of a known Gymnasium environment."""
    environment_spec(name)


def check_env(env: Mapping[str, Any], settings: Set[str]) -> None:
    """Refuses keyword arguments of an environment that are `settings` of the run itself, or that the run makes."""
    for name in sorted(settings & env.keys()):
        raise ConfigError(f"env.{name} is a setting of the run itself: give {name}=… instead")
    for name in sorted({"task", "seed", "processes", "timeout", "render_mode"} & env.keys()):
        raise ConfigError(f"env.{name} is set by the run itself: leave it out")


def resolve_device(device: str) -> str:
    """What "auto" means here; any other name is checked."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind, index = torch.device(device).type, torch.device(device).index or 0
    except RuntimeError:
        kind, index = "unknown", 0
    if kind not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device={device} is not a device to train on: use auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and index >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "no CUDA device"
        raise ConfigError(f"device={device}, but PyTorch finds {found} here: use another, or device=cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device={device}, but PyTorch finds no MPS device here: use device=cpu")
    return device


def as_dict(config: Any) -> dict[str, Any]:
    """The values of a configuration, which is a dataclass, as YAML holds them."""
    plain = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def load(path: Path) -> TrainConfig:
    """The configuration that a run's folder holds."""
    return load_as(TrainConfig, path)


def load_as(schema: type[Config], path: Path) -> Config:
    """The configuration in the file at `path`."""
    if not path.exists():
        raise ConfigError(f"{path.parent} is not a run: it has no {path.name}")
    try:
        built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(path)))
    except (OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is damaged or from another version: {explanation(error)}") from error
    assert isinstance(built, schema)
    return built


def differences(ours: Any, saved: Any, free: Set[str]) -> list[str]:
    """What differs between two configurations of one run, but for what is `free`."""
    new, old = flat(as_dict(ours)), flat(as_dict(saved))
    return [
        f"{name}={new.get(name)} (the run has {old.get(name)})"
        for name in new | old
        if not {name, name.partition(".")[0]} & free and new.get(name) != old.get(name)
    ]


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`: names as they are typed in overrides."""
    out: dict[str, Any] = {}
    for name, value in nested.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return out
