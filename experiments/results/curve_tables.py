"""Learning curves as tables: writes, reads and prints the file beside a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from math import inf
from pathlib import Path

import numpy as np

from rlrep.experiments.results.runs import RunError, read_text, to_float
from rlrep.experiments.results.seeds import Curve
from rlrep.experiments.results.statistics import Means, effects_needed
from rlrep.experiments.results.tables import markdown, rounded

EXAMPLE = 0.4  # of the mean: the effect whose power is reported, large for a paper
COLUMNS = ("task", "group", "counted", "frame", "seeds", "mean", "spread", "low", "high", "random")


def rows(c: Curve) -> list[dict[str, object]]:
    """A row for each drawn point, which `read_curves` reads; values that a single seed lacks are empty cells."""
    numbers = (c.frames, c.means.seeds, c.means.mean, c.means.spread, c.means.low, c.means.high)
    random = None if c.random_return is None else rounded(c.random_return)
    points = zip(*(map(rounded, values) for values in numbers), strict=True)
    return [dict(zip(COLUMNS, (c.task, c.group, c.counted, *point, random), strict=True)) for point in points]


def read_curves(path: Path) -> list[Curve]:
    """The curves in a table that `draw_runs` wrote.

    Raises:
        RunError: if it is not such a table.
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
    """The printed text: each curve's last point, and the difference that such an experiment could detect."""
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
    """The detectable difference between the ends of two of these curves, in a sentence; empty if unknown.

    Of more than two, all count as if they had one spread and one number of seeds.
    """
    seeds, spreads = (np.array([getattr(c.means, name)[-1] for c in curves]) for name in ("seeds", "spread"))
    level = float(np.mean([c.means.mean[-1] for c in curves]))
    if len(curves) < 2 or seeds.min() < 2 or not 0 < level < inf:
        return ""
    if len(curves) > 2:
        weights = (seeds - 1) / (seeds - 1).sum()
        spreads = np.full(2, np.sqrt(weights @ spreads**2))
        seeds = np.full(2, round(len(seeds) / float((1 / seeds).sum())))
    if not 0 < spreads.sum() < inf:
        return ""
    first, second = ((float(spread), int(n)) for spread, n in zip(spreads, seeds, strict=True))
    needed = effects_needed([(1, *first), (-1, *second)])
    least, found = float(np.quantile(needed, 0.8)), float(np.mean(needed <= EXAMPLE * level))
    return (
        f"{curves[0].task}: as much as seeds vary, such an experiment finds a difference of {100 * EXAMPLE:.0f} % "
        f"({EXAMPLE * level:.1f}) between two of these means in {100 * found:.0f} of 100 tries, and one of "
        f"{100 * least / level:.0f} % ({least:.1f}) in 80 (Welch's t test at 5 %)."
    )
