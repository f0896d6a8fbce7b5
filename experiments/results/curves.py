"""Learning curves: seeds put together, drawn, written and read back; and the style of every picture.

Runs with the same label are seeds of one curve: their mean at each frame, over the seeds that got there, and the t
interval of that mean.
"""

from __future__ import annotations

import csv
import gc
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, nan
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from experiments.files import write_atomically
from experiments.results.runs import (
    EPISODES,
    EVALUATIONS,
    Array,
    Config,
    Run,
    RunError,
    counted,
    differences,
    find_runs,
    random_return,
    read_config,
    read_returns,
    read_run,
    read_text,
    select,
    to_float,
)
from experiments.results.statistics import Means, detectable, over_seeds, power
from experiments.results.tables import markdown, rounded, write_csv

log = logging.getLogger(__name__)

# Okabe and Ito's palette, which the colour-blind can tell apart, without its yellow: too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", ":", "-.")
GREY = "0.45"
FORMATS = (".png", ".pdf", ".svg")
WIDTH = 1920  # pixels, a slide's
LONGEST_NAME = 80  # letters
SHORT = 0.9  # of the longest run of a curve: one that ends before that has stopped early
GROUP = "agent.name"  # what tells curves apart, unless somebody says otherwise
EXAMPLE = 0.4  # of the mean: the effect whose power is stated, a large one as papers go

styled = partial(
    matplotlib.rc_context,
    {
        "axes.axisbelow": True,
        "axes.edgecolor": "0.6",
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.labelsize": 14,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 16,
        "figure.constrained_layout.use": True,
        "figure.labelsize": 14,
        "figure.titlesize": 18,
        "grid.color": "0.92",
        "legend.fontsize": 12,
        "legend.frameon": False,
        "xtick.color": "0.6",
        "xtick.labelcolor": "black",
        "xtick.labelsize": 12,
        "ytick.color": "0.6",
        "ytick.labelcolor": "black",
        "ytick.labelsize": 12,
    },
)
"""A decorator, or a context, for what draws: big enough for a slide, nothing that is not needed."""


@dataclass(frozen=True)
class Curve:
    """The seeds of a group together.

    Attributes:
        task: what was learned, see `Run.subject`; the title of its panel.
        counted: what `frames` count.
        means: over the seeds that reached each frame.
        random_return: the random policy's, where the runs know it.
    """

    task: str
    group: str
    counted: str
    frames: Array
    means: Means
    random_return: float | None = None

    @property
    def legend(self) -> str:
        most, last = int(self.means.seeds.max()), int(self.means.seeds[-1])
        fewer = f", {last} at the end" if last < most else ""
        return f"{shortened(self.group)} ({most} seed{'s' * (most > 1)}{fewer})"


