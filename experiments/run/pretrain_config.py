"""The configuration of a pre-training: read from conf/pretrain.yaml, and checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.run.config import (
    ConfigError,
    NoiseConfig,
    WandbConfig,
    check_choice,
    check_options,
    resolve_device,
    typed_as,
)
from rlrep import OBJECTIVES
from rlrep.encoders import PRECISIONS, supports_bfloat16
from rlrep.registry import look_up

# What pairs of observations are enough for; the other objectives read rewards or whole sequences of actions.
PAIR_OBJECTIVES = ("autoencoder", "curl", "forward_model", "inverse_model", "temporal_contrastive")
READ_ACTIONS = {"inverse_model"}
ENVIRONMENT = "env:"

POSITIVE = ("image_size", "frame_stack", "horizon", "num_frames", "steps", "batch_size", "lr", "validate_every")

# What may change when a run is resumed; a checkpoint means nothing under another value of the rest.
FREE_ON_RESUME = frozenset({"resume", "run_dir", "device", "steps", "patience", "cache", "use_wandb", "wandb"})


@dataclass
class PretrainedEncoderConfig:
    channels: int
    strides: list[int]
    out_dim: int | None
    precision: str


@dataclass
class PretrainConfig:
    """Every value of a pre-training, see conf/pretrain.yaml for what each means; checked on construction."""

    objective: str
    options: dict[str, Any]
    source: str
    seed: int
    device: str
    run_dir: str
    resume: bool
    image_size: int
    frame_stack: int
    horizon: int
    validation_fraction: float
    cache: str | None
    skip_corrupt: bool
    fps: float | None
    mixed_sizes: bool
    num_frames: int
    env: dict[str, Any]
    noise: NoiseConfig
    steps: int
    batch_size: int
    lr: float
    shift: int
    validate_every: int
    validation_batches: int
    patience: int | None
    encoder: PretrainedEncoderConfig
    use_wandb: bool
    wandb: WandbConfig

    def __post_init__(self) -> None:
        kind = look_up("objective", self.objective, OBJECTIVES)
        if self.objective not in PAIR_OBJECTIVES:
            raise ConfigError(
                f"objective={self.objective} reads rewards and sequences of actions, which pairs of observations do "
                f"not have: use it in experiments.train (objectives=[{self.objective}]), or choose from "
                f"{', '.join(PAIR_OBJECTIVES)}"
            )
        for name in ("horizon", "frame_channels"):
            if name in self.options:
                raise ConfigError(f"options.{name} follows the data: leave it out (horizon=K sets the largest gap)")
        check_options("options", self.options, kind)
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be greater than 0, got {getattr(self, name)}")
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, got {self.seed}")
        if not 0 <= self.shift < self.image_size:
            raise ConfigError(f"shift must lie in 0..{self.image_size - 1}, less than the image, got {self.shift}")
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(f"validation_fraction must lie between 0 and 1, got {self.validation_fraction}")
        check_choice("encoder.precision", self.encoder.precision, tuple(PRECISIONS))
        check_choice("wandb.mode", self.wandb.mode, ("online", "offline"))
        if not self.streams:
            for name, given in (("noise.kind", self.noise.kind), ("env", self.env)):
                if given:
                    raise ConfigError(f"{name}={given} is for source={ENVIRONMENT}TASK, this source is {self.source}")

    @property
    def name(self) -> str:
        """The run in a few words."""
        return f"{self.objective} on {Path(self.source).name}"

    @property
    def streams(self) -> bool:
        """Whether the source is an environment."""
        return self.source.startswith(ENVIRONMENT)


def complete(composed: DictConfig) -> PretrainConfig:
    """The checked configuration, with this machine's values for what is auto.

    Raises:
        ConfigError: for impossible values.
        ValueError: for unknown names, with the nearest known ones.
    """
    if OmegaConf.is_missing(composed, "source"):
        raise ConfigError(f"name the videos: source=FOLDER, source=FILE, or source={ENVIRONMENT}TASK")
    config = OmegaConf.create(OmegaConf.to_container(composed))
    assert isinstance(config, DictConfig)
    config.device = resolve_device(str(config.device))
    if config.encoder.precision == "auto":
        config.encoder.precision = "bfloat16" if supports_bfloat16(config.device) else "float32"
    return typed_as(PretrainConfig, config)
