"""The picture of an offline report: a panel for each data set, one for all, and one for the probability that the
objective helps."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.comparison.report import ALL, Line
from experiments.files import write_atomically
from experiments.results.curves import COLOURS

PLAIN, ADDED = COLOURS[0], COLOURS[1]
APART = 0.17  # of the two points of an agent, in rows
LABELS = {"bc": "BC", "td3_bc": "TD3+BC", "drqv2_bc": "DrQ-v2+BC", "cql": "CQL", "iql": "IQL", "drqv2": "DrQ-v2"}


def draw(lines: Sequence[Line], out: Path, objective: str) -> None:
    """Draws what `experiments.offline_report.summarize` gives: scores, or returns where there are no scores."""
    title = objective.upper()
    statistic = "score" if any(line.statistic == "score" for line in lines) else "return"
    agents = list(dict.fromkeys(line.agent for line in lines if line.agent != ALL))
    sets = list(dict.fromkeys(line.data for line in lines if line.data != ALL))
    shown = [(data, data, statistic) for data in sets]
    if len(sets) > 1 and statistic == "score":
        shown.append((ALL, "all data, IQM", "IQM score"))
    improvements = [line for line in lines if line.statistic == "P(improvement)"]

    count = len(shown) + bool(improvements)
    figure = Figure(figsize=(1.6 + 2.9 * count, 1.9 + 0.62 * len(agents)), layout="constrained")
    panels = list(figure.subplots(1, count, sharey=True, squeeze=False).flat)
    tasks = {data.split(" ")[0] for data in sets}
    for panel, (data, name, what) in zip(panels, shown, strict=False):
        points(panel, [line for line in lines if (line.data, line.statistic) == (data, what)], agents)
        name = name.split(" ", 1)[1] if len(tasks) == 1 and data != ALL else name
        panel.set_title(name.replace("_", " "), fontsize=14)
        panel.set_xlabel("random 0, expert 100" if statistic == "score" else "episode return", fontsize=12)
        panel.margins(x=0.1)
    if statistic == "score" or len(tasks) == 1:  # then all are on one scale
        limits = [panel.get_xlim() for panel in panels[: len(shown)]]
        for panel in panels[: len(shown)]:
            panel.set_xlim(min(0, *(low for low, _ in limits)), max(high for _, high in limits))
    if improvements:
        panel = panels[-1]
        panel.axvline(0.5, color="0.45", linestyle="--", linewidth=1.4)
        points(panel, improvements, agents)
        panel.set_title(f"P(better with {title})", fontsize=14)
        together = [line.estimate.text(2) for line in improvements if line.agent == ALL]
        panel.set_xlabel(f"all agents: {together[0]}" if together else "probability", fontsize=12)
        panel.set_xlim(-0.03, 1.03)
        panel.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
    for panel in panels:
        dress(panel, [LABELS.get(agent, agent) for agent in agents])
    if len(tasks) == 1:
        figure.suptitle(f"{next(iter(tasks))} from pixels, offline", fontsize=16)
    figure.legend(handles=legend(lines, title), loc="outside lower center", ncols=2, frameon=False, fontsize=12)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=200)
    write_atomically(out, picture.getvalue())


def points(panel: Axes, lines: Sequence[Line], agents: Sequence[str]) -> None:
    """A point with its interval for each agent, the plain one above the one with the objective."""
    for line in lines:
        if line.agent not in agents:
            continue
        offset = 0.0 if line.added is None else APART if line.added else -APART
        colour = PLAIN if line.added is False else ADDED
        height, found = agents.index(line.agent) + offset, line.estimate
        if not np.isnan(found.low):
            panel.plot(
                [found.low, found.high], [height, height], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt"
            )
        panel.plot(found.value, height, "o", color=colour, markersize=7)


def legend(lines: Sequence[Line], title: str) -> list[Line2D]:
    names = {False: ("without", PLAIN), True: (f"with {title}", ADDED)}
    present = [added for added in (False, True) if any(line.added is added for line in lines)]
    return [
        Line2D([], [], color=names[added][1], marker="o", markersize=8, linewidth=0, label=names[added][0])
        for added in present
    ]


def dress(panel: Axes, agents: Sequence[str]) -> None:
    panel.set_yticks(range(len(agents)), agents, fontsize=13)
    panel.set_ylim(len(agents) - 0.5, -0.5)
    panel.tick_params(axis="x", labelsize=11, length=3, color="0.6")
    panel.tick_params(axis="y", length=0)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.spines["bottom"].set_color("0.6")
    panel.grid(axis="x", color="0.92")
    panel.set_axisbelow(True)
