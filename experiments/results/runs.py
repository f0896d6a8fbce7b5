"""Reads finished and running runs from their folders: configuration, returns, and the random policy's return.

A run is a folder with `config.yaml` and `eval.csv`, which count simulator steps, or updates on offline data.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, nan
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlrep.experiments.yaml_files import UnusableYaml, differences, read_yaml, value_of

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
Config = Mapping[str, Any]
"""A run's configuration as in its file, without resolving or running anything."""

CONFIG, EVALUATIONS, EPISODES, RANDOM = "config.yaml", "eval.csv", "train.csv", "random.csv"

# Settings that change the place, length or output of a run, but not what it learns.
INCIDENTAL = {
    "seed",
    "run_dir",
    "resume",
    "imports",
    "device",
    "env_timeout",
    "dataset",
    "data",
    "cache",
    "offline.cache",
    "skip_corrupt",
    "replay_storage",
    "rendering",
    "num_train_frames",
    "num_updates",
    "num_eval_episodes",
    "eval_every_frames",
    "eval_every_updates",
    "log_every_updates",
    "checkpoint_every_frames",
    "checkpoint_every_updates",
    "save_snapshot",
    "save_video",
    "use_tb",
    "use_wandb",
    "wandb",
}

# Folder names that many data sets share: V-D4RL's sizes, a seed's run, a run's replay.
COMMON_FOLDER = re.compile(r"\d+px|seed_\d+|rank_\d+|replay")

_ABSENT = object()


class RunError(ValueError):
    """A run that cannot be used; the message names its folder and says what to do."""


class NotFinite(RunError):
    """A run whose evaluations are not all numbers."""


@dataclass(frozen=True)
class Run:
    """One seed's evaluations: `returns[i]` is the mean episode return after `frames[i]` simulator steps, or updates
    of a run on offline data."""

    folder: Path
    config: Config
    frames: Array
    returns: Array

    @property
    def counted(self) -> str:
        """The unit of `frames`: "simulator steps" or "updates"."""
        return counted(self.config)

    @property
    def subject(self) -> str:
        """The subject of learning: the task and, for offline data, the level."""
        task = self.label("task")
        return f"{task}, offline: {data_name(self.config)}" if "dataset" in self.config else task

    @cached_property
    def random_return(self) -> float | None:
        return random_return(self.folder, self.config)

    def setting(self, key: str) -> Any:
        """The value of a dotted config key.

        Raises:
            RunError: the configuration has no such key.
        """
        value = value_of(self.config, key, _ABSENT)
        if value is _ABSENT:
            known = ", ".join(map(str, self.config))
            raise RunError(f"{self.folder}: {CONFIG} has no value at {key}; its keys are: {known}")
        return value

    def label(self, key: str) -> str:
        """The value of a dotted config key; for a mapping, its `name`. Other values are prefixed by the key.

        Raises:
            RunError: the configuration has no such key.
        """
        value = self.setting(key)
        if isinstance(value, Mapping):
            return self.label(f"{key}.name")
        return value if isinstance(value, str) else f"{key}={'null' if value is None else value}"


def counted(config: Config) -> str:
    return "updates" if "dataset" in config else "simulator steps"


def data_name(config: Config) -> str:
    """The level of a run's offline data, else the name that the run gave them by their path."""
    for key in ("data.level", "data.name"):
        if (name := value_of(config, key)) is not None:
            return str(name)
    return telling_part(Path(str(config["dataset"])))


