"""The picture of the phase diagram: tiles show what is kept of the state, isolines what was known before."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import isnan
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator
from scipy.interpolate import PchipInterpolator

from rlrep.experiments.video_study import phase
from rlrep.experiments.video_study.cells import METHODS, Array, Results
from rlrep.experiments.video_study.criteria import Phases
from rlrep.experiments.video_study.jobs import LENGTHS

MAP = colormaps["viridis"]  # also readable for the colour-blind, and printed in grey
ISOLINES = {"forward_model": (0.1, 0.3, 1.0), "temporal_contrastive": (0.1, 0.5, 0.9)}
KNOWN = {
    "forward_model": "lines, known before training: pixel variance\nthat the noise explains, over the state's",
    "temporal_contrastive": "lines, known before training: share of the\nslowest features that the noise takes",
}
FINE = 20  # points of an isoline from one setting to the next


def phase_diagram(
    results: Results, asked: Phases, numbers: Mapping[str, Array], colours: Mapping[str, str]
) -> Figure | None:
    """A column for each method, a row for each length of training; beside them the effect of longer training."""
    methods = [m for m in asked.methods if phase.cells(results, method=m)]
    states = {(m, n): phase.mean_state(results, m, n, asked) for m in methods for n in asked.updates}
    lengths = [n for n in asked.updates if any(np.isfinite(states[m, n]).any() for m in methods)]
    if not lengths:
        return None
    figure = Figure(figsize=(16, 9 if len(lengths) > 1 else 5.8))
    seeds = len({cell.seed for cell in phase.cells(results)})
    shown = f"0 as from a random encoder, 1 as from one of labels, {seeds} seed{'s' * (seeds > 1)}"
    figure.suptitle(f"How much of the state is kept under noise ({shown})", fontsize=20)
    courses = found_courses(results, asked)
    parts: Any = figure.subfigures(1, 2, width_ratios=(2.3, 1)) if courses else (figure, None)
    left, right = parts
    grid = left.subplots(len(lengths), len(methods), squeeze=False)
    for updates, panels in zip(lengths, grid, strict=True):
        for method, panel in zip(methods, panels, strict=True):
            tiles(panel, states[method, updates])
            isolines(panel, numbers[method], method, asked)
            axes(panel, results, asked)
            panel.set_title(f"{METHODS[method]}, {updates:,} updates", fontsize=16, pad=24)
        panels[0].set_ylabel("pixels under noise")
    for method, panel in zip(methods, grid[-1], strict=True):
        panel.set_xlabel(f"persistence ρ of the noise\n\n{KNOWN.get(method, '')}")
    bar = left.colorbar(ScalarMappable(Normalize(0, 1), MAP), ax=grid, location="right", aspect=35, pad=0.02)
    bar.set_ticks([0, 0.5, 1], labels=["0 or\nless", "0.5", "1"])
    bar.outline.set_visible(False)
    if right is not None:
        progress(right.subplots(), results, courses, asked, colours)
    return figure


def tiles(panel: Axes, state: Array) -> None:
    """A tile for each setting, with the mean over seeds; hatched if nothing was measured."""
    for (y, x), value in np.ndenumerate(state):
        tile = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor="0.96", edgecolor="white")
        panel.add_patch(tile)
        if isnan(value):
            tile.set_hatch("//")
            continue
        tile.set_facecolor(MAP(min(value, 1.0)))
        text = panel.text(x, y - 0.3, f"{value:.2f}", ha="center", va="center", fontsize=14)
        text.set_color("white" if value < 0.6 else "black")
        text.set_path_effects([withStroke(linewidth=3, foreground=tile.get_facecolor())])


def axes(panel: Axes, results: Results, asked: Phases) -> None:
    """The settings by their names, evenly spread."""
    panel.set_xlim(-0.5, len(asked.persistences) - 0.5)
    panel.set_ylim(-0.5, len(asked.sizes) - 0.5)
    panel.set_xticks(range(len(asked.persistences)), [name_of(rho) for rho in asked.persistences])
    shares = phase.coverages(results, asked)
    panel.set_yticks(range(len(asked.sizes)), [f"{100 * share:.0f} %" for share in shares])
    panel.tick_params(length=0)
    panel.grid(False)
    panel.spines[:].set_visible(False)


def name_of(persistence: float) -> str:
    return {0.0: "0\niid", 1.0: "1\nexogenous"}.get(persistence, f"{persistence:g}")


def isolines(panel: Axes, number: Array, method: str, asked: Phases) -> None:
    """Isolines of the number that was known before, interpolated between settings, each labelled at its upper end."""
    rows, columns = (np.linspace(-0.5, count - 0.5, count * FINE + 1) for count in number.shape)
    rhos = np.interp(columns, range(len(asked.persistences)), asked.persistences)
    along = PchipInterpolator(asked.persistences, number, axis=1)(rhos)  # a monotone curve through each row
    fine = np.array([np.interp(rows, range(len(number)), column) for column in along.T]).T
    lines = panel.contour(columns, rows, fine, ISOLINES[method], colors="black", linewidths=1.8, zorder=2.5)
    lines.set_path_effects([withStroke(linewidth=4, foreground="white")])
    for level, parts in zip(lines.levels, lines.allsegs, strict=True):
        if parts:
            x, y = max(np.concatenate(parts), key=lambda end: end[1])
            panel.annotate(f"{level:g}", (x, y), (0, 3), textcoords="offset points", ha="center", fontsize=13)


Course = tuple[list[int], list[float]]


def found_courses(results: Results, asked: Phases) -> dict[tuple[str, float, float], Course]:
    """For each method, size and persistence with the longest training: the lengths after which it was measured, and the
    mean over seeds of what is kept then.
    """
    courses = {}
    for method, (size, rho) in product((*asked.methods, phase.CONTROL), phase.LONGEST):
        states = {n: phase.at(results, method, n, size, rho, asked).values() for n in LENGTHS}
        known = {n: float(np.mean(list(found))) for n, found in states.items() if found}
        if len(known) > 1:
            courses[method, size, rho] = list(known), list(known.values())
    return courses


def progress(
    panel: Axes,
    results: Results,
    courses: Mapping[tuple[str, float, float], Course],
    asked: Phases,
    colours: Mapping[str, str],
) -> None:
    """The effect of longer training, a line for each method and setting, with its name at its end."""
    ends: list[tuple[float, int, str, str]] = []
    for (method, size, rho), (updates, state) in courses.items():
        line = "--" if (size, rho) == phase.LONGEST[-1] else "-"
        panel.plot(updates, state, line, color=colours[method], linewidth=2.4, marker="o", markersize=7)
        ends.append((state[-1], updates[-1], f"{METHODS[method]}, ρ = {rho:g}", colours[method]))
    panel.set_xscale("log")
    panel.set_xticks(LENGTHS, [f"{n:,}" for n in LENGTHS])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_ylim(-0.04, 1.04)
    panel.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    shares = dict(zip(asked.sizes, phase.coverages(results, asked), strict=True))
    covered = " and ".join(f"{100 * shares[size]:.0f} %" for size in sorted({size for _, size, _ in courses}))
    panel.set_title(f"longer training, {covered} of the pixels", fontsize=16, pad=24)
    panel.set_xlabel("updates")
    height = -1.0
    for end, last, name, colour in sorted(ends):
        height = max(end, height + 0.045)  # keeps names apart
        where: dict[str, Any] = dict(textcoords="offset points", va="center")
        panel.annotate(name, (last, height), (9, 0), fontsize=13, color=colour, **where)
