"""The configuration of a run: read from conf/, completed for the task, and checked before anything starts."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import torch
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf

from agents import PATHS, find_agent
from envs import environment_spec, task_name
from experiments.run.config_file import load_as, register, typed_as
from experiments.run.options import ConfigError, check, is_a, option, section, value_of
from rlrep import OBJECTIVES, Objective, Window
from rlrep.encoders import ACTIVATIONS, PRECISIONS, supports_bfloat16
from rlrep.objectives import find_objective
from rlrep.registry import look_up, parameters_of

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

# Options of agents and objectives whose 0 means something.
MAY_BE_ZERO = {
    "num_expl_steps",
    "pre_activation_weight",
    "stddev_clip",
    "policy_noise",
    "cql_weight",
    "inverse_temperature",
    "denoise",
    "codes",
    "prediction",
    "reward",
    "termination",
    "contrast",
    "momentum",
    "noise",
    "noise_clip",
    "weight_decay",
    "value_grad_clip",
}

# What a choice of agent says beside its options: its name in plots, its class, and what it is made for.
OF_THE_CHOICE = ("name", "algorithm", "learns_from")

# The keyword arguments of `PixelEncoder` that say what its weights are for.
ARCHITECTURE = ("channels", "strides", "out_dim", "activation")

# Settings of the noise that kind=pixels has no use for.
OF_SHAPES = ("num_shapes", "background_only")

# Arguments of agents and objectives that are no options.
GIVEN_BY_US = {"encoder", "action_space", "objectives", "joint", "augment", "batch_size", "n_step"}

# What may change when a run is resumed; a checkpoint means nothing under another value of the rest. Where the offline
# data lie may: the checkpoint tells what they held.
FREE_ON_RESUME = frozenset(
    {
        "resume",
        "imports",
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
)


@contextmanager
def refusals() -> Iterator[None]:
    """Makes a `ConfigError` of what the parts of a run refuse while they are built: users can fix it."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OSError, ModuleNotFoundError) as error:
        raise ConfigError(str(error)) from error


def objective_defaults() -> dict[str, dict[str, Any]]:
    """The options of every objective, as its class has them; the sizes of heads are the run's."""
    return {name: defaults_of(kind) for name, kind in OBJECTIVES.items()}


def defaults_of(built: type, shared: tuple[str, ...] = ("feature_dim", "hidden_dim")) -> dict[str, Any]:
    """The options of an objective's or agent's class with their defaults; those of `shared` follow the run's."""
    hints = arguments_of(built)
    # An objective's batch is its owner's unless it has a size.
    out: dict[str, Any] = {"batch_size": None} if issubclass(built, Objective) else {}
    for name, parameter in parameters_of(built).items():
        if name in GIVEN_BY_US or name == "frame_channels" or parameter.default is parameter.empty:
            continue
        out[name] = f"${{{name}}}" if name in shared and hints[name] in (int, float) else parameter.default
    return out


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
        "folder of an encoder that experiments.pretrain made, which the run starts from (encoder=FOLDER)",
        path=True,
    )
    freeze: bool = option(False, "nothing trains the encoder", needs=("encoder.path", "init"))


@dataclass
class WandbConfig:
    project: str | None = option(None, "null is $WANDB_PROJECT, or rlrep", needs=("use_wandb",))
    mode: str | None = option(
        None, "null is $WANDB_MODE, or online", choices=("online", "offline", "disabled"), needs=("use_wandb",)
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
        needs=("noise.kind",),
    )
    num_shapes: int = option(4, "how many", above=0, needs=("noise.kind",))
    size: float = option(
        0.25,
        "of a shape, as a share of the image's side; of a pixel's offset, of 255",
        above=0,
        needs=("noise.kind",),
    )
    background_only: bool = option(
        False, "shapes cover dark pixels only, as on a black background", needs=("noise.kind",)
    )

    @property
    def options(self) -> dict[str, Any] | None:
        """The keyword arguments of `envs.Noise`; None without noise."""
        if self.kind is None:
            return None
        return {name: value for name, value in vars(self).items() if self.kind == "shapes" or name not in OF_SHAPES}