def telling_part(path: Path) -> str:
    """The last part of a path that distinguishes data sets."""
    parts = [path.name, *(parent.name for parent in path.parents)]
    return next((part for part in parts if part and not COMMON_FOLDER.fullmatch(part)), parts[0])


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders at and below `paths`, each once, including links. Folders inside a run, such as logs, do not
    count."""
    seen: set[Path] = set()

    def search(folder: Path) -> list[Path]:
        if (folder / CONFIG).is_file() or (folder / EVALUATIONS).is_file():
            return [folder]
        if (place := folder.resolve()) in seen:  # links may form a circle
            return []
        seen.add(place)
        try:
            inside = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
        except OSError as error:
            log.warning("%s: cannot be searched for runs (%s)", folder, error)
            return []
        return [run for child in inside for run in search(child)]

    found: dict[Path, Path] = {}
    for path in paths:
        known = path.resolve() in seen
        runs = search(path) if path.is_dir() else []
        if not (runs or known):
            log.warning(
                "%s: %s; give a folder that has %s and %s, or one with such folders in it",
                path,
                "no runs in it" if path.is_dir() else "no such folder",
                CONFIG,
                EVALUATIONS,
            )
        found.update((run.resolve(), run) for run in runs)
    return list(found.values())


def read_config(folder: Path) -> Config:
    """Raises RunError if `config.yaml` is missing or unusable."""
    try:
        return read_yaml(folder / CONFIG, resolve=False)
    except (OSError, UnusableYaml) as error:
        raise RunError(f"{folder}: cannot read {CONFIG} ({error}); every run writes it at its start") from error


def read_run(folder: Path) -> Run:
    """Raises RunError if `config.yaml` or `eval.csv` is missing or unusable."""
    config = read_config(folder)
    if "source" in config and not (folder / EVALUATIONS).exists():
        raise RunError(f"{folder}: a pre-training run has no returns to draw; leave it out")
    return Run(folder, config, *read_returns(folder / EVALUATIONS))


def read_returns(path: Path) -> tuple[Array, Array]:
    """`frame` (`update` in a run on offline data) and `episode_return` of a log, in order of the frames. Of several
    evaluations at one frame the last counts: a resumed run repeats those after its checkpoint. Episodes that end at one
    frame are of several environments, and all count.

    Raises:
        NotFinite: if a value is not a number.
        RunError: if the file is missing, lacks a column, or has no complete row.
    """
    folder, name = path.parent, path.name
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise RunError(f"{folder}: it has no {name} so far; let the run write it, or leave it out") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{folder}: cannot read {name} ({error}); let the run write it first") from error
    complete, _, cut_off = text.rpartition("\n")
    if cut_off:
        log.warning("%s: the last line of %s is cut off and left out; resume the run", folder, name)
    if not complete.strip():
        raise RunError(f"{folder}: {name} is empty so far; let the run write it, or leave it out")
    rows = csv.DictReader(io.StringIO(complete))
    counter = "update" if "update" in (rows.fieldnames or ()) else "frame"
    if missing := {counter, "episode_return"} - set(rows.fieldnames or ()):
        columns = " and no ".join(sorted(missing))
        raise RunError(f"{folder}: {name} has no column {columns}; let the run write it, or leave it out")
    returns: list[tuple[float, float]] = []
    try:
        for row in rows:
            frame, value = to_float(row[counter]), to_float(row["episode_return"])
            if not (isfinite(frame) and frame >= 0 and isfinite(value)):
                raise NotFinite(
                    f"{folder}: line {rows.line_num} of {name} needs numbers for {counter} (from 0 on) and "
                    f"episode_return, not {row[counter]!r} and {row['episode_return']!r}; repair or remove that line"
                )
            returns.append((frame, value))
    except csv.Error as error:
        raise RunError(f"{folder}: line {rows.line_num} of {name} is damaged ({error}); remove that line") from error
    if not returns:
        raise RunError(f"{folder}: {name} has no rows yet; let the run write its first, or leave it out")
    if path.name != EPISODES:  # several episodes may end at one frame, an evaluation is at one
        returns = list(dict(returns).items())
    frames, values = zip(*sorted(returns, key=itemgetter(0)), strict=True)
    return np.array(frames), np.array(values)


def read_text(path: Path) -> str:
    """The text of a table, without the byte order mark that spreadsheets may add.

    Raises:
        OSError: if it can't be read, or is not a regular file: opening a pipe would wait for ever.
        UnicodeDecodeError: if it is not text.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is not a regular file")
    return path.read_text(encoding="utf-8-sig")


def to_float(cell: str | None) -> float:
    """Converts to float, nan for other text; `DictReader` gives None for the missing cells of a short row."""
    try:
        return float(cell or "")
    except ValueError:
        return nan


def as_finite(text: str) -> float:
    """An argument of a command that is a return."""
    if not isfinite(value := float(text)):
        raise ValueError(text)
    return value


as_finite.__name__ = "finite number"  # as argparse calls it


def random_return(folder: Path, config: Config) -> float | None:
    """The random policy's mean return, if the run's folder has it.

    Sources, best first: `random.csv`, which `rlrep.experiments.evaluate RUN --random` writes; the offline data's own
    record; the training episodes that ended within `agent.num_expl_steps`, whose actions are uniformly random.
    """
    if (scored := read_column(folder / RANDOM, "episode_return")).size:
        return float(scored.mean())
    if isinstance(recorded := value_of(config, "data.random_return"), int | float):
        return float(recorded)
    steps, repeat = (value_of(config, key) for key in ("agent.num_expl_steps", "action_repeat"))
    if "dataset" in config or not (isinstance(steps, int) and isinstance(repeat, int)):
        return None
    try:
        frames, returns = read_returns(folder / EPISODES)
    except RunError:
        return None
    explored = returns[frames <= steps * repeat]
    return float(explored.mean()) if explored.size else None


def read_column(path: Path, name: str) -> Array:
    """The numbers in a column of a CSV file; empty without such a file or column."""
    try:
        values = np.array([to_float(row.get(name)) for row in csv.DictReader(io.StringIO(read_text(path)))])
    except (OSError, UnicodeDecodeError, csv.Error):
        return np.array([])
    return values[np.isfinite(values)]


def learned_differently(ours: Config, theirs: Config, free: Iterable[str] = ()) -> dict[str, tuple[Any, Any]]:
    """The settings that differ between two runs, with both values, without `free` ones."""
    different = differences(ours, theirs, {*INCIDENTAL, *free})
    return {name: (new, old) for name, (new, old) in different.items() if of_any_seed(new) != of_any_seed(old)}


def of_any_seed(value: Any) -> Any:
    """A path with its seed removed, so that a path such as `init` is equal for all seeds."""
    return re.sub(r"seed_\d+", "seed", value) if isinstance(value, str) else value
