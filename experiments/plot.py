"""Learning curves: `python -m experiments.plot RUN [RUN ...] --group agent --out curve.png`.

A run is a folder with `config.yaml` and `eval.csv`; a folder of runs stands for all runs in it. Runs with the
same label are seeds of one curve: their mean, with a 95 % bootstrap interval of that mean.
"""

import argparse
import csv
import io
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite, nan
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.files import write_atomically
from experiments.intervals import RESAMPLES
from experiments.yaml_files import UnusableYaml, read_yaml

log = logging.getLogger(__name__)

# Okabe and Ito's palette, which the colour-blind can tell apart, without its yellow: too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", ":", "-.")
FORMATS = (".png", ".pdf", ".svg")
# What runs count, by the column that holds it: online and offline.
COUNTERS = {"frame": "simulator steps", "update": "updates"}

_ABSENT = object()

Array = NDArray[np.float64]


class RunError(ValueError):
    """A run that cannot be drawn; the message names its folder and says what to do."""


@dataclass(frozen=True)
class Run:
    """One seed's evaluations: `returns[i]` is the mean episode return after `frames[i]` simulator steps, or updates
    of a run on offline data."""

    folder: Path
    config: DictConfig
    frames: Array
    returns: Array

    @property
    def counted(self) -> str:
        return COUNTERS["update" if "dataset" in self.config else "frame"]

    def label(self, key: str) -> str:
        """The value of a dotted config key; of a mapping, its `name`. Other values carry the key along."""
        try:
            value = OmegaConf.select(self.config, key, default=_ABSENT)
        except OmegaConfBaseException as error:
            raise RunError(f"{self.folder}: {key} in config.yaml cannot be resolved: {error}") from error
        if isinstance(value, DictConfig):
            value = value.get("name", _ABSENT)
        if value is _ABSENT:
            known = ", ".join(map(str, self.config))
            raise RunError(f"{self.folder}: config.yaml has no value at {key}; its keys are: {known}")
        return value if isinstance(value, str) else f"{key}={'null' if value is None else value}"


@dataclass(frozen=True)
class Curve:
    """The mean over a group's seeds at each frame, and its 95 % interval (nan with one seed)."""

    task: str
    group: str
    seeds: int
    frames: Array
    mean: Array
    low: Array
    high: Array

    @property
    def legend(self) -> str:
        return f"{self.group} ({self.seeds} seed{'s' * (self.seeds > 1)})"


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders at and below `paths`, each once. What lies inside a run (logs, say) is no run."""

    def search(folder: Path) -> list[Path]:
        if (folder / "config.yaml").is_file() or (folder / "eval.csv").is_file():
            return [folder]
        inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink() and p.name[0] != ".")
        return [run for child in inside for run in search(child)]

    found: dict[Path, Path] = {}
    for path in paths:
        runs = search(path) if path.is_dir() else []
        if not runs:
            log.warning(
                "%s: %s; give a folder that has config.yaml and eval.csv, or one with such folders in it",
                path,
                "no runs in it" if path.is_dir() else "no such folder",
            )
        found.update((run.resolve(), run) for run in runs)
    return list(found.values())


def read_config(folder: Path) -> DictConfig:
    try:
        return read_yaml(folder / "config.yaml")
    except (OSError, UnusableYaml) as error:
        raise RunError(f"{folder}: cannot read config.yaml ({error}); train writes it at its start") from error


def read_returns(path: Path) -> tuple[Array, Array]:
    """`frame` (`update` in a run on offline data) and `episode_return` of a log, by frame. Of rows with one frame the
    last counts: a resumed run writes again what it had written between its checkpoint and its end.

    Raises:
        RunError: the file is missing, lacks a column, has no complete row, or has a value that is no number.
    """
    folder, name = path.parent, path.name
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a regular file")
        text = path.read_text(encoding="utf-8")
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
    returns: dict[float, float] = {}
    for row in rows:
        frame, value = to_float(row[counter]), to_float(row["episode_return"])
        if not (isfinite(frame) and isfinite(value)):
            raise RunError(
                f"{folder}: line {rows.line_num} of {name} needs numbers for {counter} and episode_return, "
                f"not {row[counter]!r} and {row['episode_return']!r}; mend or remove that line"
            )
        returns[frame] = value
    if not returns:
        raise RunError(f"{folder}: {name} has no rows yet; let the run get to its first, or leave it out")
    frames = np.array(sorted(returns))
    return frames, np.array([returns[frame] for frame in frames])


def to_float(cell: str | None) -> float:
    """nan for what is no number; `DictReader` gives None for a cell that a short row lacks."""
    try:
        return float(cell or "")
    except ValueError:
        return nan


def read_run(folder: Path) -> Run:
    """Raises RunError where `config.yaml` or `eval.csv` is missing or unusable."""
    return Run(folder, read_config(folder), *read_returns(folder / "eval.csv"))


def bootstrap_interval(returns: Array, confidence: float = 0.95) -> tuple[Array, Array]:
    """Percentile bootstrap interval of the mean over seeds.

    Args:
        returns: (seeds, frames). Whole seeds are resampled, with replacement: a seed's evaluations depend on
            each other.

    Returns:
        Low and high ends, (frames,) each; nan with one seed, which tells nothing of the spread.
    """
    seeds, frames = returns.shape
    if seeds == 1:
        return np.full(frames, np.nan), np.full(frames, np.nan)
    weights = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    low, high = np.quantile(weights @ returns, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def curve(task: str, group: str, runs: Sequence[Run]) -> Curve:
    """Aligns a group's runs on the frames that all of them cover, interpolating between evaluations."""
    first, last = max(run.frames[0] for run in runs), min(run.frames[-1] for run in runs)
    name = f"{group} on {task}"
    if first > last:
        raise RunError(
            f"{name}: its {len(runs)} runs share no frames, one starts at {first:,.0f} and one ends at "
            f"{last:,.0f}; resume the short ones or leave them out"
        )
    if last < 0.9 * max(run.frames[-1] for run in runs):
        shortest = min(runs, key=lambda run: run.frames[-1])
        log.warning("%s is drawn to frame %s only, where %s ends", name, f"{last:,.0f}", shortest.folder)
    seeds = [run.config.get("seed") for run in runs]
    if len(set(seeds)) < len(seeds):
        log.warning("%s has a seed more than once (%s): are these runs of one kind?", name, seeds)

    frames = np.unique(np.concatenate([run.frames for run in runs]))
    frames = frames[(first <= frames) & (frames <= last)]
    returns = np.stack([np.interp(frames, run.frames, run.returns) for run in runs])
    return Curve(task, group, len(runs), frames, returns.mean(axis=0), *bootstrap_interval(returns))