@dataclass
class AnyRunConfig:
    """What every run has; checked on construction."""

    seed: int = option(1, "of everything that is random", least=0, most=2**63 - 1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, …")
    run_dir: str = option(None, "folder of the run", path=True)
    resume: bool = option(False, "continue the run in run_dir where it stopped; start it if there is none")
    imports: list[str] = option([], "modules to import first, which may register what the other options name")
    image_size: int = option(84, "height and width of a frame in pixels", above=0, most=2048)
    frame_stack: int = option(3, "frames in an observation", above=0)
    noise: NoiseConfig = section("distractors on the environment's pictures")
    batch_size: int = option(256, "rows of a batch", above=0)
    lr: float = option(1e-4, "step size of Adam", above=0)
    shift: int = option(4, "pixels that images are shifted by at most, at random", least=0)
    use_wandb: bool = option(False, "log to Weights & Biases")
    wandb: WandbConfig = section("Weights & Biases")

    def __post_init__(self) -> None:
        check(self)
        if not self.shift < self.image_size:
            raise ConfigError(f"shift must be less than image_size={self.image_size}, got {self.shift}")


@dataclass
class RunConfig(AnyRunConfig):
    """What every run that trains an agent has, from an environment or from data."""

    task: str = option(
        "quadruped_run", "of dm_control (python -c 'import envs; print(*envs.TASKS)'), or a Gymnasium id"
    )
    env: dict[str, Any] = option({}, "keyword arguments of gymnasium.make: env.max_episode_steps=500")
    num_eval_episodes: int = option(10, "episodes of an evaluation", above=0)
    action_repeat: int = option(2, "simulator steps that an action is held for", above=0)
    camera: Any = option(None, "its name or number; null is the task's own")
    rendering: str = option("auto", "auto is fast on machines without a GPU", choices=("auto", "exact", "fast"))
    replay_storage: str = option(
        "auto", "memory, disk, cuda; auto is the GPU if the frames fill less than half of it, else disk"
    )
    nstep: int = option(3, "n of the n-step targets", above=0)
    discount: float = option(0.99, "of rewards, for each step", least=0, most=1)
    feature_dim: int = option(50, "size of the trunks' features", above=0)
    hidden_dim: int = option(1024, "width of hidden layers", above=0)
    stddev_schedule: str = option(
        None, "standard deviation of exploration noise: 0.2, linear(1.0,0.1,100000)", referenced=True
    )
    pre_activation_weight: float = option(
        0.0,
        "penalty on the output of DrQ-v2's actor before its tanh; keeps small networks unsaturated",
        least=0,
        referenced=True,
    )
    update: str = option(
        "separate",
        "joint: agent and objectives in one backward pass on one encoding, for speed",
        choices=("separate", "joint"),
    )
    path: str = option("fast", "eager: float32 with every acceleration off, to compare with", choices=tuple(PATHS))
    encoder: AgentEncoderConfig = section("the agent's encoder")
    objectives: list[str] = option([], "losses on the encoder: [taco], [curl], … or [my_package.my_file:MyObjective]")
    objective: dict[str, Any] = option(objective_defaults, "their options: objective.taco.horizon=3")
    agent: dict[str, Any] = option({}, "its options, see experiments/conf/agent")
    save_video: bool = option(True, "of the first episode of each evaluation")
    use_tb: bool = option(False, "log to TensorBoard")

    def __post_init__(self) -> None:
        found = {name: objective_class(name) for name in (*self.objectives, *self.objective)}
        super().__post_init__()
        if self.objectives and self.batch_size < 2:
            raise ConfigError(f"batch_size must be at least 2, for objectives that compare rows, got {self.batch_size}")
        agent = find_agent(self.agent["algorithm"])
        check_options("agent", self.agent_options, agent, known=is_ours(agent))
        for name in self.objectives:
            check_options(f"objective.{name}", self.objective.get(name, {}), found[name], known=is_ours(found[name]))
        if self.agent_options.get("fade", 1) > 1:
            raise ConfigError(f"agent.fade must be at most 1, got {self.agent['fade']}")
        if self.agent_options.get("critic_target_tau", 0) > 1:
            raise ConfigError(f"agent.critic_target_tau must be at most 1, got {self.agent['critic_target_tau']}")
        if len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(f"objectives names one twice: {', '.join(self.objectives)}")
        if len({short_name(name) for name in self.objectives}) < len(self.objectives):
            raise ConfigError(
                f"objectives names two classes of one name, whose options could not be told apart: "
                f"{', '.join(self.objectives)}. Rename one"
            )
        check_storage(self.replay_storage, self.device)
        if self.path == "eager" and self.encoder.precision != "float32":
            raise ConfigError(f"path=eager is float32 throughout, not encoder.precision={self.encoder.precision}")

    @classmethod
    def idle(cls, plain: Mapping[str, Any]) -> dict[str, str]:
        """Options that this configuration, composed but not completed, has no use for, with the reason.

        What is here is right in some runs of a sweep and idle in others; `Option.needs` refuses the rest.
        """
        found = idle_noise(plain)
        if path := value_of(plain, "encoder.path"):
            for name in ARCHITECTURE:
                found[f"encoder.{name}"] = f"with encoder={path}, which has its own"
        if not value_of(plain, "objectives"):
            found["update"] = "without objectives=[…]"
        if value_of(plain, "agent.algorithm") == "bc":
            found |= dict.fromkeys(("nstep", "discount"), "with agent=bc, which reads no rewards")
        return found

    @property
    def agent_options(self) -> dict[str, Any]:
        """The keyword arguments of the agent."""
        return {name: value for name, value in self.agent.items() if name not in OF_THE_CHOICE}


@dataclass
class OfflineShareConfig:
    """Finished data that an online run learns from as well."""

    data: str | None = option(None, "finished data to learn from as well; with init, the data that init has", path=True)
    share: float = option(0.5, "of each batch that comes from it", least=0, below=1, needs=("offline.data", "init"))
    skip_corrupt: bool = option(False, "leave out files that can't be used", needs=("offline.data", "init"))
    channels_last: bool | None = option(
        None, "whether its pictures are (height, width, channels)", needs=("offline.data", "init")
    )
    frame_channels: int | None = option(
        None, "channels of a frame where its pictures hold several", above=0, needs=("offline.data", "init")
    )
    cache: str | None = option(
        None, "folder of the converted files; null is one in data", path=True, needs=("offline.data", "init")
    )


@dataclass
class TrainConfig(RunConfig):
    """Every option of a run in an environment; checked on construction."""

    num_train_frames: int = option(1_000_000, "length of the run, in simulator steps", above=0)
    num_seed_frames: int = option(None, "before the first update: 4000, or one batch if that is more", above=0)
    eval_every_frames: int = option(20_000, "simulator steps between evaluations", above=0)
    checkpoint_every_frames: int = option(20_000, "simulator steps between checkpoints", above=0)
    num_envs: int = option(1, "environments side by side, each in a process of its own", above=0)
    env_timeout: float = option(
        60.0, "seconds without an answer after which such a process counts as dead; five times that to start", above=0
    )
    replay_buffer_size: int = option(1_000_000, "frames kept; they are reserved on disk when the run starts", above=0)
    batch_size: int = option(None, "rows of a batch: 512 for walker, 256 for the other tasks", above=0)
    nstep: int = option(None, "n of the n-step targets: 1 for walker, 3 for the other tasks", above=0)
    save_snapshot: bool = option(False, "also keep each checkpoint as checkpoints/FRAME.pt")
    init: str | None = option(None, "folder of a run whose agent this one starts from: offline to online", path=True)
    offline: OfflineShareConfig = section("finished data to learn from as well")

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
        """The rows of all batches that are drawn, by the option that says so."""
        own = {short_name(name): self.objective.get(name, {}).get("batch_size") for name in self.objectives}
        sizes = {f"objective.{name}.batch_size": size for name, size in own.items() if size is not None}
        return {"batch_size": self.batch_size} | sizes

    def check_episode(self, episode_steps: float, windows: Mapping[str, Window]) -> None:
        """Refuses windows and replays that do not fit the episodes.

        Args:
            episode_steps: agent steps of an episode.
            windows: what is read, by who reads it.
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
        # An episode of T transitions takes T + 1 rows; its start may have left the ring, and its end be still to come.
        transitions = self.replay_buffer_size * episode_steps / (episode_steps + 1) - 2 * self.num_envs
        largest = max(self.batch_sizes.values())
        if transitions < largest or self.replay_buffer_size / self.num_envs < 2 * (steps + self.frame_stack):
            raise ConfigError(
                f"replay_buffer_size={self.replay_buffer_size} is too small for batch_size={largest} and "
                f"windows of {steps} agent steps in each of {self.num_envs} environments: make it larger"
            )


def complete(composed: DictConfig) -> TrainConfig:
    """The checked configuration, with the literature's values for what is null and this machine's for what is auto.

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
        config.num_seed_frames = max(4000, int(config.batch_size) * int(config.action_repeat))
    if config.offline.data is not None:
        config.offline.data = located(str(config.offline.data))
    settle(config)
    if config.run_dir is None:
        config.run_dir = f"runs/{as_folder(config.task)}/{as_folder(config.agent.name)}/seed_{config.seed}"
    return typed_as(TrainConfig, config)


def settle(config: DictConfig) -> None:
    """This machine's values for what is auto, the options of objectives that are not ours, and a name for the agent
    that says which losses it has; in place.

    The name is the run's in its folder and in plots.
    """
    if isinstance(config.objectives, str):
        raise ConfigError(f"objectives: it is a list, write objectives=[{config.objectives}]")
    if ":" in str(config.agent.algorithm):
        agent = defaults_of(find_agent(config.agent.algorithm), ("feature_dim", "hidden_dim", "lr"))
        config.agent = agent | dict(config.agent)
    own = find_agent(str(config.agent.algorithm)).own_objectives
    added = [short_name(name) for name in config.objectives if name not in (config.agent.name, *own)]
    config.objectives = list(own) + [name for name in config.objectives if name not in own]
    for name in config.objectives:
        given = config.objective.pop(short_name(name), None) or config.objective.get(name, {})
        config.objective[name] = defaults_of(objective_class(name)) | dict(given)
    if config.get("init"):
        added.append("init")
    if config.encoder.path or config.encoder.freeze:
        added.append("frozen" if config.encoder.freeze else "pretrained")
    config.agent.name = "+".join([config.agent.name, *added])
    config.device = resolve_device(str(config.device))
    if config.encoder.precision == "auto":
        faster = config.path != "eager" and supports_bfloat16(config.device)
        config.encoder.precision = "bfloat16" if faster else "float32"


def import_modules(names: Iterable[str]) -> None:
    """Imports what registers objectives, agents and environments, by name.

    Raises:
        ConfigError: for a module that is not found.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # a package that the module itself needs
            raise ConfigError(
                f"imports={name}: there is no module {error.name!r}; start the command where it can be imported, or "
                f"add its folder to PYTHONPATH"
            ) from error
        except (TypeError, ValueError) as error:
            raise ConfigError(f"imports={name} is not a module such as my_package.my_file") from error


def objective_class(name: str) -> type[Objective]:
    """The class of an objective, by its name or its import path.

    Raises:
        ValueError: for what is neither.
    """
    return find_objective(name)


def is_ours(built: type) -> bool:
    """Whether a class is of this project, and not one that users brought."""
    return built.__module__.partition(".")[0] in ("agents", "rlrep")


def short_name(name: str) -> str:
    """The class alone, of an import path."""
    return name.rpartition(":")[2]


def as_folder(name: str) -> str:
    """A name as one folder: the ids of environments have slashes."""
    return re.sub(r"[/:]+", "_", name)


def settle_precision(config: RunConfig, saved: RunConfig | None, composed: DictConfig) -> None:
    """Refuses to begin a run in bfloat16 where that is no faster; one that was begun elsewhere can be resumed, in its
    own precision where that is automatic."""
    if saved is not None:
        if composed.encoder.precision == "auto":
            config.encoder.precision = saved.encoder.precision
        return
    if config.encoder.precision == "bfloat16" and not supports_bfloat16(config.device):
        raise ConfigError(
            f"encoder.precision=bfloat16, but {config.device} here computes it no faster than float32 (that takes a "
            f"processor with AMX or AVX512-BF16, or a GPU of compute capability 8.0): use encoder.precision=auto or "
            f"float32"
        )


def useful_replay_size(config: TrainConfig, wanted: int) -> int:
    """`wanted` rows of a replay, but no more than `num_train_frames` can fill."""
    rows = config.num_train_frames // config.action_repeat
    # One more row an episode, and a few more for the environments that share it.
    return min(wanted, rows + rows // 50 + 100 * config.num_envs)


def idle_noise(plain: Mapping[str, Any]) -> dict[str, str]:
    """The options of noise that its kind has no use for, with the reason."""
    if value_of(plain, "noise.kind") != "pixels":
        return {}
    return {f"noise.{name}": "with noise.kind=pixels, only with noise.kind=shapes" for name in OF_SHAPES}


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    look_up(name, value, dict.fromkeys(known))


def check_storage(storage: str, device: str) -> None:
    """Refuses a place for the replay's frames that there is not, or not with the run's device."""
    if storage.startswith("cuda") and not device.startswith("cuda"):
        raise ConfigError(f"replay_storage={storage} needs device=cuda, this run has {device}")
    if not storage.startswith("cuda"):
        check_choice("replay_storage", storage, ("auto", "memory", "disk", "cuda"))


def check_options(section: str, options: Mapping[str, Any], built: type, known: bool) -> None:
    """Refuses keyword arguments that the class `built` does not have, or of another type.

    Args:
        section: where the options are, for the message.
        options: the keyword arguments.
        built: the class that takes them.
        known: whether the class is ours, whose numbers are positive.

    Raises:
        ConfigError: naming the option, what it is and what it should be.
    """
    hints = {name: hint for name, hint in arguments_of(built).items() if name not in GIVEN_BY_US}
    if issubclass(built, Objective):
        hints["batch_size"] = int | None
    for name, value in options.items():
        hint = look_up(f"option of {section}", name, hints)
        if not is_a(value, hint):
            raise ConfigError(f"{section}.{name} must be {getattr(hint, '__name__', hint)}, got {value!r}")
        number = isinstance(value, int | float) and not isinstance(value, bool) and not is_a("", hint)
        least = "at least" if name in MAY_BE_ZERO else "greater than"
        if number and known and not (value > 0 or (value == 0 and name in MAY_BE_ZERO)):
            raise ConfigError(f"{section}.{name} must be {least} 0, got {value}")


def arguments_of(built: type) -> dict[str, Any]:
    """The arguments of a class and their types; where it hands others on, `**options`, those of its base too."""
    taken = parameters_of(built)
    hints: dict[str, Any] = dict.fromkeys(taken, Any)
    for each in reversed(built.__mro__):
        if "__init__" in vars(each):
            own = get_type_hints(each.__init__)  # type: ignore[misc]
            hints |= {name: hint for name, hint in own.items() if name in taken}
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


def load(path: Path) -> TrainConfig:
    """The configuration that a run's folder holds."""
    return load_as(TrainConfig, path)


register("train_options", TrainConfig)