def shortened(name: str) -> str:
    """A name that fits a picture, on one line, whose dollar signs are no formulas."""
    name = " ".join(name.split())
    name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}…{name[-LONGEST_NAME // 2 :]}"
    return name.replace("$", r"\$")


def align(curves: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Curves at common points, interpolated between their own: (points,), (curves, points), nan outside of a curve.

    The points end where the first curve ends that is not much shorter than the longest.
    """
    ends = np.array([x[-1] for x, _ in curves])
    points = np.unique(np.concatenate([x for x, _ in curves]))
    points = points[points <= ends[ends >= SHORT * ends.max()].min()]
    return points, np.stack([np.interp(points, x, y, left=nan, right=nan) for x, y in curves])


def curve(task: str, group: str, runs: Sequence[Run]) -> Curve:
    """One curve of several seeds; says what may be wrong with them."""
    frames, returns = align([(run.frames, run.returns) for run in runs])
    name, longest = f"{group} on {task}", max(run.frames[-1] for run in runs)
    for run in runs:
        if run.frames[-1] < SHORT * longest:
            log.warning(
                "%s: %s ends at %s of %s %s, and counts up to there only; resume it",
                name,
                run.folder,
                f"{run.frames[-1]:,.0f}",
                f"{longest:,.0f}",
                run.counted,
            )
    seeds = [run.config.get("seed") for run in runs]
    if len(set(seeds)) < len(seeds):
        log.warning("%s has a seed more than once (%s): are these runs of one kind?", name, seeds)
    mixed = {setting for run in runs[1:] for setting in differences(run.config, runs[0].config)}
    if mixed:
        log.warning(
            "%s joins runs of several configurations; they differ in %s: --group KEY draws them apart",
            name,
            ", ".join(sorted(mixed)),
        )
    known = [run.random_return for run in runs if run.random_return is not None]
    return Curve(task, group, runs[0].counted, frames, over_seeds(returns), float(np.mean(known)) if known else None)


def group_runs(runs: Iterable[Run], key: str) -> list[Curve]:
    """One curve for each task and each value of the config key `key`, in the order of the runs.

    A run without that key is left out, with a warning.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        try:
            groups.setdefault((run.subject, run.label(key)), []).append(run)
        except RunError as error:
            log.warning("%s", error)
    return [curve(task, group, members) for (task, group), members in groups.items()]


def renamed(curves: Sequence[Curve], names: Mapping[str, str]) -> list[Curve]:
    """The curves under other names; each key of `names` is a group, or how only one of them ends.

    Raises:
        RunError: a key names no group or several.
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
    paths: Sequence[Path],
    out: Path,
    *,
    group: str | None = None,
    names: Mapping[str, str] | None = None,
    csv_out: Path | None = None,
    title: str | None = None,
    random_return: float | None = None,
) -> list[Curve]:
    """Draws runs together, a panel for each task, and writes the numbers drawn beside the picture.

    Args:
        paths: run folders, folders with run folders in them, or CSV files that this function wrote.
        out: the picture: .png, .pdf or .svg.
        group: dotted config key; runs with the same value are seeds of one curve. None is `GROUP`. The curves of a CSV
            file stay as they are.
        names: of curves, by those values or their ends.
        csv_out: where the numbers go, by default `out` with the suffix .csv.
        random_return: the random policy's return, a dashed line, instead of what the runs know of it. Only for runs of
            one task.

    Raises:
        ValueError: nothing can be drawn, `group` is given for CSV files alone, or `random_return` is given for several
            tasks. A run that cannot be drawn among others that can is logged as a warning.
    """
    if out.suffix not in FORMATS:
        raise ValueError(f"{out}: a picture's name must end in one of {', '.join(FORMATS)}")
    tables = {path for path in paths if path.suffix == ".csv"}
    runs = []
    for folder in find_runs(path for path in paths if path not in tables):
        try:
            runs.append(read_run(folder))
        except RunError as error:
            log.warning("%s", error)
    if group is not None and tables and not runs:
        raise ValueError(
            f"--group {group} has no effect: {min(tables)} holds curves, which are grouped already; give the runs "
            f"themselves, or leave it out"
        )
    curves = [*(c for path in paths if path in tables for c in read_curves(path)), *group_runs(runs, group or GROUP)]
    if not curves:
        raise RunError("none of these runs can be drawn")
    if names is not None:
        curves = renamed(curves, names)
    if random_return is not None:
        if len(tasks := {c.task for c in curves}) > 1:
            raise ValueError(
                f"a random policy's return is that of one task; these runs have {', '.join(sorted(tasks))}"
            )
        curves = [replace(c, random_return=random_return) for c in curves]
    save(figure_of(curves, title), out)
    write_csv(csv_out or out.with_suffix(".csv"), [row for c in curves for row in rows(c)])
    return curves


@styled()
def figure_of(curves: Sequence[Curve], title: str | None) -> Figure:
    """A panel for each task."""
    tasks = list(dict.fromkeys(c.task for c in curves))
    columns = 2 if len(tasks) == 4 else min(3, len(tasks))
    shape = ceil(len(tasks) / columns), columns
    figure = Figure(figsize=(8.0, 4.8) if len(tasks) == 1 else (5.2 * shape[1], 4.0 * shape[0]))
    panels = list(figure.subplots(*shape, squeeze=False).flat)
    for unused in panels[len(tasks) :]:
        unused.remove()
    groups = list(dict.fromkeys(c.group for c in curves))
    for task, panel in zip(tasks, panels, strict=False):
        shown = [c for c in curves if c.task == task]
        for c in shown:
            cycle, i = divmod(groups.index(c.group), len(COLOURS))
            band(panel, c.frames, c.means, COLOURS[i], line=LINES[cycle % len(LINES)], label=c.legend)
        draw_random_policy(panel, [c.random_return for c in shown])
        panel.set_title(shortened(task) if len(tasks) > 1 or not title else "")
        finish(panel, shown[0].counted, min(np.nanmin(c.means.mean) for c in shown))
    figure.suptitle(title or "")
    with_interval = any(np.isfinite(c.means.low).any() for c in curves)
    figure.supylabel("episode return (mean, 95 % interval)" if with_interval else "episode return")
    return figure


def drawable(values: Array) -> Array:
    """Values within what Matplotlib can make an axis for, whose length is a number too."""
    return np.clip(values, -1e300, 1e300)


def band(panel: Axes, x: Array, means: Means, colour: str, **options: Any) -> None:
    """A mean and its interval; points where they are few enough to be seen, as one alone would not show as a line."""
    style, label = options.get("line", "-"), options.get("label")
    marker = options.get("marker", "o" if len(x) <= 12 else "")
    mean, low, high = drawable(means.mean), drawable(means.low), drawable(means.high)
    panel.plot(x, mean, style, color=colour, linewidth=2.4, marker=marker, markersize=6, label=label)
    panel.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    for end in (low, high):  # where bands lie on each other, their edges tell them apart
        panel.plot(x, end, style, color=colour, linewidth=0.8, alpha=0.5)


def draw_random_policy(panel: Axes, known: Sequence[float | None]) -> None:
    """A dashed line at the mean of what is known."""
    if returns := [value for value in known if value is not None]:
        height = float(np.mean(drawable(np.array(returns))))
        panel.axhline(height, color=GREY, linestyle="--", linewidth=1.4, label=f"random policy ({height:.3g})")


def finish(panel: Axes, unit: str, least: float) -> None:
    """The axes of a learning curve. `least` is the least mean: an interval that reaches below 0 is cut off there where
    no mean does."""
    panel.set_xlabel(unit)
    panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    panel.set_xlim(left=0)
    if least >= 0:
        panel.set_ylim(0, 1.06 * panel.dataLim.ymax or None)
    panel.legend()


@styled()
def draw_run(folder: Path, out: Path) -> None:
    """Draws one run: its training episodes thin, its evaluations bold. Either may still be missing.

    Raises:
        RunError: there is neither a training episode nor an evaluation.
    """
    figure = Figure(figsize=(8.0, 4.8))
    panel = figure.subplots()
    problems, least = [], []
    for name, label, colour, width in (
        (EPISODES, "training episodes", "0.65", 0.8),
        (EVALUATIONS, "evaluation", COLOURS[0], 2.4),
    ):
        try:
            frames, returns = read_returns(folder / name)
        except RunError as error:
            problems.append(str(error))
        else:
            marker = "o" if len(frames) <= 12 else ""
            panel.plot(frames, drawable(returns), color=colour, linewidth=width, marker=marker, label=label)
            least.append(returns.min())
    if len(problems) == 2:
        raise RunError("\n".join(problems))
    config: Config = {}
    with suppress(RunError):
        config = read_config(folder)
    draw_random_policy(panel, [random_return(folder, config)])
    title = f"{config.get('task')}, {select(config, 'agent.name')}, seed {config.get('seed')}"
    panel.set_title(shortened(title if config else folder.name))
    figure.supylabel("episode return")
    finish(panel, counted(config), min(least))
    save(figure, out)


def save(figure: Figure, out: Path) -> None:
    """Writes a picture and frees it: a figure is a web of cycles that hold its pixels until they are collected.

    Raises:
        ValueError: the name does not end as a picture's.
    """
    if out.suffix not in FORMATS:
        raise ValueError(f"{out}: a picture's name must end in one of {', '.join(FORMATS)}")
    picture = io.BytesIO()
    with styled():
        figure.savefig(picture, format=out.suffix[1:], dpi=WIDTH / figure.get_figwidth())
    figure.clear()
    gc.collect()
    write_atomically(out, picture.getvalue())


COLUMNS = ("task", "group", "counted", "frame", "seeds", "mean", "spread", "low", "high", "random")


def rows(c: Curve) -> list[dict[str, object]]:
    """A row for each point drawn, which `read_curves` reads back; what a single seed does not have is an empty cell."""
    numbers = (c.frames, c.means.seeds, c.means.mean, c.means.spread, c.means.low, c.means.high)
    random = None if c.random_return is None else rounded(c.random_return)
    points = zip(*(map(rounded, values) for values in numbers), strict=True)
    return [dict(zip(COLUMNS, (c.task, c.group, c.counted, *point, random), strict=True)) for point in points]


def read_curves(path: Path) -> list[Curve]:
    """The curves in a table that `draw_runs` wrote.

    Raises:
        RunError: it is no such table.
    """
    groups: dict[tuple[str, str, str], list[list[float]]] = {}
    try:
        for row in csv.DictReader(io.StringIO(read_text(path), newline="")):
            numbers = [to_float(row[name]) for name in ("frame", "seeds", "mean", "spread", "random")]
            groups.setdefault((row["task"], row["group"], row["counted"]), []).append(numbers)
        found = []
        for labels, points in groups.items():
            frames, seeds, mean, spread, random = np.array(sorted(points)).T
            if not (np.isfinite([frames, mean]).all() and (seeds >= 1).all()):
                raise ValueError("a frame, a mean or a number of seeds is no number")
            means = Means(seeds.astype(np.int64), mean, spread)
            found.append(Curve(*labels, frames, means, None if np.isnan(random[0]) else float(random[0])))
    except (OSError, UnicodeDecodeError, KeyError, ValueError, csv.Error) as error:
        raise RunError(f"{path} is no table of curves, which has the columns {', '.join(COLUMNS)} ({error})") from error
    return found


def summary(curves: Sequence[Curve], key: str) -> str:
    """What is printed: each curve's last point, and what difference such an experiment could have found."""
    lines = []
    for c in curves:
        low, high = c.means.low[-1], c.means.high[-1]
        lines.append(
            {
                "task": c.task,
                key: c.group,
                "seeds": str(c.means.seeds[-1]),
                "final return [95 % interval]": f"{c.means.mean[-1]:.1f}"
                + ("" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]"),
                c.counted: f"{c.frames[-1]:,.0f}",
            }
        )
    names = list(dict.fromkeys(name for line in lines for name in line))
    table = markdown([{name: line.get(name, "") for name in names} for line in lines])
    tasks = dict.fromkeys(c.task for c in curves)
    return "\n\n".join([table, *filter(None, (sensitivity([c for c in curves if c.task == t]) for t in tasks))])


def sensitivity(curves: Sequence[Curve]) -> str:
    """What difference between two of these curves' ends would have been found, in a sentence; empty if unknown."""
    seeds, spreads = [int(c.means.seeds[-1]) for c in curves], [float(c.means.spread[-1]) for c in curves]
    level = float(np.mean([c.means.mean[-1] for c in curves]))
    least, found = detectable(spreads, seeds), power(EXAMPLE * level, spreads, seeds)
    if np.isnan([least, found]).any() or level <= 0:
        return ""
    return (
        f"{curves[0].task}: as much as seeds vary, such an experiment finds a difference of {100 * EXAMPLE:.0f} % "
        f"({EXAMPLE * level:.1f}) between two of these means in {100 * found:.0f} of 100 tries, and one of "
        f"{100 * least / level:.0f} % ({least:.1f}) in 80 (t test at 5 %)."
    )
