"""A pre-training: source, objective and encoder.

The folder (run_dir) holds encoder/ (the best validation's, as safetensors with its configuration), config.yaml,
train.csv, checkpoints/latest.pt, played/ (the episodes of an environment, if that is the source) and, for objectives
that draw, reconstructions.png.
"""

from __future__ import annotations

import shlex
import zlib
from collections.abc import Mapping
from contextlib import ExitStack, closing
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from gymnasium import spaces
from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from rlrep import Objective, PixelEncoder, RandomShift, make_objective
from rlrep.data import EpisodeDataset
from rlrep.experiments.files import CsvLog, locked, write_atomically
from rlrep.experiments.run.allocator import keep_pages
from rlrep.experiments.run.checkpoint import (
    CHECKPOINT,
    CONFIG,
    CheckpointError,
    fitting,
    load_checkpoint,
    random_state,
    set_random_state,
)
from rlrep.experiments.run.config_file import load_as
from rlrep.experiments.run.driver import Run, claim, conduct
from rlrep.experiments.run.log import NonFiniteLoss, Progress, UpdateMetrics, check_extras, start_wandb
from rlrep.experiments.run.options import ConfigError
from rlrep.experiments.run.pretrain_config import ENVIRONMENT, PretrainConfig, complete
from rlrep.experiments.run.pretrained import DESCRIPTION, WEIGHTS
from rlrep.experiments.run.reconstructions import draw_reconstructions, draws
from rlrep.experiments.run.sources import open_source
from rlrep.objectives import find_objective
from rlrep.pretrain import Pretrainer
from rlrep.registry import parameters_of

ENCODER, PICTURE = "encoder", "reconstructions.png"


class PretrainRun(Run):
    """One pre-training: the trainer and its folder.

    Args:
        config: of the run.
        folder: of the run. If it has a checkpoint, the run continues from it.
        actions: whether the objective reads actions.
    """

    counter = "update"

    def __init__(self, config: PretrainConfig, folder: Path, actions: bool) -> None:
        self.config, self.folder = config, folder
        check_extras(config.use_wandb, use_tb=False)
        path = folder / CHECKPOINT
        state = load_checkpoint(path, config.device) if path.exists() else None
        train, validation = open_source(config, folder, actions)
        self.episodes = [fingerprint(data) for data in (train, validation)]
        torch.manual_seed(config.seed)
        self.trainer = Pretrainer(
            build_objective(config, train.observation_shape, train.frames.shape[1], action_space(train)).to(
                config.device
            ),
            train,
            validation,
            steps=config.steps,
            batch_size=config.batch_size,
            lr=config.lr,
            validate_every=config.validate_every,
            validation_batches=config.validation_batches,
            patience=config.patience,
        )
        self.metrics = UpdateMetrics(self.counter)
        if state is not None:
            with fitting(path):
                self.restore(state)
        self.table = CsvLog(folder / "train.csv", self.trainer.updates, "update")
        self.progress = Progress(config.name, config.steps, self.trainer.updates, "update")
        self.wandb = start_wandb(config, folder, "update") if config.use_wandb else None

    @property
    def count(self) -> int:
        return self.trainer.updates

    @property
    def at_end(self) -> bool:
        """Whether all updates are made, or the validation loss has stopped improving."""
        return self.trainer.finished

    @property
    def longer(self) -> str:
        return "steps" if self.trainer.updates >= self.trainer.steps else "patience"

    @property
    def headline(self) -> str:
        config = self.config
        encoder = f"{config.device}, {config.encoder.precision}"
        return f"{config.name}: at most {config.steps:,} updates, {encoder}, in {self.folder}"

    @property
    def checkpoint_due(self) -> bool:
        return self.trainer.validation_due

    def advance(self) -> None:
        self.metrics.add(self.trainer.step(), self.trainer.updates)
        if self.trainer.validation_due:
            self.validate()
        self.progress.advance(self.trainer.updates)

    def validate(self) -> None:
        trainer = self.trainer
        means = self.metrics.mean()
        try:
            validation = {f"validation_{name}": value for name, value in trainer.validate().items()}
        except FloatingPointError as error:
            raise NonFiniteLoss(str(error)) from error
        row = {"update": trainer.updates, "updates_per_second": self.progress.rate, **means, **validation}
        self.table.append(row)
        if self.wandb is not None:
            self.wandb.log(row)
        losses = {"validation": validation["validation_loss"], "best": trainer.best_loss}
        self.progress.show({name: f"{value:.4g}" for name, value in losses.items()})
        if trainer.best_updates == trainer.updates:
            self.save_encoder()

    def save_encoder(self) -> None:
        with TemporaryDirectory() as temporary:
            self.trainer.objective.encoder.save_pretrained(temporary)
            for name in (WEIGHTS, DESCRIPTION):
                write_atomically(self.folder / ENCODER / name, Path(temporary, name).read_bytes())

    def finish(self) -> None:
        """Draws reconstructions of held-out frames by the best weights, if the objective supports it."""
        if draws(self.trainer.objective):
            last = deepcopy(self.trainer.objective.state_dict())  # a longer run continues from them
            self.trainer.load_best()
            draw_reconstructions(self.trainer, self.folder / PICTURE, self.config.name)
            self.trainer.objective.load_state_dict(last)

    def state(self) -> dict[str, Any]:
        self.metrics.check()
        return {"trainer": self.trainer.state_dict(), "random": random_state(), "episodes": self.episodes}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.finished &= (self.folder / PICTURE).exists() or not draws(self.trainer.objective)
        if state["episodes"] != self.episodes:
            raise CheckpointError(
                f"{self.config.source} holds other episodes than when the run was saved, which would be split anew "
                f"into training and validation: bring the old ones back, or start the run anew in another run_dir"
            )
        self.trainer.load_state_dict(state["trainer"])
        set_random_state(state["random"])

    def run(self) -> None:
        super().run()
        trainer = self.trainer
        why = "all updates are made" if trainer.updates >= trainer.steps else "the validation loss got no better"
        print(
            f"stopped after {trainer.updates} updates, {why}; encoder/ is of update {trainer.best_updates}, "
            f"validation loss {trainer.best_loss:.4g}"
        )

    def close(self) -> None:
        self.progress.close()
        if self.wandb is not None:
            self.wandb.finish()


