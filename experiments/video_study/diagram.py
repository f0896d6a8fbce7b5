"""The pictures of the phase diagram: its noise; and tiles that show what is kept of the state, with isolines of what
was known before.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from scipy.interpolate import PchipInterpolator

from rlrep.envs.gridworld import VectorGridWorld
from rlrep.experiments.results.runs import Array
from rlrep.experiments.video_study import phase
from rlrep.experiments.video_study.cells import METHODS, Results
from rlrep.experiments.video_study.criteria import Phases
from rlrep.experiments.video_study.jobs import Job
from rlrep.experiments.video_study.verdicts import percent

MAP = colormaps["viridis"]  # also readable for the colour-blind, and printed in grey
ISOLINES = {"forward_model": (0.1, 0.3, 1.0), "temporal_contrastive": (0.1, 0.5, 0.9)}
KNOWN = {
    "forward_model": "lines, known before training: pixel variance\nthat the noise explains, over the state's",
    "temporal_contrastive": "lines, known before training: share of the\nslowest features that the noise takes",
}
SHOWN = {"no noise": None, "ρ = 0 (iid)": 0.0, "ρ = 0.8": 0.8, "ρ = 1 (exogenous)": 1.0}  # persistences by their name
FRAMES = 7  # of an episode, one step apart
FINE = 20  # points of an isoline from one setting to the next


def phase_diagram(results: Results, asked: Phases, numbers: Mapping[str, Array]) -> Figure | None:
    """A column for each method, a row for each length of training."""
    others = [m for m in METHODS if m not in (*asked.methods, asked.floor, asked.ceiling, phase.CONTROL)]
    methods = [m for m in (*asked.methods, *others) if phase.cells(results, method=m)]
    states = {(m, n): phase.mean_state(results, m, n, asked) for m in methods for n in asked.updates}
    lengths = [n for n in asked.updates if any(np.isfinite(states[m, n]).any() for m in methods)]
    if not any((np.isfinite(state).sum() > 1) for state in states.values()):
        return None  # one setting is no diagram
    figure = Figure(figsize=(max(10, 7 * len(methods)), 10.5 if len(lengths) > 1 else 6.5))
    seeds = len({cell.seed for method in methods for cell in phase.cells(results, method=method)})
    shown = f"0: random encoder, 1: encoder of labels; {seeds} seed{'s' * (seeds > 1)}"
    figure.suptitle(f"State kept under noise ({shown})", fontsize=20)
    grid = figure.subplots(len(lengths), len(methods), squeeze=False)
    for updates, panels in zip(lengths, grid, strict=True):
        for method, panel in zip(methods, panels, strict=True):
            tiles(panel, states[method, updates])
            if method in numbers:
                isolines(panel, numbers[method], method, asked)
            axes(panel, results, asked)
            panel.set_title(f"{METHODS[method]}, {updates:,} updates", fontsize=16, pad=24)
        panels[0].set_ylabel("pixels under noise")
    for method, panel in zip(methods, grid[-1], strict=True):
        panel.set_xlabel(f"persistence ρ of the noise\n\n{KNOWN.get(method, '')}")
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), MAP), ax=grid, location="right", aspect=35, pad=0.02)
    bar.set_ticks([0, 0.5, 1], labels=["0 or\nless", "0.5", "1"])
    bar.outline.set_visible(False)
    return figure


def noise_examples() -> Figure:
    """What an agent sees on the way to the goal, a row for each persistence of the noise."""
    figure = Figure(figsize=(16, 9.6))
    figure.suptitle(
        "Seven steps on the way to the goal (the large green tile), under noise of each persistence ρ", fontsize=20
    )
    for (name, persistence), panels in zip(SHOWN.items(), figure.subplots(len(SHOWN), FRAMES), strict=True):
        noise = "none" if persistence is None else "persistence"
        world = VectorGridWorld(1, 0, Job(phase.DOMAIN, "phase", "random", noise, 0, persistence or 0.0).noise_options)
        for panel in panels:
            panel.imshow(world.observe()[0].transpose(1, 2, 0), interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_visible(False)
            world.step(world.table.optimal_action(world.state))
        panels[0].set_ylabel(name, fontsize=16)
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
        text = panel.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=15, zorder=3)
        text.set_color("white" if value < 0.6 else "black")
        text.set_bbox({"facecolor": tile.get_facecolor(), "edgecolor": "none", "pad": 2})  # lines end there


def axes(panel: Axes, results: Results, asked: Phases) -> None:
    """The settings by their names, evenly spread."""
    panel.set_xlim(-0.5, len(asked.persistences) - 0.5)
    panel.set_ylim(-0.5, len(asked.sizes) - 0.5)
    panel.set_xticks(range(len(asked.persistences)), [name_of(rho) for rho in asked.persistences])
    shares = phase.coverages(results, asked)
    panel.set_yticks(range(len(asked.sizes)), [*map(percent, shares)])
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
            text = panel.annotate(f"{level:g}", (x, y), (0, 4), textcoords="offset points", ha="center", fontsize=13)
            text.set_bbox({"facecolor": "black", "edgecolor": "none", "pad": 2})
            text.set_color("white")
