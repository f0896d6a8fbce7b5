"""Learning curves: of several runs together, a panel for each task, and of one run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from rlrep.experiments.results.curve_tables import read_curves, rows
from rlrep.experiments.results.pictures import (
    COLOURS,
    GREY,
    LINES,
    MARKERS,
    band,
    check_name,
    draw_random_policy,
    drawable,
    save,
    shortened,
    styled,
)
from rlrep.experiments.results.runs import (
    CONFIG,
    EPISODES,
    EVALUATIONS,
    RANDOM,
    Config,
    RunError,
    counted,
    find_runs,
    random_return,
    read_config,
    read_returns,
    read_run,
)
from rlrep.experiments.results.seeds import Curve, group_runs, renamed
from rlrep.experiments.results.tables import write_csv
from rlrep.experiments.yaml_files import value_of

log = logging.getLogger(__name__)

GROUP = "agent.name"  # the default key that distinguishes curves


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
        csv_out: the file of the numbers, by default `out` with the suffix .csv.
        random_return: the random policy's return, a dashed line, instead of the value in the runs. Only for runs of one
            task.

    Raises:
        ValueError: if nothing can be drawn, if `group` is given for CSV files only, or `random_return` for several
            tasks. A run that cannot be drawn among others that can is logged as a warning.
    """
    check_name(out)
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
    csv_out = csv_out or out.with_suffix(".csv")
    kept = {run.folder.resolve() / name for run in runs for name in (CONFIG, EVALUATIONS, EPISODES, RANDOM)}
    if csv_out.resolve() in {*kept, out.resolve()}:
        raise ValueError(f"the numbers can't be written to {csv_out}, which holds something else: name another file")
    save(figure_of(curves, title), out)
    write_csv(csv_out, [row for c in curves for row in rows(c)])
    return curves


@styled()
def figure_of(
    curves: Sequence[Curve], title: str | None, published: Sequence[tuple[str, str, float, float]] = ()
) -> Figure:
    """A panel for each task. `published` are published points: task, method, frame and return; with them, all panels
    share one legend below."""
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
            band(panel, c.frames, c.means, COLOURS[i], line=LINES[cycle % len(LINES)], label=legend(c))
        draw_random_policy(panel, [c.random_return for c in shown])
        methods = list(dict.fromkeys(method for _, method, _, _ in published))
        for method, frame, value in (point[1:] for point in published if point[0] == task):
            marker = MARKERS[methods.index(method) % len(MARKERS)]
            panel.plot(frame, value, marker, color=GREY, markersize=8, clip_on=False, label=f"{method}, published")
        panel.set_title(shortened(task) if len(tasks) > 1 or not title else "")
        finish(panel, shown[0].counted, min(np.nanmin(c.means.mean) for c in shown))
    if published:
        share_legend(figure)
    figure.suptitle(title or "")
    with_interval = any(np.isfinite(c.means.low).any() for c in curves)
    figure.supylabel("episode return (mean, 95 % interval)" if with_interval else "episode return")
    return figure


def share_legend(figure: Figure) -> None:
    """Replaces the panels' legends by one below; drops the parts in brackets, which differ between panels."""
    shown: dict[str, Artist] = {}
    for panel in figure.axes:
        shown |= {name.partition(" (")[0]: line for line, name in zip(*panel.get_legend_handles_labels(), strict=True)}
        if (own := panel.get_legend()) is not None:
            own.remove()
    figure.legend([*shown.values()], [*shown], loc="outside lower center", ncols=3)


def legend(c: Curve) -> str:
    most, last = int(c.means.seeds.max()), int(c.means.seeds[-1])
    fewer = f", {last} at the end" if last < most else ""
    return f"{shortened(c.group)} ({most} seed{'s' * (most > 1)}{fewer})"


def finish(panel: Axes, unit: str, least: float) -> None:
    """The axes of a learning curve. `least` is the least mean: if no mean is below 0, intervals are cut off at 0."""
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

    Raises: RunError: if there is neither a training episode nor an evaluation.
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
    title = f"{config.get('task')}, {value_of(config, 'agent.name')}, seed {config.get('seed')}"
    panel.set_title(shortened(title if config else folder.name))
    figure.supylabel("episode return")
    finish(panel, counted(config), min(least))
    save(figure, out)