def fingerprint(data: EpisodeDataset) -> int:
    """A checksum of the lengths and the first frames of all episodes, in their order."""
    found = zlib.crc32(data.episodes.tobytes())
    for first, _ in data.episodes:
        found = zlib.crc32(data.frames[first].tobytes(), found)
    return found


def build_objective(
    config: PretrainConfig, observation_shape: tuple[int, ...], frame_channels: int, action_space: Any
) -> Objective:
    """Builds the objective with a new encoder.

    Args:
        config: of the run.
        observation_shape: (F·C, H, W).
        frame_channels: C.
        action_space: of the data; not used by objectives that do not need it.
    """
    encoder = PixelEncoder(observation_shape, **config.encoder.options)
    options = config.options | {"augment": RandomShift(config.shift)}
    kind = find_objective(config.objective)
    fixed = {"horizon": config.horizon, "frame_channels": frame_channels}
    options |= {name: value for name, value in fixed.items() if name in parameters_of(kind)}
    return make_objective(config.objective, encoder, action_space if kind.reads_actions(options) else None, **options)


def check_source(config: PretrainConfig) -> bool:
    """Refuses an objective that reads entries which no source of a pre-training has.

    Returns:
        Whether it reads actions.

    Raises:
        ConfigError: naming these entries.
    """
    shape = (3 * config.frame_stack, config.image_size, config.image_size)
    objective = build_objective(config, shape, 3, spaces.Box(-1, 1, (1,)))
    if "reward" in objective.window.needs:
        if transition := [key for key in objective.in_keys if key[0] == "next" and key[1] != "reward"]:
            raise ConfigError(
                f"objective={config.objective} reads {transition[0]}, which belongs to an agent's n-step transition, "
                f"not to a pre-training: read 'future_observation' in in_keys, which is `horizon` steps later"
            )
        raise ConfigError(
            f"objective={config.objective} reads rewards, which the sources of a pre-training do not have: use it in "
            f"rlrep.experiments.train (objectives=[{config.objective}]), or choose one that reads frames and actions "
            f"alone"
        )
    return "action" in objective.window.needs or objective.needs_actions


def action_space(data: EpisodeDataset) -> Any:
    """The action space of the data, as far as known; None without actions."""
    if data.action is None:
        return None
    if data.action.ndim == 1:
        return spaces.Discrete(int(data.action.max()) + 1)
    return spaces.Box(-1, 1, data.action.shape[1:])


def open_pretraining(composed: DictConfig, opened: ExitStack) -> PretrainRun:
    """Opens the run of a composed configuration."""
    config = complete(composed)
    actions = check_source(config)
    keep_pages()
    folder = Path(to_absolute_path(config.run_dir))
    opened.enter_context(locked(folder))
    saved = load_as(PretrainConfig, folder / CONFIG) if (folder / CONFIG).exists() else None
    if saved is not None and composed.encoder.precision == "auto":
        config.encoder.precision = saved.encoder.precision
    claim(folder, config, saved)
    return opened.enter_context(closing(PretrainRun(config, folder, actions)))


def pretrain(composed: DictConfig) -> Path:
    """Trains an encoder; see `conduct`."""
    return conduct(open_pretraining, composed)


def action_repeat(task: str, env: Mapping[str, Any]) -> int:
    """The steps between two frames of an environment with the options `env`."""
    from rlrep.envs.make import usual_action_repeat  # imports a simulator, which no other source needs

    return int(env.get("action_repeat") or usual_action_repeat(task))


def training(folder: Path, composed: DictConfig) -> str:
    """The command that trains an agent on the encoder in a run's folder."""
    source = str(composed.source)
    settings = [
        f"encoder={folder / ENCODER}",
        f"image_size={composed.image_size}",
        f"frame_stack={composed.frame_stack}",
    ]
    task, repeat = "TASK", None
    if source.startswith(ENVIRONMENT):
        task = source.removeprefix(ENVIRONMENT)
        repeat = action_repeat(task, composed.env)
    settings += [] if torch.cuda.is_available() else ["preset=cpu"]
    settings += [] if repeat is None else [f"action_repeat={repeat}"]
    return f"python -m rlrep.experiments.train {shlex.join([f'task={task}', *settings])}"
