"""The common part of all runs' configurations."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from rlrep.agents import AGENTS, PATHS, find_agent
from rlrep.encoders import supports_bfloat16
from rlrep.experiments.run.config_file import register
from rlrep.experiments.run.device import check_storage, resolve_device
from rlrep.experiments.run.learner_options import check_options, defaults_of, objective_defaults
from rlrep.experiments.run.names import short_name
from rlrep.experiments.run.options import ConfigError, check, option, section
from rlrep.experiments.run.sections import ARCHITECTURE, AgentEncoderConfig, NoiseConfig, WandbConfig, idle_noise
from rlrep.experiments.yaml_files import value_of
from rlrep.objectives import find_objective

# Entries of an agent's configuration besides its options: its name in plots, its class, and its purpose.
OF_THE_CHOICE = ("name", "algorithm", "learns_from")


@dataclass
class AnyRunConfig:
    """The options of every run; checked on construction."""

    seed: int = option(1, "of all random numbers", least=0, most=2**63 - 1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, …", free=True)
    run_dir: str = option(None, "folder of the run", path=True, free=True)
    resume: bool = option(False, "continue the run in run_dir where it stopped; start it if there is none", free=True)
    imports: list[str] = option([], "modules to import first; they may register names for other options", free=True)
    image_size: int = option(84, "height and width of a frame in pixels", above=0, most=2048)
    frame_stack: int = option(3, "frames in an observation", above=0)
    noise: NoiseConfig = section(needs=("noise.kind",))
    batch_size: int = option(256, "rows of a batch", above=0)
    lr: float = option(1e-4, "step size of Adam", above=0)
    shift: int = option(4, "largest random shift of images, in pixels", least=0)
    use_wandb: bool = option(False, "log to Weights & Biases", free=True)
    wandb: WandbConfig = section(needs=("use_wandb",))

    def __post_init__(self) -> None:
        check(self)
        if not self.shift < self.image_size:
            raise ConfigError(f"shift must be less than image_size={self.image_size}, got {self.shift}")


@dataclass
class RunConfig(AnyRunConfig):
    """The options of every run that trains an agent, from an environment or from data."""

    task: str = option(
        "quadruped_run", "of dm_control (python -c 'from rlrep import envs; print(*envs.TASKS)'), or a Gymnasium id"
    )
    env: dict[str, Any] = option({}, "keyword arguments of gymnasium.make: env.max_episode_steps=500")
    num_eval_episodes: int = option(10, "episodes of an evaluation", above=0, free=True)
    action_repeat: int = option(2, "simulator steps per action", above=0)
    camera: Any = option(None, "its name or number; null is the task's default")
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
    path: str = option("fast", "eager: float32 without accelerations, for comparison", choices=tuple(PATHS))
    encoder: AgentEncoderConfig = section()
    objectives: list[str] = option([], "losses on the encoder: [taco], [curl], … or [my_package.my_file:MyObjective]")
    objective: dict[str, Any] = option(objective_defaults, "their options: objective.taco.horizon=3")
    agent: dict[str, Any] = option({}, "its options, see --cfg job")
    save_video: bool = option(True, "of the first episode of each evaluation", free=True)
    use_tb: bool = option(False, "log to TensorBoard", free=True)

    def __post_init__(self) -> None:
        found = {name: find_objective(name) for name in (*self.objectives, *self.objective)}
        super().__post_init__()
        if self.objectives and self.batch_size < 2:
            raise ConfigError(f"batch_size must be at least 2, for objectives that compare rows, got {self.batch_size}")
        check_options("agent", self.agent_options, find_agent(self.agent["algorithm"]))
        for name in self.objectives:
            check_options(f"objective.{name}", self.objective.get(name, {}), found[name])
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
        """Options that have no effect in this configuration, which is composed but not completed, with the reason.

        These options have an effect in some runs of a sweep and none in others; `Option.needs` refuses all others.
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


def settle(config: DictConfig) -> None:
    """Sets this machine's values for "auto", the options of users' own objectives, and the agent's name with its
    losses; in place. The run's folder and plots use this name.
    """
    if isinstance(config.objectives, str):
        raise ConfigError(f"objectives: it is a list, write objectives=[{config.objectives}]")
    if ":" in str(config.agent.algorithm):
        agent = defaults_of(find_agent(config.agent.algorithm))
        config.agent = agent | dict(config.agent)
    own = find_agent(str(config.agent.algorithm)).own_objectives
    added = [short_name(name) for name in config.objectives if name not in (config.agent.name, *own)]
    config.objectives = list(own) + [name for name in config.objectives if name not in own]
    for name in config.objectives:
        given = config.objective.pop(short_name(name), None) or config.objective.get(name, {})
        config.objective[name] = defaults_of(find_objective(name)) | dict(given)
    if config.get("init"):
        added.append("init")
    if config.encoder.path or config.encoder.freeze:
        added.append("frozen" if config.encoder.freeze else "pretrained")
    config.agent.name = "+".join([config.agent.name, *added])
    config.device = resolve_device(str(config.device))
    if config.encoder.precision == "auto":
        faster = config.path != "eager" and supports_bfloat16(config.device)
        config.encoder.precision = "bfloat16" if faster else "float32"


def settle_precision(config: RunConfig, saved: RunConfig | None, composed: DictConfig) -> None:
    """Refuses to start a run in bfloat16 on a device where that is not faster. A run from another machine can resume,
    in its own precision if that is automatic."""
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


def check_env(env: Mapping[str, Any], settings: Set[str]) -> None:
    """Refuses keyword arguments of an environment that are `settings` of the run, or that the run sets itself."""
    for name in sorted(settings & env.keys()):
        raise ConfigError(f"env.{name} is a setting of the run itself: give {name}=… instead")
    for name in sorted({"task", "seed", "processes", "timeout", "render_mode"} & env.keys()):
        raise ConfigError(f"env.{name} is set by the run itself: leave it out")


for name, kind in AGENTS.items():
    register(name, defaults_of(kind), "agent_options")
