"""The picture of an offline report: a panel for each data set, one for all, and one for the probability that the
objective helps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rlrep.experiments.comparison.scores import ALL, Line
from rlrep.experiments.results.pictures import COLOURS, GREY, save, styled

PLAIN, ADDED = COLOURS[0], COLOURS[1]
CHANCE = "0.88"
APART = 0.17  # of the two points of an agent, in rows
LABELS = {"bc": "BC", "td3_bc": "TD3+BC", "drqv2_bc": "DrQ-v2+BC", "cql": "CQL", "iql": "IQL", "drqv2": "DrQ-v2"}


@styled()
def draw(lines: Sequence[Line], out: Path, objective: str) -> None:
    """Draws the results of `scores.summarize`: scores, or returns without scores."""
    title = objective.upper()
    statistic = "score" if any(line.statistic == "score" for line in lines) else "return"
    agents = list(dict.fromkeys(line.agent for line in lines if line.agent != ALL))
    sets = list(dict.fromkeys(line.data for line in lines if line.data != ALL))
    shown = [(data, data, statistic) for data in sets]
    if len(sets) > 1 and statistic == "score":
        shown.append((ALL, "all data, mean", "mean score"))
    improvements = [line for line in lines if line.statistic == "P(improvement)"]

    count = len(shown) + bool(improvements)
    figure = Figure(figsize=(1.6 + 2.9 * count, 2.2 + 0.62 * len(agents)))
    panels = list(figure.subplots(1, count, sharey=True, squeeze=False).flat)
    tasks = {data.split(" ")[0] for data in sets}
    for panel, (data, name, what) in zip(panels, shown, strict=False):
        points(panel, [line for line in lines if (line.data, line.statistic) == (data, what)], agents)
        name = name.split(" ", 1)[1] if len(tasks) == 1 and data != ALL else name
        panel.set_title(name.replace("_", " "))
        panel.set_xlabel("random 0, expert 100" if statistic == "score" else "episode return")
        panel.margins(x=0.1)
    if statistic == "score" or len(tasks) == 1:  # then all are on one scale
        limits = [panel.get_xlim() for panel in panels[: len(shown)]]
        for panel in panels[: len(shown)]:
            panel.set_xlim(min(0, *(low for low, _ in limits)), max(high for _, high in limits))
    if improvements:
        draw_improvements(panels[-1], improvements, agents, title)
    for panel in panels:
        panel.set_yticks(range(len(agents)), [LABELS.get(agent, agent) for agent in agents])
        panel.set_ylim(len(agents) - 0.5, -0.5)
        panel.tick_params(axis="y", length=0, labelsize=14)
        panel.spines["left"].set_visible(False)
        panel.grid(axis="y", visible=False)
        panel.grid(axis="x")
    if len(tasks) == 1:
        figure.suptitle(f"{next(iter(tasks))} from pixels, offline")
    figure.legend(handles=legend(lines, title), loc="outside lower center", ncols=3)
    save(figure, out)


def draw_improvements(panel: Axes, lines: Sequence[Line], agents: Sequence[str], title: str) -> None:
    """The probability that a run is better with the objective, in front of the range by chance."""
    for line in lines:
        if line.agent in agents and line.chance:
            low, high = line.chance
            panel.barh(agents.index(line.agent), high - low, 0.5, low, color=CHANCE, zorder=0.5)
    panel.axvline(0.5, color=GREY, linestyle="--", linewidth=1.4)
    points(panel, lines, agents)
    panel.set_title(f"P(better with {title})")
    together = next((line for line in lines if line.agent == ALL), None)
    label = "probability"
    if together is not None and together.chance:
        label = f"all agents: {together.estimate.text(2)}\nby chance {{:.2f}} to {{:.2f}}".format(*together.chance)
    panel.set_xlabel(label, fontsize=12)
    panel.set_xlim(-0.03, 1.03)
    panel.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])


def points(panel: Axes, lines: Sequence[Line], agents: Sequence[str]) -> None:
    """A point with its interval for each agent, the plain one above the one with the objective."""
    for line in lines:
        if line.agent not in agents:
            continue
        offset = 0.0 if line.added is None else APART if line.added else -APART
        colour = PLAIN if line.added is False else ADDED
        height, found = agents.index(line.agent) + offset, line.estimate
        if not np.isnan(found.low):
            ends = [found.low, found.high], [height, height]
            panel.plot(*ends, color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        panel.plot(found.value, height, "o", color=colour, markersize=7)


def legend(lines: Sequence[Line], title: str) -> list[Artist]:
    names = {False: ("without", PLAIN), True: (f"with {title}", ADDED)}
    handles: list[Artist] = [
        Line2D([], [], color=colour, marker="o", markersize=8, linewidth=0, label=name)
        for added, (name, colour) in names.items()
        if any(line.added is added for line in lines)
    ]
    if any(line.chance for line in lines):
        handles.append(Patch(color=CHANCE, label="by chance, in 95 of 100 such experiments"))
    return handles