def group_runs(runs: Iterable[Run], key: str) -> list[Curve]:
    """One curve for each task and each value of the config key `key`, in the order of the runs.

    What cannot be drawn is left out, with a warning.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    curves = []
    for run in runs:
        try:
            groups.setdefault((run.label("task"), run.label(key)), []).append(run)
        except RunError as error:
            log.warning("%s", error)
    for (task, group), members in groups.items():
        try:
            curves.append(curve(task, group, members))
        except RunError as error:
            log.warning("%s", error)
    return curves


def renamed(curves: Sequence[Curve], names: Mapping[str, str]) -> list[Curve]:
    """The curves under other names; each key of `names` is a group, or how only one of them ends.

    Raises:
        RunError: if a key tells no group or several.
    """
    groups = list(dict.fromkeys(c.group for c in curves))
    new = dict(zip(groups, groups, strict=True))
    for ending, name in names.items():
        meant = [g for g in groups if g == ending] or [g for g in groups if g.endswith(ending)]
        if len(meant) != 1:
            raise RunError(f"{ending} names {len(meant)} curves, expected one of {', '.join(groups)}, or its end")
        new[meant[0]] = name
    return [replace(c, group=new[c.group]) for c in curves]


def draw_runs(
    paths: Iterable[Path],
    out: Path,
    *,
    group: str = "agent.name",
    names: Mapping[str, str] | None = None,
    csv_out: Path | None = None,
    title: str | None = None,
    random_return: float | None = None,
) -> list[Curve]:
    """Draws runs together, a panel for each task, and writes the numbers drawn beside the picture.

    Args:
        paths: run folders, or folders with run folders in them.
        out: the picture: .png, .pdf or .svg.
        group: dotted config key; runs with the same value are seeds of one curve.
        names: of curves, by those values or their ends.
        csv_out: where the numbers go, by default `out` with the suffix .csv.
        random_return: the random policy's return, a dashed line. Only for runs of one task.

    Raises:
        ValueError: nothing can be drawn, or `random_return` is given for several tasks. A run that cannot be
            drawn among others that can is logged as a warning.
    """
    runs = []
    for folder in find_runs(paths):
        try:
            runs.append(read_run(folder))
        except RunError as error:
            log.warning("%s", error)
    curves = group_runs(runs, group)
    if not curves:
        raise RunError("none of these runs can be drawn")
    if names is not None:
        curves = renamed(curves, names)
    counted = sorted({run.counted for run in runs})
    if len(counted) > 1:
        raise RunError(f"these runs count different things, {' and '.join(counted)}: draw them apart")
    save_figure(figure_of(curves, title, random_return), out, counted[0])
    write_curves(curves, csv_out or out.with_suffix(".csv"))
    return curves


def figure_of(curves: Sequence[Curve], title: str | None, random_return: float | None) -> Figure:
    tasks = list(dict.fromkeys(c.task for c in curves))
    if random_return is not None and len(tasks) > 1:
        raise ValueError(f"a random policy's return is that of one task; these runs have {', '.join(tasks)}")
    columns = 2 if len(tasks) == 4 else min(3, len(tasks))
    rows = ceil(len(tasks) / columns)
    size = (8.0, 4.8) if len(tasks) == 1 else (5.2 * columns, 4.0 * rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in panels[len(tasks) :]:
        unused.remove()

    groups = list(dict.fromkeys(c.group for c in curves))
    for task, panel in zip(tasks, panels, strict=False):
        for c in (c for c in curves if c.task == task):
            cycle, i = divmod(groups.index(c.group), len(COLOURS))
            line, colour = LINES[cycle % len(LINES)], COLOURS[i]
            panel.plot(c.frames, c.mean, line, color=colour, linewidth=2.2, marker=marker(c.frames), label=c.legend)
            panel.fill_between(c.frames, c.low, c.high, color=colour, alpha=0.18, linewidth=0)
        if random_return is not None:
            panel.axhline(random_return, color="0.45", linestyle="--", linewidth=1.4, label="random policy")
        dress(panel, task if len(tasks) > 1 or not title else "")
    if title:
        figure.suptitle(title, fontsize=16)
    return figure


def draw_run(folder: Path, out: Path) -> None:
    """Draws one run: its training episodes thin, its evaluations bold. Either may still be missing.

    Raises:
        RunError: there is neither a training episode nor an evaluation.
    """
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    panel = figure.subplots()
    problems = []
    for name, label, colour, width in (
        ("train.csv", "training episodes", "0.65", 0.8),
        ("eval.csv", "evaluation", COLOURS[0], 2.4),
    ):
        try:
            frames, returns = read_returns(folder / name)
        except RunError as error:
            problems.append(str(error))
        else:
            panel.plot(frames, returns, color=colour, linewidth=width, marker=marker(frames), label=label)
    if len(problems) == 2:
        raise RunError("\n".join(problems))
    try:
        config = read_config(folder)
    except RunError:
        config = OmegaConf.create()
    dress(panel, run_title(config) if config else folder.name)
    save_figure(figure, out, COUNTERS["update" if "dataset" in config else "frame"])


def run_title(config: DictConfig) -> str:
    return f"{config.get('task')}, {OmegaConf.select(config, 'agent.name')}, seed {config.get('seed')}"


def marker(frames: Array) -> str:
    """Points where they are few enough to be seen; a single one would not show as a line."""
    return "o" if len(frames) <= 12 else ""


def dress(panel: Axes, title: str) -> None:
    panel.set_title(title, fontsize=15)
    panel.tick_params(labelsize=12, length=3, color="0.6")
    panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color("0.6")
    panel.grid(axis="y", color="0.92")
    panel.set_axisbelow(True)
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0 if panel.dataLim.ymin >= 0 else None)
    panel.legend(frameon=False, fontsize=12)


def save_figure(figure: Figure, out: Path, counted: str) -> None:
    if out.suffix not in FORMATS:
        raise ValueError(f"{out}: a picture's name must end in one of {', '.join(FORMATS)}")
    figure.supxlabel(counted, fontsize=13)
    figure.supylabel("episode return", fontsize=13)
    picture = io.BytesIO()
    figure.savefig(picture, format=out.suffix[1:], dpi=200)
    write_atomically(out, picture.getvalue())


def write_curves(curves: Iterable[Curve], out: Path) -> None:
    """One row for each point drawn. With one seed there is no interval, and its two cells are empty."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("task", "group", "seeds", "frame", "mean", "low", "high"))
    for c in curves:
        for frame, *values in zip(c.frames, c.mean, c.low, c.high, strict=True):
            cells = ("" if np.isnan(value) else float(value) for value in values)
            writer.writerow((c.task, c.group, c.seeds, f"{frame:.0f}", *cells))
    write_atomically(out, table.getvalue().encode())


