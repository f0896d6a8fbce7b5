"""The output of a run: CSV files, a progress line, and optionally Weights & Biases or TensorBoard."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor
from tqdm import tqdm

from rlrep.data.reading import FileProgress
from rlrep.experiments.files import CsvLog, write_atomically
from rlrep.experiments.run import ranks
from rlrep.experiments.run.config import RunConfig
from rlrep.experiments.run.config_file import as_dict
from rlrep.experiments.run.options import ConfigError
from rlrep.extras import install

SECONDS_BETWEEN_LINES = 30
PATIENCE = 3.0  # seconds; shorter tasks show no progress


class NonFiniteLoss(RuntimeError):
    """A loss or metric became NaN or infinite."""


class UpdateMetrics:
    """Metrics of updates, stored as tensors so that no update waits for the device; read together from time to time.

    Args:
        counter: the unit of an update's number.
    """

    def __init__(self, counter: str) -> None:
        self.counter = counter
        self.frames: list[int] = []
        # Updates with metrics of the same names, and their positions in `frames`.
        self.updates: dict[tuple[str, ...], list[int]] = {}
        self.values: dict[tuple[str, ...], list[Tensor]] = {}

    def add(self, metrics: dict[str, Tensor], frame: int) -> None:
        names = tuple(metrics)
        self.updates.setdefault(names, []).append(len(self.frames))
        self.values.setdefault(names, []).append(torch.stack([value.float() for value in metrics.values()]))
        self.frames.append(frame)

    def check(self) -> None:
        """Raises `NonFiniteLoss` if a metric was not finite; names the metrics and the frame of the first such
        update."""
        found: dict[int, str] = {}
        for names, rows in self.values.items():
            values = torch.stack(rows).cpu()
            bad = ~values.isfinite()
            if bad.any():
                row = int(bad.any(1).int().argmax())
                named = [f"{name}={values[row, i]:g}" for i, name in enumerate(names) if bad[row, i]]
                found[self.updates[names][row]] = ", ".join(named)
        if found:
            first = min(found)
            raise NonFiniteLoss(f"{found[first]} at {self.counter} {self.frames[first]}")

    def mean(self) -> dict[str, float]:
        """The mean of each metric over the updates since the last call that returned it, checked."""
        self.check()
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, rows in self.values.items():
            totals = torch.stack(rows).cpu().double().sum(0).tolist()  # the sum of large values overflows float32
            for name, total in zip(names, totals, strict=True):
                sums[name] = sums.get(name, 0.0) + total
                counts[name] = counts.get(name, 0) + len(rows)
        self.frames, self.updates, self.values = [], {}, {}
        return {name: total / counts[name] for name, total in sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """The metrics that `mean` has not returned yet."""
        groups = [[list(names), list(self.updates[names]), list(rows)] for names, rows in self.values.items()]
        return {"groups": groups, "frames": list(self.frames)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.frames = list(state["frames"])
        self.updates = {tuple(names): list(updates) for names, updates, _ in state["groups"]}
        self.values = {tuple(names): list(rows) for names, _, rows in state["groups"]}


class Progress:
    """Shows progress: on a terminal in one line that is redrawn, elsewhere in new lines from time to time.

    Args:
        name: of the task.
        total: the count at its end.
        start: the count at its start or resume.
        unit: the unit of the count.
        patience: seconds before the first output.
    """

    def __init__(self, name: str, total: int, start: int, unit: str, patience: float = 0.0) -> None:
        self.name, self.total, self.start, self.count, self.unit = name, total, start, start, unit
        self.shown: dict[str, str] = {}
        self.advanced = False
        self.start_time = time.monotonic()
        self.first_line = self.next_line = self.start_time + patience
        self.bar = tqdm(
            total=total,
            initial=start,
            unit=unit,
            unit_scale=total >= 1000,
            dynamic_ncols=True,
            mininterval=0.5,
            miniters=0,  # shows the time too, if the count does not change
            delay=patience,
            desc=name,
            disable=not sys.stderr.isatty() or ranks.rank() > 0,
        )

    @property
    def rate(self) -> float:
        """Units per second."""
        return (self.count - self.start) / max(time.monotonic() - self.start_time, 1e-9)

    def show(self, values: dict[str, str]) -> None:
        """Also shows these values from now on."""
        self.shown |= values
        self.bar.set_postfix(self.shown, refresh=False)

    def advance(self, count: int) -> None:
        if not self.advanced:  # earlier time, such as an evaluation's, does not predict the rest
            self.advanced, self.start, self.start_time = True, count, time.monotonic()
            self.bar.unpause()
        self.tell(count)

    def tell(self, count: int) -> None:
        """Shows the count, if it is time to; for tasks during which the count does not change."""
        self.bar.update(count - self.count)
        self.count = count
        if self.bar.disable and time.monotonic() >= self.next_line:
            self.print_line()

    def evaluating(self, total: int) -> Callable[[int], None]:
        """A progress callback for an evaluation of `total` episodes; a call with `total` ends it.

        A log shows no line for a short evaluation: the next line has its result."""
        since = time.monotonic()

        def told(count: int) -> None:
            self.shown.pop("evaluating", None)
            self.show({"evaluating": f"{count} of {total}"} if count < total else {})
            if not self.bar.disable or time.monotonic() >= since + SECONDS_BETWEEN_LINES / 3:
                self.tell(self.count)

        return told

    def print_line(self) -> None:
        if ranks.rank():
            return
        line = tqdm.format_meter(
            self.count,
            self.total,
            time.monotonic() - self.start_time,
            initial=self.start,
            unit=f" {self.unit}s",
            prefix=f"{self.name}: ",
            postfix=", ".join(f"{name} {value}" for name, value in self.shown.items()),
            bar_format=f"{{desc}}{{n_fmt}} of {{total_fmt}} {self.unit}s, "
            "{rate_noinv_fmt}, {remaining} left{postfix}",
        )
        print(line, file=sys.stderr, flush=True)
        self.next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def close(self) -> None:
        if self.bar.disable and self.count > self.start and time.monotonic() >= self.first_line:
            self.print_line()
        self.bar.close()


@contextmanager
def reading(name: str) -> Iterator[FileProgress]:
    """Shows the progress of reading files, if that takes a while; pass it as `progress`.

    Args:
        name: of the data.
    """
    opened: list[Progress] = []

    def told(files: int, total: int, frames: int) -> None:
        if not opened:
            opened.append(Progress(f"reading {name}", total, 0, "file", PATIENCE))
        opened[0].show({"frames": f"{frames:,}"})
        opened[0].advance(files)

    try:
        yield told
    finally:
        for progress in opened:
            progress.close()


class Log:
    """Writes a run's rows to all enabled loggers, and shows its progress.

    Args:
        config: of the run.
        folder: of the run.
        count: the count at the run's start or resume; later rows are dropped from the CSV files.
        evaluated: the count at the last evaluation; rows of later evaluations are dropped, because they will be
            repeated.
        total: the count at the run's end.
        counter: the unit of the count, and the name of its column.
    """

    def __init__(self, config: RunConfig, folder: Path, count: int, evaluated: int, total: int, counter: str) -> None:
        self.counter = counter
        self.tables = {
            "train": CsvLog(folder / "train.csv", count, counter),
            "eval": CsvLog(folder / "eval.csv", evaluated, counter),
        }
        name = f"{config.task} {config.agent['name']} seed {config.seed}"
        self.progress = Progress(name, total, count, counter)
        self.progress.show(
            {
                f"{name} return": f"{float(table.rows[-1]['episode_return']):.1f}"
                for name, table in self.tables.items()
                if table.rows and "episode_return" in table.columns
            }
        )
        first = ranks.rank() == 0  # the others write only their CSV files
        self.wandb = start_wandb(config, folder, counter) if config.use_wandb and first else None
        self.tensorboard: Any = None
        if config.use_tb and first:
            from torch.utils.tensorboard import SummaryWriter

            self.tensorboard = SummaryWriter(folder / "tensorboard", purge_step=count + 1)

    def row(self, table: str, row: dict[str, Any], note: str = "") -> None:
        """Adds a row to `train` or `eval`; it has at least the counter, and in `eval` also `episode_return`.

        Args:
            table: its name.
            row: values by column.
            note: text after the return in the progress line, until the next row.
        """
        self.tables[table].append(row)
        scalars = {f"{table}/{name}": value for name, value in row.items() if name != self.counter}
        if self.wandb is not None:
            self.wandb.log({self.counter: row[self.counter], **scalars})
        if self.tensorboard is not None:
            for name, value in scalars.items():
                self.tensorboard.add_scalar(name, value, row[self.counter])
        returned = {f"{table} return": f"{row['episode_return']:.1f}{note}"} if "episode_return" in row else {}
        losses = {name: value for name, value in row.items() if "loss" in name}
        shown = {name.replace("loss_", "").replace("_loss", ""): f"{value:.3g}" for name, value in losses.items()}
        self.progress.show(returned | shown)

    def name_random_policy(self, until: int) -> None:
        """From now on, shows the random policy's return, from training episodes until the count `until`, while the
        agent explores at random. The untrained agent may get less."""
        returns = [float(row["episode_return"]) for row in self.tables["train"].rows if int(row[self.counter]) <= until]
        if returns:
            self.progress.show({"random policy's": f"{sum(returns) / len(returns):.1f}"})

    def video(self, path: Path) -> None:
        if self.wandb is not None:
            import wandb

            self.wandb.log({self.counter: self.progress.count, "video": wandb.Video(str(path), format="mp4")})

    def close(self) -> None:
        self.progress.close()
        if self.tensorboard is not None:
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish()


def start_wandb(config: Any, folder: Path, counter: str) -> Any:
    """A run of Weights & Biases; the folder stores its id, so that a resumed run continues it.

    Raises:
        ConfigError: if it can't start.
    """
    import wandb

    mode: Any = config.wandb.mode or os.environ.get("WANDB_MODE", "online")
    if (given := os.environ.get("WANDB_MODE", mode)) != mode:
        print(f"note: wandb.mode={mode} is used, not WANDB_MODE={given}", file=sys.stderr)
    path = folder / "wandb_id"
    run_id = path.read_text() if path.exists() else uuid4().hex[:8]
    try:
        run = wandb.init(
            project=config.wandb.project or os.environ.get("WANDB_PROJECT", "rlrep"),
            mode=mode,
            dir=folder,
            name="-".join(folder.parts[-3:]),
            config=as_dict(config),
            id=run_id,
            resume="allow" if mode == "online" else None,
        )
    except wandb.Error as error:
        raise ConfigError(f"Weights & Biases did not start ({error}): `wandb login`, or wandb.mode=offline") from error
    write_atomically(path, run_id.encode())
    run.define_metric("*", step_metric=counter)
    return run


def check_extras(use_wandb: bool, use_tb: bool) -> None:
    """Refuses a switch whose package is missing, with the command that installs it."""
    from importlib.util import find_spec

    for wanted, package in ((use_wandb, "wandb"), (use_tb, "tensorboard")):
        if wanted and find_spec(package) is None:
            raise ConfigError(f"{package} is not installed: {install(package)}")
