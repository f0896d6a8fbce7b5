"""The configuration of a pre-training: read from conf/pretrain.yaml, and checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from rlrep.encoders import supports_bfloat16
from rlrep.experiments.run.config import AnyRunConfig
from rlrep.experiments.run.config_file import register, typed_as
from rlrep.experiments.run.device import resolve_device
from rlrep.experiments.run.learner_options import check_options
from rlrep.experiments.run.names import as_folder, import_modules, short_name
from rlrep.experiments.run.options import ConfigError, defaults, option, options_of, section
from rlrep.experiments.run.sections import EncoderConfig, FilesConfig, idle_noise
from rlrep.experiments.yaml_files import value_of
from rlrep.objectives import find_objective
from rlrep.registry import parameters_of

ENVIRONMENT = "env:"
OF_FILES = (*options_of(FilesConfig), "fps", "mixed_sizes")
OF_ENVIRONMENTS = ("env", "num_frames")


@dataclass
class PretrainConfig(FilesConfig, AnyRunConfig):
    """Every option of a pre-training; checked on construction."""

    objective: str = option("temporal_contrastive", "or my_package.my_file:MyObjective; inverse_model needs actions")
    options: dict[str, Any] = option({}, "of the objective: options.temperature=0.2, options.codes=64")
    source: str = option(
        MISSING, "file or folder of videos or episodes, or env:TASK for an environment under a random policy", path=True
    )
    run_dir: str = option(None, "folder of the run; null is runs/pretrain/OBJECTIVE/seed_N", path=True, free=True)
    horizon: int = option(3, "K, the most steps between the two observations of a pair", above=0)
    validation_fraction: float = option(
        0.1, "share of the episodes; of the frames if there is only one episode", above=0, below=1
    )
    fps: float | None = option(
        None, "frame rate of videos after dropping frames; null requires one rate for all", above=0
    )
    mixed_sizes: bool = option(False, "accept videos of different sizes")
    num_frames: int = option(20_000, "frames to play before training, with source=env:TASK", above=0)
    env: dict[str, Any] = option({}, "keyword arguments of the environment: env.action_repeat=4")
    steps: int = option(10_000, "updates, at most", above=0, free=True)
    lr: float = option(1e-3, "step size of Adam", above=0)
    validate_every: int = option(200, "updates; each validation leaves a checkpoint", above=0)
    validation_batches: int = option(4, "batches that a validation averages over", above=0)
    patience: int | None = option(
        10,
        "validations without a better one until training stops; null, or a loss whose targets move, never does",
        above=0,
        free=True,
    )
    encoder: EncoderConfig = section()

    def __post_init__(self) -> None:
        kind = find_objective(self.objective)
        for name in ("horizon", "frame_channels"):
            if name in self.options:
                raise ConfigError(f"options.{name} follows the data: leave it out (horizon=K sets the largest gap)")
        check_options("options", self.options, kind)
        super().__post_init__()
        if self.batch_size < 2:
            raise ConfigError(f"batch_size must be at least 2, for objectives that compare rows, got {self.batch_size}")
        known = options_of(PretrainConfig)
        for name in OF_ENVIRONMENTS if not self.streams else OF_FILES:
            if (value := getattr(self, name)) != known[name].default:
                whose = "files" if self.streams else f"source={ENVIRONMENT}TASK"
                raise ConfigError(f"{name}={value} is for {whose}, this source is {self.source}")
        if self.noise.kind and not self.streams:
            raise ConfigError(
                f"noise.kind={self.noise.kind} is for source={ENVIRONMENT}TASK, this source is {self.source}"
            )

    @classmethod
    def idle(cls, plain: Mapping[str, Any]) -> dict[str, str]:
        """Options that have no effect in this configuration, with the reason; see `RunConfig.idle`."""
        found, source, objective = idle_noise(plain), str(value_of(plain, "source")), value_of(plain, "objective")
        import_modules(value_of(plain, "imports"))
        if "horizon" not in parameters_of(find_objective(objective)):
            found["horizon"] = f"with objective={objective}, which reads no pairs of observations"
        others = OF_FILES if source.startswith(ENVIRONMENT) else OF_ENVIRONMENTS
        return found | dict.fromkeys(others, f"with source={source}: it is for others")

    @property
    def name(self) -> str:
        """The run in a few words."""
        return f"{short_name(self.objective)} on {Path(self.source).name}"

    @property
    def streams(self) -> bool:
        """Whether the source is an environment."""
        return self.source.startswith(ENVIRONMENT)


register("pretrain_options", defaults(PretrainConfig))


def complete(composed: DictConfig) -> PretrainConfig:
    """The checked configuration, with this machine's values for "auto".

    Raises:
        ConfigError: for impossible values.
        ValueError: for unknown names, with the nearest known ones.
    """
    if OmegaConf.is_missing(composed, "source"):
        raise ConfigError(f"name the videos: source=FOLDER, source=FILE, or source={ENVIRONMENT}TASK")
    config = OmegaConf.create(OmegaConf.to_container(composed))
    assert isinstance(config, DictConfig)
    import_modules(config.imports)
    if config.run_dir is None:
        config.run_dir = f"runs/pretrain/{as_folder(short_name(config.objective))}/seed_{config.seed}"
    config.device = resolve_device(str(config.device))
    if config.encoder.precision == "auto":
        config.encoder.precision = "bfloat16" if supports_bfloat16(config.device) else "float32"
    return typed_as(PretrainConfig, config)