def summary(curves: Iterable[Curve], key: str) -> str:
    """The table that is printed: each curve's last point."""
    rows = [("task", key, "seeds", "final return [95 % interval]", "steps")]
    for c in curves:
        interval = f" [{c.low[-1]:.1f}, {c.high[-1]:.1f}]" if c.seeds > 1 else ""
        rows.append((c.task, c.group, str(c.seeds), f"{c.mean[-1]:.1f}{interval}", f"{c.frames[-1]:,.0f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def as_pair(text: str) -> tuple[str, str]:
    value, found, name = text.partition("=")
    if not (value and found and name):
        raise RunError(f"--names takes VALUE=NAME, got {text!r}")
    return value, name


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.plot", description="Draw runs together.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run, or a folder with runs in it")
    parser.add_argument("--group", default="agent.name", metavar="KEY", help="config key; a curve for each value")
    parser.add_argument("--names", nargs="+", metavar="VALUE=NAME", help="VALUE may be its end only")
    parser.add_argument("--out", default=Path("curve.png"), type=Path, help="picture (default: %(default)s)")
    parser.add_argument("--csv", type=Path, help="the numbers drawn (default: beside the picture)")
    parser.add_argument("--title")
    parser.add_argument("--random", type=float, metavar="RETURN", help="the random policy's return, dashed")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        curves = draw_runs(
            options.runs,
            options.out,
            group=options.group,
            names=dict(as_pair(text) for text in options.names or ()),
            csv_out=options.csv,
            title=options.title,
            random_return=options.random,
        )
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(summary(curves, options.group))
    print(f"\n{options.out} drawn from {options.csv or options.out.with_suffix('.csv')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
