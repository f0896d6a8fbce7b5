"""The look of every picture: style, colours, lines with bands, and file."""

from __future__ import annotations

import gc
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlrep.experiments.files import write_atomically
from rlrep.experiments.results.runs import Array
from rlrep.experiments.results.statistics import Means

# Okabe and Ito's palette, which the colour-blind can tell apart, without its yellow: too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", ":", "-.")
GREY = "0.45"
MARKERS = ("s", "D", "^", "v", "P", "X", "*")
FORMATS = (".png", ".pdf", ".svg")
WIDTH = 1920  # pixels, a slide's
LONGEST_NAME = 80  # letters

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
"""A decorator or context for drawing functions: large enough for a slide, without decoration."""


def shortened(name: str) -> str:
    """A name that fits a picture, on one line, with escaped dollar signs."""
    name = " ".join(name.split())
    name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}…{name[-LONGEST_NAME // 2 :]}"
    return name.replace("$", r"\$")


def drawable(values: Array) -> Array:
    """Clips values to a range for which Matplotlib can make an axis of finite length."""
    return np.clip(values, -1e300, 1e300)


def band(panel: Axes, x: Array, means: Means, colour: str, **options: Any) -> None:
    """Draws a mean and its interval; marks points if they are few, because a single point is not visible as a line."""
    style, label = options.get("line", "-"), options.get("label")
    marker = options.get("marker", "o" if len(x) <= 12 else "")
    mean, low, high = drawable(means.mean), drawable(means.low), drawable(means.high)
    panel.plot(x, mean, style, color=colour, linewidth=2.4, marker=marker, markersize=6, label=label)
    panel.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    for end in (low, high):  # edges distinguish overlapping bands
        panel.plot(x, end, style, color=colour, linewidth=0.8, alpha=0.5)


def draw_random_policy(panel: Axes, known: Sequence[float | None]) -> None:
    """A dashed line at the mean of the known returns."""
    if returns := [value for value in known if value is not None]:
        height = float(np.mean(drawable(np.array(returns))))
        panel.axhline(height, color=GREY, linestyle="--", linewidth=1.4, label=f"random policy ({height:.3g})")


def check_name(out: Path) -> None:
    if out.suffix not in FORMATS:
        raise ValueError(f"{out}: a picture's name must end in one of {', '.join(FORMATS)}")


def save(figure: Figure, out: Path) -> None:
    """Writes a picture and frees it: a figure is a web of cycles that hold its pixels until they are collected.

    Raises:
        ValueError: if the name does not have a picture's ending.
    """
    check_name(out)
    picture = io.BytesIO()
    with styled():
        figure.savefig(picture, format=out.suffix[1:], dpi=WIDTH / figure.get_figwidth())
    figure.clear()
    gc.collect()
    write_atomically(out, picture.getvalue())
