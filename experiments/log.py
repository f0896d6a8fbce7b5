"""What a run tells: CSV files, a progress line, and Weights & Biases or TensorBoard if asked for."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.config import ConfigError, TrainConfig, as_dict
from experiments.files import CsvLog


class NonFiniteLoss(RuntimeError):
    """A loss or metric became NaN or infinite."""


class Metrics:
    """Metrics of updates, kept as tensors so that no update waits for the device; read together now and then."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.values: list[Tensor] = []

    def add(self, metrics: dict[str, Tensor]) -> None:
        self.names = list(metrics)
        self.values.append(torch.stack([value.float() for value in metrics.values()]))

    def mean(self) -> dict[str, float]:
        """The mean of each metric since the last call; empty if there was no update.

        Raises:
            NonFiniteLoss: naming the metrics that were not finite first.
        """
        if not self.values:
            return {}
        values = torch.stack(self.values).cpu()
        self.values = []
        bad = ~values.isfinite()
        if bad.any():
            update = int(bad.any(1).int().argmax())
            named = [f"{name}={values[update, i]:g}" for i, name in enumerate(self.names) if bad[update, i]]
            raise NonFiniteLoss(", ".join(named))
        return dict(zip(self.names, values.mean(0).tolist(), strict=True))


class Log:
    """Writes a run's rows wherever they are wanted.

    Args:
        config: of the run.
        folder: of the run.
        frame: where the run starts or goes on; rows of later frames are dropped from the CSV files.
    """

    def __init__(self, config: TrainConfig, folder: Path, frame: int) -> None:
        self.tables = {name: CsvLog(folder / f"{name}.csv", frame) for name in ("train", "eval")}
        self.start_time, self.start_frame, self.frame = time.monotonic(), frame, frame
        self.last = {name: float(t.rows[-1]["episode_return"]) for name, t in self.tables.items() if t.rows}
        self.progress = tqdm(
            total=config.num_train_frames,
            initial=frame,
            unit="frame",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 20,
            desc=f"{config.task} {config.agent['name']} seed {config.seed}",
        )
        self.wandb: Any = None
        self.tensorboard: Any = None
        if config.use_wandb:
            import wandb

            self.wandb = wandb.init(
                project=config.wandb.project,
                mode=config.wandb.mode,  # type: ignore[arg-type]
                dir=folder,
                name="-".join(folder.parts[-3:]),
                config=as_dict(config),
            )
        if config.use_tb:
            from torch.utils.tensorboard import SummaryWriter

            self.tensorboard = SummaryWriter(folder / "tensorboard", purge_step=frame)

    @property
    def frames_per_second(self) -> float:
        return (self.frame - self.start_frame) / max(time.monotonic() - self.start_time, 1e-9)

    def advance(self, frame: int) -> None:
        self.progress.update(frame - self.frame)
        self.frame = frame

    def row(self, table: str, row: dict[str, Any]) -> None:
        """Adds a row to `train` or `eval`; it holds at least `frame` and `episode_return`."""
        self.tables[table].append(row)
        self.last[table] = row["episode_return"]
        scalars = {f"{table}/{name}": value for name, value in row.items() if name != "frame"}
        if self.wandb is not None:
            self.wandb.log({"frame": row["frame"], **scalars})
        if self.tensorboard is not None:
            for name, value in scalars.items():
                self.tensorboard.add_scalar(name, value, row["frame"])
        losses = {name: value for name, value in row.items() if "loss" in name}
        shown = {f"{name} return": f"{value:.1f}" for name, value in self.last.items()}
        shown |= {name.replace("loss_", "").replace("_loss", ""): f"{value:.3g}" for name, value in losses.items()}
        self.progress.set_postfix(shown, refresh=False)

    def video(self, path: Path) -> None:
        if self.wandb is not None:
            import wandb

            self.wandb.log({"frame": self.frame, "video": wandb.Video(str(path), format="mp4")})

    def close(self) -> None:
        self.progress.close()
        if self.tensorboard is not None:
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish()


def check_extras(config: TrainConfig) -> None:
    """Refuses a switch whose package is missing, with the command that brings it."""
    from importlib.util import find_spec

    for wanted, package in ((config.use_wandb, "wandb"), (config.use_tb, "tensorboard")):
        if wanted and find_spec(package) is None:
            raise ConfigError(f"{package} is not installed: pip install 'rlrep[{package}]'")
